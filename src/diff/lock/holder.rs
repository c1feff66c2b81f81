//! The holder of a lock.

use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};

/// The holder of a diff, as written in the lock file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockHolder {
    /// The holder's process id.
    pub pid: u32,
    /// The holder's host.
    pub host: String,
    /// The holder's mount point; empty if it does not mount.
    pub target: PathBuf,
}

impl fmt::Display for LockHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.pid == 0 {
            return f.write_str("another process");
        }
        write!(f, "pid {} on {}", self.pid, self.host)?;
        if self.target.as_os_str().is_empty() {
            Ok(())
        } else {
            write!(f, " (mounted at {})", self.target.display())
        }
    }
}

impl LockHolder {
    /// Describes this process, which mounts the diff at `target`.
    #[must_use]
    pub fn this_process(target: &Path) -> Self {
        Self {
            pid: std::process::id(),
            host: this_host(),
            target: target.to_owned(),
        }
    }

    /// Whether both name the same process.
    pub(in crate::diff) fn is_same_process(&self, other: &Self) -> bool {
        (self.pid, &self.host) == (other.pid, &other.host)
    }

    /// Whether the process was one of this host and has ended. Processes in another PID
    /// namespace are not visible, so one that is alive there may seem dead.
    #[must_use]
    pub fn has_died(&self) -> bool {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        let (Some(pid), true) = (pid, self.host == this_host()) else {
            return false;
        };
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(process) => has_ended(&process),
            Err(errno) => errno == Errno::SRCH,
        }
    }
}

/// Whether a process has ended, by its descriptor (`pidfd_open(2)`). The descriptor is
/// readable from then on, even if the parent has not reaped the process.
#[must_use]
pub fn has_ended(process: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

/// Returns this host's name; empty if it cannot be determined.
fn this_host() -> String {
    nix::unistd::gethostname().map_or_else(
        |_| String::new(),
        |name| name.to_string_lossy().into_owned(),
    )
}
