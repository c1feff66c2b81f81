//! Starting an ordinary server, which pbkfs leaves to itself.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::Binaries;
use super::error::ServerError;
use super::spawn::{become_child, clean_environment};
use super::user::OsUser;
use crate::escape::value;
use crate::program::{self, Unfinished};

/// The file in the data directory that receives what the server says before it logs
/// where its configuration says.
const LOG: &str = "pbkfs-start.log";

/// How much of what pg_ctl says is kept.
const SAID: usize = 4096;

impl Binaries {
    /// Starts the server on a data directory by `pg_ctl`, and waits until it answers.
    ///
    /// # Errors
    /// Returns [`ServerError::RunFailed`] with what pg_ctl said if it does not.
    pub fn start(
        &self,
        data_dir: &Path,
        run_as: Option<OsUser>,
        patience: Duration,
    ) -> Result<(), ServerError> {
        let program = self.dir.join("pg_ctl");
        let mut command = Command::new(&program);
        clean_environment(&mut command);
        command
            .args(["start", "--wait", "--timeout"])
            .arg(patience.as_secs().max(1).to_string())
            .arg("-D")
            .arg(data_dir)
            .arg("--log")
            .arg(data_dir.join(LOG))
            .current_dir("/")
            .stdin(Stdio::null());
        become_child(&mut command, run_as);
        let deadline = Instant::now() + patience + Duration::from_secs(5);
        match program::run(&mut command, deadline, SAID) {
            Ok(ended) if ended.status.success() => Ok(()),
            Ok(ended) => Err(ServerError::RunFailed {
                program,
                status: ended.status,
                stderr: format!(
                    "{}; see {}",
                    ended.stderr.trim(),
                    value(&data_dir.join(LOG))
                ),
            }),
            Err(Unfinished::TimedOut { .. }) => Err(ServerError::RunTimeout {
                program,
                timeout: patience,
            }),
            Err(Unfinished::Failed(source)) => Err(ServerError::Run { program, source }),
        }
    }
}
