//! Ending a session from outside, and finishing the work of a dead owner.

use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::orphans;
use super::others::{self, End};
use super::owner::{Owner, wait_until};
use crate::session::place::state::{Phase, State, process_start};
use crate::session::place::{HeldPlace, Place, canonical, mounts};
use crate::session::steps::target;
use crate::session::{SessionError, TargetError, fence, locks};

/// How long a server that lost its owner may take to exit by itself.
const SERVER_GRACE: Duration = Duration::from_secs(10);

/// The time for ending a session, besides that for stopping its server.
const UNMOUNTING: Duration = Duration::from_secs(30);

/// The result of ending a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Down {
    /// Nothing was running on the target.
    Nothing,
    /// The session was asked to end, and has.
    Ended(State),
    /// Its owner was dead; what it had left was cleared away.
    Finished(State),
    /// It had failed before; what was kept of the failure was cleared away.
    Cleared(State),
    /// A mount of pbkfs was unmounted that was dead or another user's, and whose
    /// session is unknown here.
    Unmounted,
}

/// Ends the session on `target`, whose server may take `stop_timeout` to stop. That and
/// the time to unmount apply to each of the two requests: one for an orderly end, then one
/// for an immediate end.
///
/// # Errors
/// Returns [`SessionError::DidNotEnd`] if the session is still running, and other
/// errors if cleaning up after a dead owner fails.
pub fn down(target: &Path, stop_timeout: Duration) -> Result<Down, SessionError> {
    let patience = stop_timeout + UNMOUNTING;
    let target = canonical(target);
    let place = Place::of(&target);
    if let Some(other) = others::at(&target)? {
        return match other.end(patience)? {
            End::Ended(state) => Ok(Down::Ended(*state)),
            End::Stays(pid) => Err(did_not_end(&place, &target, Some(pid), patience * 2)),
            End::WasDead(user) => unmount_of(&user, &target),
        };
    }
    let mut asked = None;
    while let Some(state) = living(&place, &target, patience * 2)? {
        if !end(&place, &state, patience)? {
            return Err(did_not_end(&place, &target, Some(state.pid), patience * 2));
        }
        asked = Some(state);
    }
    finish_dead(&target, asked)
}

/// Unmounts the dead mount of another user.
fn unmount_of(user: &str, target: &Path) -> Result<Down, SessionError> {
    target::clear(target)?;
    let target = target.display();
    tracing::warn!(
        "the pbkfs of user {user} on {target} had died; whatever else it has left is cleared \
         away when that user runs pbkfs down --target {target}"
    );
    Ok(Down::Unmounted)
}

/// Returns the state of the session at `place` if its owner is alive. A session that
/// has only just started, or is about to be gone, has no state or none that can be
/// read; this waits up to `patience` for that to pass.
pub fn living(
    place: &Place,
    target: &Path,
    patience: Duration,
) -> Result<Option<State>, SessionError> {
    let (mut found, mut unreadable) = (None, None);
    let settled = wait_until(patience, || {
        if !place.is_held()? {
            return Ok(true);
        }
        match place.state() {
            Ok(state) => found = state,
            Err(error @ SessionError::BadState { .. }) => unreadable = Some(error),
            Err(error) => return Err(error),
        }
        Ok(found.is_some())
    })?;
    match (settled, unreadable) {
        (true, _) => Ok(found),
        (false, Some(error)) => Err(error),
        (false, None) => Err(did_not_end(place, target, None, patience)),
    }
}

/// Cleans up after a session that has ended by itself or was killed. `asked` is the one
/// that was asked to end before.
pub fn finish_dead(target: &Path, asked: Option<State>) -> Result<Down, SessionError> {
    let place = Place::of(target);
    if !place.dir().exists() {
        // There may be a mount whose session directory was lost with the contents of /run.
        let cleared = target::clear(target)?;
        return Ok(match asked {
            Some(asked) => Down::Ended(asked),
            None if cleared => Down::Unmounted,
            None => Down::Nothing,
        });
    }
    let place = match place.hold(target) {
        Ok(place) => place,
        // A new session has started since; the one that was asked has ended.
        Err(SessionError::Target(TargetError::Busy { .. })) if asked.is_some() => {
            return Ok(asked.map_or(Down::Nothing, Down::Ended));
        }
        Err(error) => return Err(error),
    };
    let left = finish_left(&place, target)?;
    let cleared = target::clear(target)?;
    place.remove()?;
    match (asked, left) {
        (Some(asked), Some(left)) if asked.pid == left.pid && left.phase == Phase::Failed => {
            Err(SessionError::EndedBadly {
                target: target.to_owned(),
                reason: left.error.unwrap_or_default(),
            })
        }
        (_, Some(left)) if left.phase == Phase::Failed => Ok(Down::Cleared(left)),
        (_, Some(left)) => Ok(Down::Finished(left)),
        (Some(asked), None) => Ok(Down::Ended(asked)),
        (None, None) if cleared => Ok(Down::Unmounted),
        (None, None) => Ok(Down::Nothing),
    }
}

/// Finishes the work of the last session in this place, if it left any. A state that
/// can no longer be read does not keep the place from being used again.
pub fn finish_left(place: &HeldPlace, target: &Path) -> Result<Option<State>, SessionError> {
    match place.state() {
        Ok(None) => Ok(None),
        Ok(Some(left)) => {
            finish(place, &left)?;
            Ok(Some(left))
        }
        Err(error @ SessionError::BadState { .. }) => {
            tracing::warn!(
                "{error}; the mount on {} is cleared away, and a throw-away diff of that session \
                 is an orphan from now on (`pbkfs status` shows it)",
                target.display()
            );
            target::clear(target)?;
            place.clear()?;
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Returns the error for a session that is still running.
pub fn did_not_end(
    place: &Place,
    target: &Path,
    pid: Option<u32>,
    waited: Duration,
) -> SessionError {
    SessionError::DidNotEnd {
        target: target.to_owned(),
        pid,
        seconds: waited.as_secs(),
        log: place.log(),
    }
}

/// Asks the owner to end. Returns whether it did.
fn end(place: &Place, state: &State, patience: Duration) -> Result<bool, SessionError> {
    match Owner::find(place, state)? {
        Some(owner) => owner.end(patience),
        None => Ok(true),
    }
}

/// Does what a dead owner would have done: unmounts its dead mount, waits for
/// its server, which the kernel has signalled to exit, and removes what was for
/// this session only. The locks on the backups were released by their holder,
/// unless it was killed, too.
fn finish(place: &HeldPlace, left: &State) -> Result<(), SessionError> {
    if left.phase != Phase::Failed {
        tracing::warn!(
            "finishing the work of pid {}, which died while it had {} mounted",
            left.pid,
            left.target.display()
        );
    }
    // A server that is still running exits sooner without its files.
    target::clear(&left.target)?;
    end_server(left)?;
    if let Some(cgroup) = &left.cgroup {
        fence::remove_cgroup(cgroup)?;
    }
    if let Some(locks) = &left.locks {
        locks::clear(locks);
    }
    if left.throw_away
        && let Some(diff_dir) = &left.diff_dir
    {
        orphans::remove(diff_dir)?;
    }
    if left.made_target {
        mounts::remove_point(&left.target)?;
    }
    place.clear()
}

fn end_server(left: &State) -> Result<(), SessionError> {
    let (Some(pid), Some(start)) = (left.server_pid, left.server_start) else {
        return Ok(());
    };
    let lives = || process_start(pid) == Some(start);
    let gone = |patience| wait_until(patience, || Ok(!lives()));
    if gone(SERVER_GRACE)? {
        return Ok(());
    }
    let handle = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok())
        .filter(|_| lives());
    let Some(handle) = handle else { return Ok(()) };
    for signal in [Signal::QUIT, Signal::KILL] {
        // If this fails, the process remains, and the next check notices.
        let _ = pidfd_send_signal(&handle, signal);
        if gone(SERVER_GRACE)? {
            return Ok(());
        }
    }
    Err(SessionError::ServerStays {
        target: left.target.clone(),
        pid,
    })
}
