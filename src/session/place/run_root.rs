//! The run directory, in which each session has a directory of its own: `/run/pbkfs`
//! for root; for others `$XDG_RUNTIME_DIR/pbkfs`, or `/tmp/pbkfs-UID` if that
//! variable is not usable.
//!
//! Everyone can enter it, but only its user can write to it. One that somebody else
//! created first is not used.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;

use crate::session::SessionError;
use crate::untrusted::{Dir, found};

/// Returns where this user's sessions keep their directories.
#[must_use]
pub fn path() -> PathBuf {
    let uid = geteuid();
    if uid.is_root() {
        return "/run/pbkfs".into();
    }
    // A variable left over from another user's shell is of no use.
    let is_mine = |dir: &PathBuf| fs::metadata(dir).is_ok_and(|meta| meta.uid() == uid.as_raw());
    match std::env::var_os("XDG_RUNTIME_DIR")
        .map(PathBuf::from)
        .filter(is_mine)
    {
        Some(dir) => dir.join("pbkfs"),
        None => format!("/tmp/pbkfs-{uid}").into(),
    }
}

/// Returns where another user's sessions commonly keep theirs.
#[must_use]
pub fn of_user(uid: u32) -> [PathBuf; 2] {
    [
        format!("/run/user/{uid}/pbkfs").into(),
        format!("/tmp/pbkfs-{uid}").into(),
    ]
}

/// Returns whether a target is the mount point of a one-shot job.
#[must_use]
pub fn is_of_job(target: &Path) -> bool {
    target.starts_with(path().join(MOUNTS))
}

/// Opens the run directory; `None` if there is none.
pub fn open() -> Result<Option<Dir>, SessionError> {
    let path = path();
    found(Dir::open_own(&path)).map_err(|source| SessionError::RunDir { path, source })
}

/// Opens the run directory, and creates it if there is none. Others may enter it.
pub fn make() -> Result<Dir, SessionError> {
    let path = path();
    let make = || {
        let (parent, name) = Dir::of_file(&path)?;
        match parent.make_dir(name, 0o755) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
            _ => Ok(()),
        }
    };
    make().map_err(|e| SessionError::io("create the directory", &path, e))?;
    Dir::open_own(&path).map_err(|source| SessionError::RunDir { path, source })
}

/// Opens a session's directory. A new one is created for its owner alone; an existing one
/// is left as it is, because a session may be using it.
pub fn make_dir(root: &Dir, name: &OsStr) -> Result<Dir, SessionError> {
    let made = root.dir_or_new(name, 0o700);
    made.map_err(|e| SessionError::io("create the directory", &root.path().join(name), e))
}

/// Closes a session's directory to everyone but its owner, whatever an earlier session or
/// an older version did. It must be held first: a live session has let its server's user
/// in.
pub fn close(dir: &Dir) -> Result<(), SessionError> {
    let closed = dir.set_mode(0o700);
    closed.map_err(|e| SessionError::io("change the mode of", dir.path(), e))
}

/// The directory of the mount points of one-shot jobs. No session's directory can
/// have this name, so the content of a mount, which its clone controls, is never
/// taken for our state.
pub const MOUNTS: &str = "mounts";
