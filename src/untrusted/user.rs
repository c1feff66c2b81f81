//! Doing something with another user's rights to files.

use std::io;
use std::thread;

use nix::unistd::{Gid, Uid, geteuid, setfsgid, setfsuid};
use rustix::thread::set_thread_groups;

/// Whose rights: a user with all groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rights {
    /// The user.
    pub uid: u32,
    /// The primary group.
    pub gid: u32,
    /// All groups.
    pub groups: Vec<u32>,
}

/// Does `work` with the rights of `rights`, where this process is root and
/// another user is meant; else as it is.
///
/// The work gets a thread of its own, which becomes that user for whatever
/// concerns files (`setfsuid(2)`) and ends with the work: on Linux, a user
/// belongs to a thread, and only libraries make it one of the process.
///
/// # Errors
/// The rights cannot be taken on; what the work fails with.
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
    // These two cannot fail but by doing nothing, which the second call tells.
    setfsgid(gid);
    setfsuid(uid);
    match setfsuid(uid) == uid && setfsgid(gid) == gid {
        true => Ok(()),
        false => Err(io::ErrorKind::PermissionDenied.into()),
    }
}
