//! The process that owns a session, seen from another one.

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

/// The owner of a session, as long as it lives.
pub struct Owner<'a> {
    /// The session's directory.
    dir: &'a Path,
    is_held: Box<dyn Fn() -> Result<bool, SessionError> + 'a>,
    handle: OwnedFd,
}

impl<'a> Owner<'a> {
    /// The living owner of the session at `place`, whose state is `state`;
    /// `None` if it has ended.
    pub fn find(place: &'a Place, state: &State) -> Result<Option<Self>, SessionError> {
        Self::open(place.dir(), state.pid, || place.is_held())
    }

    /// The same of a session's directory, by the pid in its state and by whether its
    /// lock is held.
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
        // The lock is held still, so the process that was opened is its owner
        // and not one that was given the same number since.
        Ok(is_held()?.then_some(Self {
            dir,
            is_held: Box::new(is_held),
            handle,
        }))
    }

    /// Sends a signal. An owner that has ended meanwhile needs none.
    pub fn signal(&self, signal: Signal) -> Result<(), SessionError> {
        match pidfd_send_signal(&self.handle, signal) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(e) => Err(signal_error(self.dir, e)),
        }
    }

    /// Waits for its end, and not only for that of its work. Tells whether that
    /// came in time.
    pub fn wait(&self, patience: Duration) -> Result<bool, SessionError> {
        wait_until(patience, || {
            Ok(!(self.is_held)()? && has_ended(&self.handle))
        })
    }

    /// Asks it to end, twice if need be. Tells whether it did.
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
