//! The run directory, in which each session has a directory of its own:
//! `/run/pbkfs` for root; for others `$XDG_RUNTIME_DIR/pbkfs`, or
//! `/tmp/pbkfs-UID` where there is none.
//!
//! It can be entered by everybody and written by its user alone; one that
//! somebody else made first is not used.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;

use crate::session::SessionError;
use crate::untrusted::{Dir, found};

/// Where sessions of this user keep their directories.
#[must_use]
pub fn path() -> PathBuf {
    let uid = geteuid();
    if uid.is_root() {
        return "/run/pbkfs".into();
    }
    // Left over from another user's shell it is of no use.
    let is_mine = |dir: &PathBuf| fs::metadata(dir).is_ok_and(|meta| meta.uid() == uid.as_raw());
    match std::env::var_os("XDG_RUNTIME_DIR")
        .map(PathBuf::from)
        .filter(is_mine)
    {
        Some(dir) => dir.join("pbkfs"),
        None => format!("/tmp/pbkfs-{uid}").into(),
    }
}

/// Where another user's sessions commonly keep theirs.
#[must_use]
pub fn of_user(uid: u32) -> [PathBuf; 2] {
    [
        format!("/run/user/{uid}/pbkfs").into(),
        format!("/tmp/pbkfs-{uid}").into(),
    ]
}

/// Whether a target is the mount point of a one-shot job.
#[must_use]
pub fn is_of_job(target: &Path) -> bool {
    target.starts_with(path().join(MOUNTS))
}

/// The run directory, opened; `None` if there is none.
pub fn open() -> Result<Option<Dir>, SessionError> {
    let path = path();
    found(Dir::open_own(&path)).map_err(|source| SessionError::RunDir { path, source })
}

/// The run directory, made if there is none. Others may enter it.
pub fn make() -> Result<Dir, SessionError> {
    let path = path();
    let make = || {
        let (parent, name) = Dir::of_file(&path)?;
        match parent.make_dir(name, 0o755) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
            _ => Ok(()),
        }
    };
    make().map_err(|e| SessionError::io("make the directory", &path, e))?;
    Dir::open_own(&path).map_err(|source| SessionError::RunDir { path, source })
}

/// A session's directory. One that is made is for its owner alone; one that is there is
/// left as it is, as a session may live in it.
pub fn make_dir(root: &Dir, name: &OsStr) -> Result<Dir, SessionError> {
    let made = root.dir_or_new(name, 0o700);
    made.map_err(|e| SessionError::io("make the directory", &root.path().join(name), e))
}

/// Lets nobody but its owner into a session's directory, whatever a session before or an
/// older version did. Not before it is held: one that lives has let its server's user in.
pub fn close(dir: &Dir) -> Result<(), SessionError> {
    let closed = dir.set_mode(0o700);
    closed.map_err(|e| SessionError::io("set the mode of", dir.path(), e))
}

/// The directory of the mount points of one-shot jobs. No session's directory has
/// such a name: what is in a mount is its clone's word, and no state of ours.
pub const MOUNTS: &str = "mounts";
