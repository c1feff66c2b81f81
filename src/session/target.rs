//! The mount point.

use std::io;
use std::path::Path;

use nix::unistd::geteuid;

use super::{SessionError, mounts};
use crate::fuse;
use crate::untrusted::{Dir, check_way};

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
        let answers = Dir::open(target).and_then(|dir| dir.names());
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
    let names = match Dir::open(target).and_then(|dir| dir.names()) {
        Ok(names) => names,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return missing(target),
        Err(e) if e.kind() == io::ErrorKind::NotADirectory => {
            return Err(SessionError::TargetNotADirectory {
                target: target.to_owned(),
            });
        }
        Err(e) => return Err(SessionError::io("look into", target, e)),
    };
    match names.is_empty() {
        true => Ok(Target::Empty),
        false => Err(SessionError::TargetNotEmpty {
            target: target.to_owned(),
        }),
    }
}

/// Checks that no other user can lead root's mount elsewhere; `server` is whom
/// PostgreSQL runs as, by user and group.
///
/// # Errors
/// [`SessionError::UnsafeTarget`].
pub fn check_safe(target: &Path, server: (u32, u32)) -> Result<(), SessionError> {
    if !geteuid().is_root() {
        return Ok(());
    }
    match check_way(target, &[server]) {
        // That is told by what looks for the target itself.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        checked => checked.map_err(|source| SessionError::UnsafeTarget {
            target: target.to_owned(),
            source,
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
    let make = || {
        let (parent, name) = Dir::of_file(target)?;
        parent.make_dir(name, 0o700).map(drop)
    };
    make().map_err(|e| SessionError::io("make the mount point", target, e))?;
    Ok(true)
}

/// Removes a mount point that was made. One that is not empty any more is
/// somebody else's by now, and stays.
///
/// # Errors
/// I/O errors.
pub fn remove(target: &Path) -> Result<(), SessionError> {
    let removed = Dir::of_file(target).and_then(|(parent, name)| parent.remove_dir(name));
    removed.map_err(|e| SessionError::io("remove the mount point", target, e))
}
