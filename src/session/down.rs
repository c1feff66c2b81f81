//! Ending a session from outside, and finishing the work of a dead owner.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::place::{HeldPlace, Place, canonical};
use super::state::{Phase, State, process_start};
use super::{SessionError, target};
use crate::diff::Diff;

/// How long a server that lost its owner has to end by itself.
const ORPHAN_PATIENCE: Duration = Duration::from_secs(10);

/// What `down` did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Down {
    /// Nothing ran on the target.
    Nothing,
    /// The session was told to end, and has.
    Ended(State),
    /// Its owner was dead; what it had left was cleared away.
    Finished(State),
    /// It had failed before; what it had kept of that was cleared away.
    Cleared(State),
}

/// Ends the session on `target`. `patience` is for each of the two requests:
/// an orderly end, then a quick one.
///
/// # Errors
/// [`SessionError::DidNotEnd`]; what clearing up after a dead owner can fail
/// with.
pub fn down(target: &Path, patience: Duration) -> Result<Down, SessionError> {
    let target = canonical(target);
    let mut asked = None;
    let deadline = Instant::now() + patience * 2;
    while Place::of(&target).is_held()? {
        let place = Place::of(&target);
        let Some(state) = State::read(&place)? else {
            // It has only just begun, or is about to be gone.
            thread::sleep(Duration::from_millis(20));
            if Instant::now() > deadline {
                return Err(did_not_end(&place, &target, 0, patience * 2));
            }
            continue;
        };
        if !end(&place, &state, patience)? {
            return Err(did_not_end(&place, &target, state.pid, patience * 2));
        }
        asked = Some(state);
    }
    finish_dead(&target, asked)
}

fn finish_dead(target: &Path, asked: Option<State>) -> Result<Down, SessionError> {
    let place = Place::of(target);
    if !place.dir().exists() {
        // A mount whose session's directory went with a reboot of /run.
        target::clear(target)?;
        return Ok(asked.map_or(Down::Nothing, Down::Ended));
    }
    let place = place.hold(target)?;
    let left = State::read(&place)?;
    if let Some(left) = &left {
        finish(&place, left)?;
    }
    place.remove()?;
    Ok(match (asked, left) {
        (_, Some(left)) if left.phase == Phase::Failed => Down::Cleared(left),
        (_, Some(left)) => Down::Finished(left),
        (Some(asked), None) => Down::Ended(asked),
        (None, None) => Down::Nothing,
    })
}

fn did_not_end(place: &Place, target: &Path, pid: u32, waited: Duration) -> SessionError {
    SessionError::DidNotEnd {
        target: target.to_owned(),
        pid,
        seconds: waited.as_secs(),
        log: place.log(),
    }
}

/// Asks the owner to end, twice if need be. Tells whether it did.
fn end(place: &Place, state: &State, patience: Duration) -> Result<bool, SessionError> {
    let Some(pid) = i32::try_from(state.pid).ok().and_then(Pid::from_raw) else {
        return Ok(false);
    };
    let signal_error =
        |e: rustix::io::Errno| SessionError::io("signal the owner of", place.dir(), e.into());
    let owner = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(owner) => owner,
        Err(rustix::io::Errno::SRCH) => return Ok(true),
        Err(e) => return Err(signal_error(e)),
    };
    // The lock is held still, so the process that was opened is its owner
    // and not one that was given the same number since.
    if !place.is_held()? {
        return Ok(true);
    }
    for _ in 0..2 {
        match pidfd_send_signal(&owner, Signal::TERM) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(e) => return Err(signal_error(e)),
        }
        if wait_until(patience, || Ok(!place.is_held()?))? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn wait_until(
    patience: Duration,
    mut done: impl FnMut() -> Result<bool, SessionError>,
) -> Result<bool, SessionError> {
    let deadline = Instant::now() + patience;
    loop {
        if done()? {
            return Ok(true);
        }
        if Instant::now() > deadline {
            return Ok(false);
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Does what a dead owner would have done: waits for its server, which the
/// kernel has told to end, takes its dead mount away, and removes what was
/// for this session only. The locks on the backups went with their holder.
pub fn finish(place: &HeldPlace, left: &State) -> Result<(), SessionError> {
    if left.phase != Phase::Failed {
        tracing::warn!(
            "finishing the work of pid {}, which died while it had {} mounted",
            left.pid,
            left.target.display()
        );
    }
    // A server that still runs ends sooner without its files.
    target::clear(&left.target)?;
    end_server(left)?;
    if left.throw_away
        && let Some(diff_dir) = &left.diff_dir
    {
        remove_diff(diff_dir)?;
    }
    if left.made_target {
        target::remove(&left.target)?;
    }
    place.clear()
}

fn remove_diff(dir: &Path) -> Result<(), SessionError> {
    if dir.exists() {
        Ok(Diff::remove(dir)?)
    } else {
        Ok(())
    }
}

fn end_server(left: &State) -> Result<(), SessionError> {
    let (Some(pid), Some(start)) = (left.server_pid, left.server_start) else {
        return Ok(());
    };
    let lives = || process_start(pid) == Some(start);
    let gone = |patience| wait_until(patience, || Ok(!lives()));
    if gone(ORPHAN_PATIENCE)? {
        return Ok(());
    }
    let stays = || SessionError::ServerStays {
        target: left.target.clone(),
        pid,
    };
    let handle = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok())
        .filter(|_| lives())
        .ok_or_else(stays);
    let Ok(handle) = handle else { return Ok(()) };
    for signal in [Signal::QUIT, Signal::KILL] {
        // A failure shows in that the process stays.
        let _ = pidfd_send_signal(&handle, signal);
        if gone(ORPHAN_PATIENCE)? {
            return Ok(());
        }
    }
    Err(stays())
}
