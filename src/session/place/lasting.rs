//! The directory for what has to outlast a reboot, unlike the run directory:
//! `/var/lib/pbkfs` for root; for others `$XDG_STATE_HOME/pbkfs`, or
//! `~/.local/state/pbkfs`, or `/var/tmp/pbkfs-UID` for who has no home.

use std::fs::{DirBuilder, metadata};
use std::hash::Hasher;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;

use super::fnv::Fnv;
use crate::session::SessionError;
use crate::untrusted::{Dir, found};

/// Where it is, whether or not it exists.
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
    // Users of services often have one that is not there.
    let is_mine = |home: &PathBuf| metadata(home).is_ok_and(|meta| meta.uid() == uid.as_raw());
    let home = absolute("HOME").filter(is_mine);
    absolute("XDG_STATE_HOME")
        .or_else(|| Some(home?.join(".local/state")))
        .map_or_else(homeless, |dir| dir.join("pbkfs"))
}

/// Where it is of a user without a home.
fn homeless() -> PathBuf {
    format!("/var/tmp/pbkfs-{}", geteuid()).into()
}

/// By what a one-shot job is known that was given no target: always the same for an
/// instance, so that the next one finds what a killed one has left. Its diff goes
/// beside it; it mounts in the run directory, as all of them.
///
/// # Errors
/// Its directory cannot be made.
pub fn job_target(command: &str, catalog: &Path, instance: &str) -> Result<PathBuf, SessionError> {
    const JOBS: &str = "jobs";
    let dir = lasting_root().join(JOBS);
    make(JOBS).map_err(|e| SessionError::io("make the directory for mount points", &dir, e))?;
    let mut hash = Fnv::default();
    hash.write(catalog.as_os_str().as_bytes());
    hash.write(b"\0");
    hash.write(instance.as_bytes());
    Ok(dir.join(format!("{command}-{:016x}", hash.finish())))
}

/// A directory of that name in it; `None` if there is none.
///
/// # Errors
/// It is not this user's alone; the system's own.
pub fn open(name: &str) -> io::Result<Option<Dir>> {
    found(Dir::open_own(&lasting_root()).and_then(|root| root.dir(name)))
}

/// The same, made if there is none.
///
/// # Errors
/// It is not this user's alone; the system's own.
pub fn make(name: &str) -> io::Result<Dir> {
    let path = lasting_root();
    let is_new = !path.exists();
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(&path)?;
    // Once, as it is there from then on.
    if is_new && path == homeless() {
        tracing::warn!(
            target: "pbkfs::once",
            "this user has no home, so histories and lists are kept in {}; XDG_STATE_HOME names \
             another place",
            path.display()
        );
    }
    Dir::open_own(&path)?.dir_or_new(name, 0o755)
}
