//! The directory for what has to survive a reboot, unlike the run directory:
//! `/var/lib/pbkfs` for root; for others `$XDG_STATE_HOME/pbkfs`, or
//! `~/.local/state/pbkfs`, or `/var/tmp/pbkfs-UID` for users without a home directory.

use std::fs::{DirBuilder, metadata};
use std::hash::Hasher;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::PathBuf;

use nix::unistd::geteuid;

use super::fnv::Fnv;
use crate::catalog::Location;
use crate::session::SessionError;
use crate::untrusted::{Dir, found};

/// Returns where it is, whether or not it exists.
#[must_use]
pub fn lasting_root() -> PathBuf {
    let uid = geteuid();
    if uid.is_root() {
        return "/var/lib/pbkfs".into();
    }
    let absolute = |name: &str| {
        let path = PathBuf::from(std::env::var_os(name)?);
        path.is_absolute().then_some(path)
    };
    // Service users often have a home directory that does not exist.
    let is_mine = |home: &PathBuf| metadata(home).is_ok_and(|meta| meta.uid() == uid.as_raw());
    let home = absolute("HOME").filter(is_mine);
    absolute("XDG_STATE_HOME")
        .or_else(|| Some(home?.join(".local/state")))
        .map_or_else(homeless, |dir| dir.join("pbkfs"))
}

/// Returns where it is for a user without a home directory.
fn homeless() -> PathBuf {
    format!("/var/tmp/pbkfs-{}", geteuid()).into()
}

/// Returns the path that identifies a one-shot job without a target. It is always
/// the same for an instance, so that the next job finds what a killed one has
/// left. The job's diff is created beside it; the job mounts in the run
/// directory, like all others.
///
/// # Errors
/// If its directory cannot be created.
pub fn job_target(
    command: &str,
    catalog: &Location,
    instance: &str,
) -> Result<PathBuf, SessionError> {
    const JOBS: &str = "jobs";
    let dir = lasting_root().join(JOBS);
    make(JOBS).map_err(|e| SessionError::io("create the directory for mount points", &dir, e))?;
    let mut hash = Fnv::default();
    hash.write(catalog.name().as_os_str().as_bytes());
    hash.write(b"\0");
    hash.write(instance.as_bytes());
    Ok(dir.join(format!("{command}-{:016x}", hash.finish())))
}

/// Opens the directory of that name in it; `None` if there is none.
///
/// # Errors
/// If it is not this user's alone; I/O errors.
pub fn open(name: &str) -> io::Result<Option<Dir>> {
    found(Dir::open_own(&lasting_root()).and_then(|root| root.dir(name)))
}

/// Does the same, but creates the directory if there is none.
///
/// # Errors
/// If it is not this user's alone; I/O errors.
pub fn make(name: &str) -> io::Result<Dir> {
    let path = lasting_root();
    let is_new = !path.exists();
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(&path)?;
    // Warn only once: the directory exists from then on.
    if is_new && path == homeless() {
        tracing::warn!(
            target: "pbkfs::once",
            "this user has no home directory, so histories and lists are kept in {}; set \
             XDG_STATE_HOME to keep them elsewhere",
            path.display()
        );
    }
    Dir::open_own(&path)?.dir_or_new(name, 0o755)
}
