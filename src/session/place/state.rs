//! What a session's owner records for others: `status`, `down`, and the next `up`
//! should the owner be killed.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::clock::now;

/// The phase of a session.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Being set up.
    #[default]
    Starting,
    /// Mounted; the server, if there is one, answers.
    Ready,
    /// Shutting down.
    Stopping,
    /// Ended by an error, after it had been ready in the background.
    Failed,
}

/// A session's state, as in `session.json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct State {
    /// The owner's process id.
    pub pid: u32,
    /// Its phase.
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
    /// Whether the diff is removed with the session.
    pub throw_away: bool,
    /// Whether the session created the mount point.
    pub made_target: bool,
    /// Whether PostgreSQL is running on it, or is going to.
    #[serde(default)]
    pub with_server: bool,
    /// The level of its server's fence.
    #[serde(default)]
    pub fence: Option<String>,
    /// The control group of its server.
    #[serde(default)]
    pub cgroup: Option<PathBuf>,
    /// The holder of the read locks on its chain.
    #[serde(default)]
    pub locks: Option<ReadLocks>,
    /// When it started, in RFC 3339 format.
    pub since: String,
    /// A libpq connection string, once the server answers.
    pub conninfo: Option<String>,
    /// The server's port.
    pub port: Option<u16>,
    /// The server's process id.
    pub server_pid: Option<u32>,
    /// When the server's process started, in clock ticks since boot: together with its
    /// pid, this identifies a process for good.
    pub server_start: Option<u64>,
    /// The error that ended it, if it failed.
    pub error: Option<String>,
}

impl State {
    /// Returns the initial state of this process's session on `target`.
    #[must_use]
    pub fn begin(target: &Path) -> Self {
        Self {
            pid: std::process::id(),
            target: target.to_owned(),
            since: now(),
            ..Self::default()
        }
    }
}

/// The holder of the read locks and what it has locked, as recorded in a session's state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReadLocks {
    /// The process named in the lock files.
    pub holder_pid: u32,
    /// When it started, in clock ticks since boot.
    pub holder_start: Option<u64>,
    /// The directories of the locked backups, FULL first.
    pub dirs: Vec<PathBuf>,
}

impl ReadLocks {
    /// Returns whether their holder is alive.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.holder_start.is_some() && process_start(self.holder_pid) == self.holder_start
    }
}

/// Returns when a process started, in clock ticks since boot; `None` if there is no
/// such process. This is field 22 of `proc_pid_stat(5)`.
#[must_use]
pub fn process_start(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses, which may itself contain
    // spaces and parentheses.
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
