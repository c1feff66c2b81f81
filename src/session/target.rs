//! The mount point.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use super::{SessionError, mounts};
use crate::fuse;

/// What is where the mount is to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Nothing yet.
    Missing,
    /// An empty directory.
    Empty,
    /// The mount of a pbkfs that died.
    Dead,
}

/// Looks at a mount point, and changes nothing.
///
/// # Errors
/// It is in use, holds files, or is no directory; the one above it is missing.
pub fn check(target: &Path) -> Result<Target, SessionError> {
    if let Some(mount) = mounts::at(target)? {
        let answers = fs::read_dir(target);
        return match answers {
            Err(e) if mount.is_ours() && e.raw_os_error() == Some(nix::libc::ENOTCONN) => {
                Ok(Target::Dead)
            }
            _ => Err(SessionError::TargetMounted {
                target: target.to_owned(),
                kind: mount.kind,
            }),
        };
    }
    let mut entries = match fs::read_dir(target) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return missing(target),
        Err(e) if e.kind() == io::ErrorKind::NotADirectory => {
            return Err(SessionError::TargetNotADirectory {
                target: target.to_owned(),
            });
        }
        Err(e) => return Err(SessionError::io("look into", target, e)),
    };
    match entries.next() {
        None => Ok(Target::Empty),
        Some(_) => Err(SessionError::TargetNotEmpty {
            target: target.to_owned(),
        }),
    }
}

/// Only the mount point itself is made: a path that is mistyped further up
/// would leave directories behind.
fn missing(target: &Path) -> Result<Target, SessionError> {
    match target.parent() {
        Some(parent) if !parent.is_dir() => Err(SessionError::TargetParentMissing {
            target: target.to_owned(),
            parent: parent.to_owned(),
        }),
        _ => Ok(Target::Missing),
    }
}

/// Takes dead mounts of ours off a mount point. Several may lie on each
/// other.
///
/// # Errors
/// Those of [`check`] and of unmounting.
pub fn clear(target: &Path) -> Result<bool, SessionError> {
    let mut cleared = false;
    while mounts::at(target)?.is_some() {
        if check(target)? != Target::Dead {
            break;
        }
        fuse::unmount_once(target, true).map_err(|source| fuse::FuseError::Unmount {
            target: target.to_owned(),
            source,
        })?;
        cleared = true;
    }
    Ok(cleared)
}

/// Gets a mount point ready: clears a dead mount off it, makes it if it does
/// not exist. Tells whether it was made.
///
/// # Errors
/// Those of [`check`]; it cannot be made.
pub fn prepare(target: &Path) -> Result<bool, SessionError> {
    if clear(target)? {
        tracing::info!(
            "cleared the mount of a pbkfs that had died off {}",
            target.display()
        );
    }
    if check(target)? == Target::Empty {
        return Ok(false);
    }
    DirBuilder::new()
        .mode(0o700)
        .create(target)
        .map_err(|e| SessionError::io("make the mount point", target, e))?;
    Ok(true)
}

/// Removes a mount point that was made. One that is not empty any more is
/// somebody else's by now, and stays.
///
/// # Errors
/// I/O errors.
pub fn remove(target: &Path) -> Result<(), SessionError> {
    match fs::remove_dir(target) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(SessionError::io("remove the mount point", target, e)),
    }
}
