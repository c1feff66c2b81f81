//! The process that owns a session, as seen from another one.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::diff::has_ended;
use crate::session::SessionError;
use crate::session::place::Place;
use crate::session::place::state::State;

/// The owner of a session, as long as it is alive.
pub struct Owner<'a> {
    /// The session's directory.
    dir: &'a Path,
    is_held: Box<dyn Fn() -> Result<bool, SessionError> + 'a>,
    handle: OwnedFd,
}

impl<'a> Owner<'a> {
    /// Returns the live owner of the session at `place`, whose state is `state`;
    /// `None` if it has exited.
    pub fn find(place: &'a Place, state: &State) -> Result<Option<Self>, SessionError> {
        Self::open(place.dir(), state.pid, || place.is_held())
    }

    /// Does the same for a session's directory, given the pid in its state and a check
    /// of whether its lock is held.
    pub fn open(
        dir: &'a Path,
        pid: u32,
        is_held: impl Fn() -> Result<bool, SessionError> + 'a,
    ) -> Result<Option<Self>, SessionError> {
        let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
            return Ok(None);
        };
        let handle = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(handle) => handle,
            Err(Errno::SRCH) => return Ok(None),
            Err(e) => return Err(signal_error(dir, e)),
        };
        // The lock is still held, so the process that was opened is its owner, and not
        // one that has reused the pid.
        Ok(is_held()?.then_some(Self {
            dir,
            is_held: Box::new(is_held),
            handle,
        }))
    }

    /// Sends a signal. An owner that has exited meanwhile needs none.
    pub fn signal(&self, signal: Signal) -> Result<(), SessionError> {
        match pidfd_send_signal(&self.handle, signal) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(e) => Err(signal_error(self.dir, e)),
        }
    }

    /// Waits until it has exited, and not only finished its work. Returns whether
    /// that happened in time.
    pub fn wait(&self, patience: Duration) -> Result<bool, SessionError> {
        wait_until(patience, || {
            Ok(!(self.is_held)()? && has_ended(&self.handle))
        })
    }

    /// Asks it to end, twice if necessary. Returns whether it did.
    pub fn end(&self, patience: Duration) -> Result<bool, SessionError> {
        for _ in 0..2 {
            self.signal(Signal::TERM)?;
            if self.wait(patience)? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

pub fn signal_error(dir: &Path, errno: Errno) -> SessionError {
    SessionError::io("signal the owner of", dir, errno.into())
}

/// Polls until `done` returns true or `patience` has passed. Returns whether it was done.
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
