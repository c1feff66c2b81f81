//! What a holder leaves that was killed: lines in lock files. A session's state says
//! which those are, by the holder's pid and start, so that nothing else is taken away.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Answer, SUBCOMMAND, become_owner};
use crate::catalog::lock::{self, LockError};
use crate::causes::sentence;
use crate::server::own_program;
use crate::session::SessionError;
use crate::session::outside::owner::wait_until;
use crate::session::place::state::process_start;

/// How long a holder has to let go after its session's owner has died.
const LETTING_GO: Duration = Duration::from_secs(5);

/// Who holds which locks, as a session's state tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReadLocks {
    /// The process that the lock files name.
    pub holder_pid: u32,
    /// When it began, in clock ticks since the boot.
    pub holder_start: Option<u64>,
    /// The directories of the locked backups, the FULL's first.
    pub dirs: Vec<PathBuf>,
}

impl ReadLocks {
    fn is_held(&self) -> bool {
        self.holder_start.is_some() && process_start(self.holder_pid) == self.holder_start
    }

    /// Takes away what the holder has left, if it was killed, after its session's
    /// owner had died. One that lives lets go by itself. What cannot be taken away is
    /// logged: pg_probackup takes the lock of a dead process for none.
    pub fn clear(&self) {
        match wait_until(LETTING_GO, || Ok(!self.is_held())) {
            Ok(true) => {}
            Ok(false) | Err(_) => return,
        }
        if let Err(error) = forget(self.holder_pid, &self.dirs) {
            tracing::warn!("a lock of a dead process stays: {error}");
        }
    }
}

/// Has another holder take away what a killed one has left.
pub(super) fn forget(killed: u32, dirs: &[PathBuf]) -> Result<(), SessionError> {
    let program = own_program();
    let mut command = Command::new(&program);
    command.arg0("pbkfs").args([SUBCOMMAND, "--forget"]);
    command.arg(killed.to_string()).args(dirs);
    command.stdin(Stdio::null()).process_group(0);
    let ended = command.output();
    let ended = ended.map_err(|e| SessionError::io("run", &program, e))?;
    match ended.status.success() {
        true => Ok(()),
        false => Err(SessionError::Locks {
            message: String::from_utf8_lossy(ended.stderr.trim_ascii()).into_owned(),
        }),
    }
}

/// The hidden subcommand's other work: becomes the catalog's owner, and takes away
/// what the holder `killed` has left. A backup that is gone has no locks.
///
/// # Errors
/// [`SessionError::Locks`].
pub fn forget_locks(dirs: &[PathBuf], killed: u32) -> Result<(), SessionError> {
    let failed = |error: LockError| SessionError::Locks {
        message: sentence(&error),
    };
    let mut opened = Vec::new();
    for dir in dirs {
        match lock::open(std::slice::from_ref(dir)) {
            Ok(dirs) => opened.extend(dirs),
            Err(LockError::Gone { .. }) => {}
            Err(error) => return Err(failed(error)),
        }
    }
    if let Some(Err(Answer::Failed(message))) = opened.first().map(|dir| become_owner(dir)) {
        return Err(SessionError::Locks { message });
    }
    // The target's first, as a holder lets go.
    for dir in opened.iter().rev() {
        lock::forget(dir, killed).map_err(failed)?;
    }
    Ok(())
}
