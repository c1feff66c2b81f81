//! The present or future holder of a lock.

use std::path::Path;

use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;

use super::error::LockError;
use super::process::{Process, user_name};
use crate::untrusted::{self, Dir};

/// Maximum size of a process's name in bytes; the kernel keeps 16.
const NAME_LIMIT: u64 = 64;

/// A process that holds, or will hold, a lock; always positive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Holder(i32);

impl Holder {
    pub(super) fn alive(dir: &Path, pid: u32) -> Result<Self, LockError> {
        let holder = i32::try_from(pid).ok().filter(|&pid| pid > 0).map(Self);
        match holder {
            Some(holder) if holder.is_alive() => Ok(holder),
            _ => Err(LockError::NoSuchProcess {
                dir: dir.to_owned(),
                pid,
            }),
        }
    }

    /// Parses the pid at the start of `text` as C's `atoi` does, which pg_probackup uses.
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        let text = text.trim_ascii_start();
        let digits = text.iter().take_while(|b| b.is_ascii_digit()).count();
        let number = str::from_utf8(text.get(..digits)?).ok()?.parse().ok()?;
        (number > 0).then_some(Self(number))
    }

    /// Whether the process is running. `EPERM`, for a process that this user may not
    /// signal, means that it is: the kernel finds the process before it checks the
    /// permission.
    pub(super) fn is_alive(self) -> bool {
        kill(Pid::from_raw(self.0), None) != Err(Errno::ESRCH)
    }

    pub(super) fn number(self) -> u32 {
        self.0.unsigned_abs()
    }

    /// Describes the process.
    pub(super) fn process(self) -> Process {
        let pid = self.number();
        let proc = format!("/proc/{pid}");
        let name = untrusted::read(Path::new(&format!("{proc}/comm")), NAME_LIMIT).ok();
        let name = name.map(|name| String::from_utf8_lossy(name.trim_ascii_end()).into_owned());
        let owner = Dir::open(Path::new(&proc)).and_then(|dir| dir.stat_self());
        let user = owner.ok().map(|stat| user_name(stat.uid));
        Process { pid, name, user }
    }
}
