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

use super::{HeldPlace, Place};
use crate::causes::sentence;
use crate::session::SessionError;
use crate::session::outside::down;
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

/// A session's directory, made if there is none, for its owner alone.
pub fn make_dir(root: &Dir, name: &OsStr) -> Result<Dir, SessionError> {
    let make = || {
        let dir = root.dir_or_new(name, 0o700)?;
        // An older version let everybody in.
        dir.set_mode(0o700)?;
        Ok(dir)
    };
    let path = root.path().join(name);
    make().map_err(|e| SessionError::io("make the directory", &path, e))
}

/// The directory of the mount points of one-shot jobs. No session's directory has
/// such a name: what is in a mount is its clone's word, and no state of ours.
const MOUNTS: &str = "mounts";

/// The one-shot jobs.
const JOBS: [&str; 2] = ["extract", "verify"];

/// More jobs than ever run at once by a profile, up to which the dead ones are looked
/// for.
const MOST: u32 = 32;

/// A mount point for a one-shot job on the clone that a profile has at `target`, and
/// the session's directory for it, held: its own, so that the clone may be up
/// meanwhile, and in the run directory, so that it needs no other. It is the first that
/// is free, as several may run at once. What killed ones of the profile have left is
/// cleared away.
///
/// # Errors
/// [`SessionError::RunDir`]; I/O errors.
pub fn job_place(target: &Path, job: &str) -> Result<(PathBuf, HeldPlace), SessionError> {
    let dir = path().join(MOUNTS);
    let made = make()?.dir_or_new(OsStr::new(MOUNTS), 0o755);
    made.map_err(|e| SessionError::io("make the directory", &dir, e))?;
    let of_profile = Place::of(target);
    let name = of_profile.dir().file_name().unwrap_or_default();
    let name = name.to_string_lossy();
    let point = |job: &str, number: u32| dir.join(format!("{job}-{name}-{number}"));
    for job in JOBS {
        (1..=MOST).for_each(|number| clear_dead(&point(job, number)));
    }
    for number in 1_u32.. {
        let path = point(job, number);
        if let Some(held) = Place::of(&path).try_hold()? {
            return Ok((path, held));
        }
    }
    Err(SessionError::io(
        "find a name in",
        &dir,
        io::ErrorKind::QuotaExceeded.into(),
    ))
}

/// Clears away what a killed job has left. Where that does not work, the next one does
/// it, and this one has its own place.
fn clear_dead(point: &Path) {
    let place = Place::of(point);
    let is_there = place.dir().exists() || fs::symlink_metadata(point).is_ok();
    if !is_there || place.is_held().unwrap_or(true) {
        return;
    }
    if let Err(error) = down::finish_dead(point, None) {
        let point = point.display();
        tracing::warn!(
            "what a killed job left at {point} stays: {}",
            sentence(&error)
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_job_has_a_place_of_its_own_from_the_first_moment() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("clone");
        let (first, held) = job_place(&target, "verify").unwrap();
        // It has no state yet, by which it could be known.
        let (second, other) = job_place(&target, "verify").unwrap();
        assert_ne!(first, second);
        held.remove().unwrap();
        let (again, held) = job_place(&target, "verify").unwrap();
        assert_eq!(again, first);
        // Killed, they are cleared away by a job of the other kind.
        let left = [held.dir().to_owned(), other.dir().to_owned()];
        drop((held, other));
        assert!(left.iter().all(|dir| dir.exists()));
        let (_, held) = job_place(&target, "extract").unwrap();
        assert!(left.iter().all(|dir| !dir.exists()));
        held.remove().unwrap();
    }
}
