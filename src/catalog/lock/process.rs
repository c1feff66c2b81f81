//! The processes that lock files name.

use std::fmt;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::{Pid, Uid, User};

use super::LockError;
use crate::escape::value;
use crate::untrusted::{self, Dir};

/// The most that a process's name has, in bytes; the kernel keeps 16.
const NAME_LIMIT: u64 = 64;

/// A process that holds, or is to hold, a lock; always positive.
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

    /// The pid at the start of `text`, as C's `atoi` reads it, which is what
    /// pg_probackup uses.
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        let text = text.trim_ascii_start();
        let digits = text.iter().take_while(|b| b.is_ascii_digit()).count();
        let number = str::from_utf8(text.get(..digits)?).ok()?.parse().ok()?;
        (number > 0).then_some(Self(number))
    }

    /// Whether the process lives. One that this user may not signal (`EPERM`)
    /// does: the kernel has looked for it before it looked at the right.
    pub(super) fn is_alive(self) -> bool {
        kill(Pid::from_raw(self.0), None) != Err(Errno::ESRCH)
    }

    pub(super) fn number(self) -> u32 {
        self.0.unsigned_abs()
    }

    /// Who it is.
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

/// A process that a lock file names, as far as this user can see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its pid.
    pub pid: u32,
    /// Its program's name.
    pub name: Option<String>,
    /// Its user's name, or number.
    pub user: Option<String>,
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {}", self.pid)?;
        match (&self.name, &self.user) {
            (Some(name), Some(user)) => write!(f, " ({} of user {})", value(name), value(user)),
            (Some(name), None) => write!(f, " ({})", value(name)),
            (None, Some(user)) => write!(f, " (of user {})", value(user)),
            (None, None) => Ok(()),
        }
    }
}

/// Whose a path is, or, where that cannot be told, the directory that hides it.
pub fn owner_of(path: &Path) -> Option<u32> {
    let owner = |path: &Path| {
        let (dir, name) = Dir::of_file(path).ok()?;
        Some(dir.stat(name).ok()??.uid)
    };
    path.ancestors().find_map(owner)
}

/// A user's name, or the number where there is none.
pub fn user_name(uid: u32) -> String {
    let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
    user.map_or_else(|| uid.to_string(), |user| user.name)
}
