//! The process that owns a session, seen from another one.

use std::os::fd::OwnedFd;
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::SessionError;
use super::place::Place;
use super::state::State;
use crate::diff::has_ended;

/// The owner of a session, as long as it lives.
pub struct Owner<'a> {
    place: &'a Place,
    handle: OwnedFd,
}

impl<'a> Owner<'a> {
    /// The living owner of the session at `place`, whose state is `state`;
    /// `None` if it has ended.
    pub fn find(place: &'a Place, state: &State) -> Result<Option<Self>, SessionError> {
        let Some(pid) = i32::try_from(state.pid).ok().and_then(Pid::from_raw) else {
            return Ok(None);
        };
        let handle = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(handle) => handle,
            Err(Errno::SRCH) => return Ok(None),
            Err(e) => return Err(signal_error(place, e)),
        };
        // The lock is held still, so the process that was opened is its owner
        // and not one that was given the same number since.
        Ok(place.is_held()?.then_some(Self { place, handle }))
    }

    /// Sends a signal. An owner that has ended meanwhile needs none.
    pub fn signal(&self, signal: Signal) -> Result<(), SessionError> {
        match pidfd_send_signal(&self.handle, signal) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(e) => Err(signal_error(self.place, e)),
        }
    }

    /// Waits for its end, and not only for that of its work. Tells whether that
    /// came in time.
    pub fn wait(&self, patience: Duration) -> Result<bool, SessionError> {
        wait_until(patience, || {
            Ok(!self.place.is_held()? && has_ended(&self.handle))
        })
    }
}

fn signal_error(place: &Place, errno: Errno) -> SessionError {
    SessionError::io("signal the owner of", place.dir(), errno.into())
}

/// Asks again and again, until it is done or `patience` has passed.
pub fn wait_until(
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
