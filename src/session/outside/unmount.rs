//! Ending a mount that has no server, unless somebody is in it.
//!
//! Whether somebody is in a mount only the kernel can tell without a race. So
//! it is asked to unmount first; the session's owner sees that its mount is
//! gone, saves the diff and ends. While somebody is in it, the kernel refuses,
//! and the session goes on undisturbed.

use std::io;
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;

use super::down::{Down, did_not_end, finish_dead, living};
use super::occupants;
use super::owner::{Owner, wait_until};
use crate::fuse::{self, FuseError};
use crate::session::SessionError;
use crate::session::place::mounts::{self, MountEntry};
use crate::session::place::state::{Phase, State};
use crate::session::place::{Place, canonical};
use crate::session::steps::target::{self, Target};

/// How long the owner has to save the diff and end.
const PATIENCE: Duration = Duration::from_secs(120);

/// How long somebody may be in a mount without being in its way.
const PASSING: Duration = Duration::from_secs(1);

/// How soon an owner notices that its mount is gone.
const NOTICING: Duration = Duration::from_secs(2);

/// How long a forced end may take before its owner is killed. Files that
/// nobody had fsynced are lost then.
const FORCED_PATIENCE: Duration = Duration::from_secs(20);

/// Whether something is mounted there. The mount itself is not asked.
#[must_use]
pub fn is_mounted(target: &Path) -> bool {
    mounts::at(&canonical(target)).is_ok_and(|mount| mount.is_some())
}

/// Takes the mount on `target` away and ends its session. With `force`, even
/// if somebody is in it.
///
/// # Errors
/// [`SessionError::Occupied`], [`SessionError::HasServer`],
/// [`SessionError::NotOurs`]: nothing was changed then. What saving the diff
/// or clearing up can fail with.
pub fn unmount(target: &Path, force: bool) -> Result<Down, SessionError> {
    let target = canonical(target);
    let mount = mounts::at(&target)?;
    if let Some(mount) = mount.as_ref().filter(|mount| !mount.is_ours()) {
        return Err(SessionError::NotOurs {
            target,
            kind: mount.kind.clone(),
        });
    }
    let place = Place::of(&target);
    let Some(state) = living(&place, &target, PATIENCE)? else {
        return without_owner(&target, mount.as_ref(), force);
    };
    if state.with_server {
        return Err(SessionError::HasServer {
            target,
            pid: state.server_pid,
            profile: state.profile,
        });
    }
    let ended = match force {
        true => end_by_force(&place, &state)?,
        false => end(&place, &state, mount.as_ref())?,
    };
    if !ended {
        return Err(did_not_end(&place, &target, Some(state.pid), PATIENCE));
    }
    finish_dead(&target, Some(state))
}

fn end(place: &Place, state: &State, mount: Option<&MountEntry>) -> Result<bool, SessionError> {
    let Some(owner) = Owner::find(place, state)? else {
        return Ok(true);
    };
    match state.phase {
        Phase::Ready => match mount {
            Some(mount) => {
                take_away(mount, false)?;
                // It does not notice where the mount was copied into a namespace.
                if !owner.wait(NOTICING)? {
                    owner.signal(Signal::TERM)?;
                }
            }
            // It is gone already, or was not there yet when that was looked at.
            None => owner.signal(Signal::TERM)?,
        },
        Phase::Starting => owner.signal(Signal::TERM)?,
        Phase::Stopping | Phase::Failed => {}
    }
    owner.wait(PATIENCE)
}

fn end_by_force(place: &Place, state: &State) -> Result<bool, SessionError> {
    let Some(owner) = Owner::find(place, state)? else {
        return Ok(true);
    };
    // Two requests are an end at once; two signals of one kind may arrive as
    // one.
    owner.signal(Signal::TERM)?;
    owner.signal(Signal::INT)?;
    if owner.wait(FORCED_PATIENCE)? {
        return Ok(true);
    }
    tracing::warn!("pid {} does not end, and is killed", state.pid);
    owner.signal(Signal::KILL)?;
    owner.wait(FORCED_PATIENCE)
}

/// The mount of a dead owner is cleared away; that of another user's session,
/// whose directory is elsewhere, ends it.
fn without_owner(
    target: &Path,
    mount: Option<&MountEntry>,
    force: bool,
) -> Result<Down, SessionError> {
    match mount {
        Some(mount) if !matches!(target::check(target), Ok(Target::Dead)) => {
            take_away(mount, force)?;
            Ok(Down::Unmounted)
        }
        _ => finish_dead(target, None),
    }
}

/// Asks the kernel to unmount, and if somebody is in it, for a moment again:
/// who only looks in passing is gone by then.
fn take_away(mount: &MountEntry, lazily: bool) -> Result<(), SessionError> {
    let target = &mount.target;
    let mut failure = None;
    let done = wait_until(PASSING, || {
        failure = fuse::unmount_once(target, mount.id, lazily).err();
        let is_busy = |e: &io::Error| e.raw_os_error() == Some(nix::libc::EBUSY);
        Ok(!failure.as_ref().is_some_and(is_busy))
    })?;
    match failure {
        None => Ok(()),
        Some(_) if !done => Err(SessionError::Occupied {
            target: target.to_owned(),
            by: occupants::of(target),
        }),
        Some(source) => Err(FuseError::Unmount {
            target: target.to_owned(),
            source,
        }
        .into()),
    }
}
