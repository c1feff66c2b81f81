//! File operations with another user's permissions.

use std::io;
use std::thread;

use nix::unistd::{Gid, Uid, geteuid, setfsgid, setfsuid};
use rustix::thread::set_thread_groups;

/// A user with all groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rights {
    /// The user.
    pub uid: u32,
    /// The primary group.
    pub gid: u32,
    /// All groups.
    pub groups: Vec<u32>,
}

/// Runs `work` with the permissions of `rights` if this process is root and `rights`
/// are given; otherwise with its own.
///
/// The work runs in a thread of its own, which becomes that user for file access
/// (`setfsuid(2)`) and ends with the work. On Linux, credentials belong to a thread;
/// only libraries apply them to the whole process.
///
/// # Errors
/// If the permissions cannot be assumed, or if `work` fails.
pub fn as_user<T: Send>(
    rights: Option<&Rights>,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    let Some(rights) = rights.filter(|_| geteuid().is_root()) else {
        return work();
    };
    thread::scope(|scope| {
        let worker = scope.spawn(|| {
            become_user(rights)?;
            work()
        });
        let joined = worker.join();
        joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn become_user(rights: &Rights) -> io::Result<()> {
    let groups = rights.groups.iter().copied();
    let groups: Vec<_> = groups.map(rustix::process::Gid::from_raw).collect();
    set_thread_groups(&groups)?;
    let (uid, gid) = (Uid::from_raw(rights.uid), Gid::from_raw(rights.gid));
    // These calls report no error; a second call returns the resulting id.
    setfsgid(gid);
    setfsuid(uid);
    match setfsuid(uid) == uid && setfsgid(gid) == gid {
        true => Ok(()),
        false => Err(io::ErrorKind::PermissionDenied.into()),
    }
}
