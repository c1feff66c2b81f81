//! The processes that lock files name, for display.

use std::fmt;
use std::path::Path;

use nix::unistd::{Uid, User};

use crate::escape::value;
use crate::untrusted::Dir;

/// A process that a lock file names, as far as it is visible to this user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its pid.
    pub pid: u32,
    /// Its program's name.
    pub name: Option<String>,
    /// Its user's name or number.
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

/// Returns the owner of a path or, if that cannot be determined, of the directory that
/// hides it.
pub(crate) fn owner_of(path: &Path) -> Option<u32> {
    let owner = |path: &Path| {
        let (dir, name) = Dir::of_file(path).ok()?;
        Some(dir.stat(name).ok()??.uid)
    };
    path.ancestors().find_map(owner)
}

/// Returns a user's name, or the number if there is no name.
pub(crate) fn user_name(uid: u32) -> String {
    let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
    user.map_or_else(|| uid.to_string(), |user| user.name)
}
