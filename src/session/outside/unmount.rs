//! Ending a mount that has no server, unless it is in use.
//!
//! Only the kernel can tell without a race whether somebody is in a mount. So it is
//! asked to unmount first; the session's owner sees that its mount is gone, saves the
//! diff and exits. While somebody is in the mount, the kernel refuses, and the session
//! continues undisturbed.

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

/// How long the owner may take to save the diff and exit.
const PATIENCE: Duration = Duration::from_secs(120);

/// How long somebody may be in a mount without keeping it from being unmounted.
const PASSING: Duration = Duration::from_secs(1);

/// How long an owner may take to notice that its mount is gone.
const NOTICING: Duration = Duration::from_secs(2);

/// How long a forced end may take before the owner is killed. Files that were not
/// fsynced are then lost.
const FORCED_PATIENCE: Duration = Duration::from_secs(20);

/// Returns whether something is mounted there. No request is sent to the mount itself.
#[must_use]
pub fn is_mounted(target: &Path) -> bool {
    mounts::at(&canonical(target)).is_ok_and(|mount| mount.is_some())
}

/// Unmounts `target` and ends its session; with `force`, even if somebody is in the mount.
///
/// # Errors
/// Returns [`SessionError::Occupied`], [`SessionError::HasServer`] or
/// [`SessionError::NotOurs`] without having changed anything, and other errors if
/// saving the diff or cleaning up fails.
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
    match (state.phase, mount) {
        (Phase::Ready, Some(mount)) => {
            take_away(mount, false)?;
            // The owner does not notice if the mount was copied into a namespace.
            if !owner.wait(NOTICING)? {
                owner.signal(Signal::TERM)?;
            }
        }
        // It is already gone, or was not there yet when the table was read.
        (Phase::Ready | Phase::Starting, _) => owner.signal(Signal::TERM)?,
        (Phase::Stopping | Phase::Failed, _) => {}
    }
    owner.wait(PATIENCE)
}

fn end_by_force(place: &Place, state: &State) -> Result<bool, SessionError> {
    let Some(owner) = Owner::find(place, state)? else {
        return Ok(true);
    };
    // Two requests mean an immediate end; two signals of the same kind may arrive as one.
    owner.signal(Signal::TERM)?;
    owner.signal(Signal::INT)?;
    if owner.wait(FORCED_PATIENCE)? {
        return Ok(true);
    }
    tracing::warn!("pid {} does not exit, and is being killed", state.pid);
    owner.signal(Signal::KILL)?;
    owner.wait(FORCED_PATIENCE)
}

/// Clears away the mount of a dead owner, or unmounts that of another user's session,
/// whose directory is elsewhere; that ends the session.
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

/// Asks the kernel to unmount and, if somebody is in the mount, retries for a moment:
/// anyone only passing through is gone by then.
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
