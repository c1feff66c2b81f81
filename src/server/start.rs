//! Starting an ordinary server, which pbkfs leaves to itself.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::Binaries;
use super::conf::line::{Line, parse};
use super::error::ServerError;
use super::spawn::{become_child, clean_environment};
use super::user::OsUser;
use crate::escape::value;
use crate::program;
use crate::untrusted::{Dir, SMALL};

/// The file in the data directory that receives what the server says before it logs
/// where its configuration says.
const LOG: &str = "pbkfs-start.log";

/// How much of what pg_ctl says is kept.
const SAID: usize = 4096;

/// Where Debian has the configuration of each cluster: `MAJOR/NAME/postgresql.conf`.
const DEBIAN: &str = "/etc/postgresql";

/// How a server is started on a data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Starter {
    /// By `pg_ctl`, with the configuration in the data directory.
    PgCtl,
    /// By Debian's `pg_ctlcluster`, as the cluster of this name, whose configuration
    /// names the data directory.
    PgCtlCluster {
        /// The major version.
        major: u32,
        /// The cluster's name.
        name: String,
    },
}

impl Starter {
    /// Finds out how a server can be started on a data directory; `None` if its
    /// configuration is not known.
    #[must_use]
    pub fn find(data_dir: &Path, major: u32) -> Option<Self> {
        Self::find_in(Path::new(DEBIAN), data_dir, major)
    }

    fn find_in(debian: &Path, data_dir: &Path, major: u32) -> Option<Self> {
        if data_dir.join("postgresql.conf").exists() {
            return Some(Self::PgCtl);
        }
        let clusters = Dir::open(&debian.join(major.to_string())).ok()?;
        let is_of = |name: &std::ffi::OsString| {
            let conf = clusters.read(Path::new(name).join("postgresql.conf"), SMALL);
            let directory = conf.ok().and_then(|conf| data_directory(&conf));
            directory.is_some_and(|directory| directory == data_dir)
        };
        let name = clusters.names().ok()?.into_iter().find(is_of)?;
        let name = name.into_string().ok()?;
        Some(Self::PgCtlCluster { major, name })
    }

    /// Returns the command that starts it, for people.
    #[must_use]
    pub fn command(&self, data_dir: &Path) -> String {
        match self {
            Self::PgCtl => format!("pg_ctl start -D {}", value(data_dir)),
            Self::PgCtlCluster { major, name } => {
                format!("pg_ctlcluster {major} {} start", value(name))
            }
        }
    }
}

/// Returns the major version of a data directory; `None` if it cannot be read.
#[must_use]
pub fn major_of(data_dir: &Path) -> Option<u32> {
    let text = Dir::open(data_dir).and_then(|dir| dir.read("PG_VERSION", SMALL));
    str::from_utf8(&text.ok()?).ok()?.trim().parse().ok()
}

/// Returns the last `data_directory` of a configuration file.
fn data_directory(conf: &[u8]) -> Option<PathBuf> {
    let lines = conf.split(|byte| *byte == b'\n');
    let mut values = lines.filter_map(|line| match parse(line) {
        Line::Setting(name, value) if name == "data_directory" => Some(value),
        _ => None,
    });
    let value = values.next_back()?;
    Some(PathBuf::from(String::from_utf8(value).ok()?))
}

impl Binaries {
    /// Starts a server on a data directory, and waits until it answers.
    ///
    /// # Errors
    /// Returns [`ServerError::RunFailed`] with what the program said if it does not.
    pub fn start(
        &self,
        starter: &Starter,
        data_dir: &Path,
        run_as: Option<OsUser>,
        patience: Duration,
    ) -> Result<(), ServerError> {
        let seconds = patience.as_secs().max(1).to_string();
        let (program, mut command) = match starter {
            Starter::PgCtl => {
                let program = self.dir.join("pg_ctl");
                let mut command = Command::new(&program);
                command.args(["start", "--wait", "--timeout", &seconds]);
                command.arg("-D").arg(data_dir);
                command.arg("--log").arg(data_dir.join(LOG));
                (program, command)
            }
            Starter::PgCtlCluster { major, name } => {
                let program = PathBuf::from("pg_ctlcluster");
                let mut command = Command::new(&program);
                // Else systemd would be asked, which may know no unit of it.
                command.args([
                    "--skip-systemctl-redirect",
                    &major.to_string(),
                    name,
                    "start",
                ]);
                command.args(["--", "-t", &seconds]);
                (program, command)
            }
        };
        clean_environment(&mut command);
        command.current_dir("/").stdin(Stdio::null());
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
            Err(unfinished) => Err(ServerError::unfinished(&program, patience, unfinished)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_cluster_of_debian_is_known_by_its_data_directory() {
        let temp = tempfile::tempdir().unwrap();
        let (etc, data) = (temp.path().join("etc"), temp.path().join("data"));
        fs::create_dir(&data).unwrap();
        for (name, directory) in [
            ("main", "/var/lib/postgresql/15/main".into()),
            ("new", data.display().to_string()),
        ] {
            let dir = etc.join("15").join(name);
            fs::create_dir_all(&dir).unwrap();
            let conf = format!(
                "#data_directory = '/x'\nport = 5432\ndata_directory = '{directory}' # here\n"
            );
            fs::write(dir.join("postgresql.conf"), conf).unwrap();
        }
        let found = Starter::find_in(&etc, &data, 15).unwrap();
        assert_eq!(found.command(&data), "pg_ctlcluster 15 new start");
        assert_eq!(Starter::find_in(&etc, &data, 17), None);
        assert_eq!(Starter::find_in(&etc, &temp.path().join("other"), 15), None);
        fs::write(data.join("postgresql.conf"), "").unwrap();
        assert_eq!(Starter::find_in(&etc, &data, 15), Some(Starter::PgCtl));
    }
}
