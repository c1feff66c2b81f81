//! The mount point.

use std::io;
use std::path::Path;

use nix::unistd::{geteuid, getgid, getuid};

use crate::fuse::{self, MountPoint};
use crate::profile::Plan;
use crate::server::OsUser;
use crate::session::outside::orphans;
use crate::session::place::canonical;
use crate::session::place::mounts::{self, MountEntry};
use crate::session::{SessionError, TargetError};
use crate::untrusted::{self, Dir, Refused};

/// What is at the mount point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Nothing yet.
    Missing,
    /// An empty directory.
    Empty,
    /// The mount of a pbkfs that died.
    Dead,
}

/// Checks a mount point, and changes nothing.
///
/// # Errors
/// If it is in use, is inside another clone, holds files, or is not a directory; or if
/// the directory above it is missing.
pub fn check(target: &Path) -> Result<Target, SessionError> {
    if let Some(mount) = mounts::at(target)? {
        return judge(target, &mount);
    }
    if let Some(mount) = mounts::around(target)?.filter(MountEntry::is_ours) {
        return Err(TargetError::Inside {
            target: target.to_owned(),
            mount: mount.target,
        }
        .into());
    }
    match Dir::open(target) {
        Ok(dir) => check_empty(&dir).map(|()| Target::Empty),
        Err(e) if e.kind() == io::ErrorKind::NotFound => missing(target),
        Err(e) if e.kind() == io::ErrorKind::NotADirectory => Err(TargetError::NotADirectory {
            target: target.to_owned(),
        }
        .into()),
        Err(e) => Err(SessionError::io("read", target, e)),
    }
}

/// Checks what is mounted there.
fn judge(target: &Path, mount: &MountEntry) -> Result<Target, SessionError> {
    let target = target.to_owned();
    if !mount.is_ours() {
        let kind = mount.kind.clone();
        return Err(TargetError::Mounted { target, kind }.into());
    }
    let answers = MountPoint::find(&target)
        .and_then(|point| point.mounted())
        .map(|held| match held.number == mount.id {
            true => Dir::open(&held.path()).and_then(|dir| dir.names()),
            // Another mount is there now, which is not known to be dead.
            false => Ok(Vec::new()),
        });
    match answers {
        Ok(Err(e)) if e.raw_os_error() == Some(nix::libc::ENOTCONN) => Ok(Target::Dead),
        _ => {
            let pid = orphans::holder_of(&target);
            Err(TargetError::Served { target, pid }.into())
        }
    }
}

fn check_empty(dir: &Dir) -> Result<(), SessionError> {
    let names = dir.names();
    let names = names.map_err(|e| SessionError::io("read", dir.path(), e))?;
    match names.is_empty() {
        true => Ok(()),
        false => Err(TargetError::NotEmpty {
            target: dir.path().to_owned(),
        }
        .into()),
    }
}

/// Checks that no other user can redirect root's mount, using the path as it was given.
/// `server` is the user and group that PostgreSQL runs as.
///
/// # Errors
/// Returns [`TargetError::Unsafe`] if another user can.
pub fn check_safe(given: &Path, server: (u32, u32)) -> Result<(), SessionError> {
    let unsafe_target = unsafe_target(given);
    let point = match lead(given, server) {
        // The check of the target itself reports that.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        point => point.map_err(&unsafe_target)?,
    };
    match point.parent().dir(point.name()) {
        Ok(dir) => check_owner(&dir, server).map_err(unsafe_target),
        // Either the same is true here, or this is a dead mount of ours,
        // which does not answer.
        Err(_) => Ok(()),
    }
}

fn check_owner(dir: &Dir, server: (u32, u32)) -> io::Result<()> {
    match geteuid().is_root() {
        true => untrusted::check_owner(dir, &[server]),
        false => Ok(()),
    }
}

fn unsafe_target(target: &Path) -> impl Fn(io::Error) -> SessionError {
    move |source| {
        TargetError::Unsafe {
            target: target.to_owned(),
            source,
        }
        .into()
    }
}

/// Opens the directory that contains the mount point. For root, nobody else may be able
/// to redirect the path to it.
fn lead(given: &Path, server: (u32, u32)) -> io::Result<MountPoint> {
    if !geteuid().is_root() {
        return MountPoint::find(&canonical(given));
    }
    // The server's group may have other members, who are not trusted with anything.
    let trusted = (server.0, 0);
    let (parent, name) = untrusted::lead(&std::path::absolute(given)?, &[trusted])?;
    let path = parent.path().join(&name);
    Ok(MountPoint::new(path, parent, name))
}

/// Returns [`Target::Missing`] if the directory above exists. Only the
/// mount point itself is created: a path that is mistyped further up would
/// leave directories behind.
fn missing(target: &Path) -> Result<Target, SessionError> {
    match target.parent() {
        Some(parent) if !parent.is_dir() => Err(TargetError::ParentMissing {
            target: target.to_owned(),
            parent: parent.to_owned(),
        }
        .into()),
        _ => Ok(Target::Missing),
    }
}

/// Unmounts dead mounts of ours from a mount point. Several may be stacked there.
///
/// # Errors
/// If another mount is there, or if unmounting fails.
pub fn clear(target: &Path) -> Result<bool, SessionError> {
    let mut cleared = false;
    while let Some(mount) = mounts::at(target)? {
        if judge(target, &mount)? != Target::Dead {
            break;
        }
        // Unmount the one that was checked, and nothing that is there now.
        fuse::unmount_once(target, mount.id, true).map_err(|source| fuse::FuseError::Unmount {
            target: target.to_owned(),
            source,
        })?;
        cleared = true;
    }
    Ok(cleared)
}

/// A mount point that is ready to be used.
pub struct Prepared {
    /// The mount point.
    pub point: MountPoint,
    /// The directory there.
    pub dir: Dir,
    /// Whether the directory was created.
    pub made: bool,
}

/// Prepares a mount point: unmounts a dead mount from it, and creates it if it does not
/// exist. `given` is the user's path for what is known as `target`.
///
/// # Errors
/// If [`check`] or [`check_safe`] fails, or if it cannot be created.
pub fn prepare(given: &Path, target: &Path, server: (u32, u32)) -> Result<Prepared, SessionError> {
    if clear(target)? {
        tracing::info!(
            "removed the mount of a dead pbkfs from {}",
            target.display()
        );
    }
    check(target)?;
    let point = lead(given, server).map_err(unsafe_target(given))?;
    if point.path() != target {
        // A link on the path was changed in the meantime.
        return Err(unsafe_target(given)(Refused::LeadsOut.into()));
    }
    let make = || match point.parent().make_dir(point.name(), 0o700) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            Ok((point.parent().dir(point.name())?, false))
        }
        made => Ok((made?, true)),
    };
    let (dir, made) = make().map_err(|e| SessionError::io("create the mount point", target, e))?;
    check_owner(&dir, server).map_err(unsafe_target(given))?;
    check_empty(&dir)?;
    Ok(Prepared { point, dir, made })
}

/// Returns the user and group that own the files of the image: those
/// that PostgreSQL runs as.
pub fn owner(plan: &Plan) -> Result<(u32, u32), SessionError> {
    let (uid, gid) = (getuid().as_raw(), getgid().as_raw());
    if !geteuid().is_root() {
        return Ok((uid, gid));
    }
    match OsUser::find(&plan.postgres.user) {
        Ok(user) => Ok((user.uid.as_raw(), user.gid.as_raw())),
        Err(_) if !plan.postgres.launch => Ok((uid, gid)),
        Err(e) => Err(e.into()),
    }
}
