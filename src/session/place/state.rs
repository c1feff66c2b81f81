//! What a session's owner writes down for others: `status`, `down`, and the
//! next `up` should the owner be killed.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::clock::now;

/// How far a session is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Being set up.
    Starting,
    /// Mounted; the server, if there is one, answers.
    Ready,
    /// Being ended.
    Stopping,
    /// Ended by an error, after it had been ready in the background.
    Failed,
}

/// A session's state, as in `session.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct State {
    /// The owner's process id.
    pub pid: u32,
    /// How far it is.
    pub phase: Phase,
    /// The profile that it was started from.
    pub profile: Option<PathBuf>,
    /// The mount point.
    pub target: PathBuf,
    /// The catalog.
    pub catalog: PathBuf,
    /// The instance.
    pub instance: String,
    /// The backup's id; empty until it is known.
    pub backup: String,
    /// The chain's ids, FULL first.
    pub chain: Vec<String>,
    /// The diff.
    pub diff_dir: Option<PathBuf>,
    /// Whether the diff goes with the session.
    pub throw_away: bool,
    /// Whether the session made the mount point.
    pub made_target: bool,
    /// Whether PostgreSQL runs on it, or is going to.
    #[serde(default)]
    pub with_server: bool,
    /// What the fence of its server is made of.
    #[serde(default)]
    pub fence: Option<String>,
    /// The control group that its server is in.
    #[serde(default)]
    pub cgroup: Option<PathBuf>,
    /// Who holds the read locks on its chain.
    #[serde(default)]
    pub locks: Option<ReadLocks>,
    /// When it began, in RFC 3339.
    pub since: String,
    /// A libpq connection string, once the server answers.
    pub conninfo: Option<String>,
    /// The server's port.
    pub port: Option<u16>,
    /// The server's process id.
    pub server_pid: Option<u32>,
    /// When the server's process began, in clock ticks since the boot: with
    /// its pid, that names a process for good.
    pub server_start: Option<u64>,
    /// What ended it, if it failed.
    pub error: Option<String>,
}

impl State {
    /// The state of this process's session on `target`, of which nothing is
    /// known yet.
    #[must_use]
    pub fn begin(target: &Path) -> Self {
        Self {
            pid: std::process::id(),
            phase: Phase::Starting,
            profile: None,
            target: target.to_owned(),
            catalog: PathBuf::new(),
            instance: String::new(),
            backup: String::new(),
            chain: Vec::new(),
            diff_dir: None,
            throw_away: false,
            made_target: false,
            with_server: false,
            fence: None,
            cgroup: None,
            locks: None,
            since: now(),
            conninfo: None,
            port: None,
            server_pid: None,
            server_start: None,
            error: None,
        }
    }
}

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
    /// Whether their holder lives.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.holder_start.is_some() && process_start(self.holder_pid) == self.holder_start
    }
}

/// When a process began, in clock ticks since the boot; `None` if there is no
/// such process. Field 22 of `proc_pid_stat(5)`.
#[must_use]
pub fn process_start(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses, which may hold
    // spaces and parentheses itself.
    let (_, after_name) = stat.rsplit_once(") ")?;
    after_name.split(' ').nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_named_by_pid_and_start() {
        let mine = process_start(std::process::id()).unwrap();
        let parent = process_start(std::os::unix::process::parent_id()).unwrap();
        assert!(parent <= mine);
        assert_eq!(process_start(0), None);
    }
}
