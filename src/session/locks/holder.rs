//! The lock holder, as seen by the session's owner.

use std::io::{BufRead, BufReader};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::answer::{HolderAnswer, SUBCOMMAND, WAIT};
use super::left::forget;
use crate::catalog::lock::{self, LockError};
use crate::causes::sentence;
use crate::server::own_program;
use crate::session::SessionError;
use crate::session::place::state::{ReadLocks, process_start};

/// How long the holder may stay silent. It reports each change in what it is waiting
/// for, and waits for nothing longer than [`WAIT`].
const SILENCE: Duration = WAIT.saturating_add(Duration::from_secs(10));

/// How often to check whether the session has been asked to end.
const POLL: Duration = Duration::from_millis(50);

/// The result of locking.
#[derive(Debug)]
pub enum Locking {
    /// Held until [`Holder::release`] is called.
    Held(Holder),
    /// Not held, for this reason.
    Without(String),
}

/// The process that holds the locks.
#[derive(Debug)]
pub struct Holder {
    child: Child,
    dirs: Vec<PathBuf>,
}

impl Holder {
    /// Starts the holder for `dirs`, the FULL backup's first, and waits for its answer.
    ///
    /// # Errors
    /// Returns [`SessionError::Locks`] if a member is being changed or a lock file
    /// cannot be used, [`SessionError::BackupGone`] if a member was merged or deleted
    /// meanwhile, and [`SessionError::Interrupted`] if the session was asked to end.
    pub fn start(
        dirs: &[PathBuf],
        interrupted: &dyn Fn() -> bool,
    ) -> Result<Locking, SessionError> {
        let mut holder = Self::spawn(dirs)?;
        let answer = holder.answer(interrupted);
        match answer {
            Ok(HolderAnswer::Held) => Ok(Locking::Held(holder)),
            Ok(HolderAnswer::ReadOnly) => Ok(Locking::Without(
                "it is on a read-only file system".to_owned(),
            )),
            Ok(HolderAnswer::Denied(message)) => Ok(Locking::Without(message)),
            Ok(HolderAnswer::Gone(dir)) => Err(SessionError::BackupGone { dir: dir.into() }),
            Ok(HolderAnswer::Failed(message) | HolderAnswer::Waiting(message)) => {
                Err(SessionError::Locks { message })
            }
            Err(e) => Err(e),
        }
    }

    fn spawn(dirs: &[PathBuf]) -> Result<Self, SessionError> {
        let program = own_program();
        let mut command = Command::new(&program);
        command.arg0("pbkfs").arg(SUBCOMMAND).args(dirs);
        // Run it in a process group of its own: Ctrl-C at a terminal must not release
        // the locks before the mount is gone.
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // If it inherited ours, anyone reading that to its end would be kept waiting.
            .stderr(Stdio::null())
            .process_group(0);
        let child = command
            .spawn()
            .map_err(|e| SessionError::io("run", &program, e))?;
        let dirs = dirs.to_vec();
        Ok(Self { child, dirs })
    }

    /// Returns the holder's final answer. What it waits for until then is logged.
    fn answer(&mut self, interrupted: &dyn Fn() -> bool) -> Result<HolderAnswer, SessionError> {
        let failed = |message: String| SessionError::Locks { message };
        let Some(stdout) = self.child.stdout.take() else {
            return Err(failed("the lock holder has no output".to_owned()));
        };
        let answers = listen(stdout);
        let mut heard = Instant::now();
        loop {
            match answers.recv_timeout(POLL) {
                Ok(HolderAnswer::Waiting(what)) => {
                    tracing::warn!("{what}");
                    heard = Instant::now();
                }
                Ok(answer) => return Ok(answer),
                Err(RecvTimeoutError::Disconnected) => {
                    let message = "the lock holder exited without an answer";
                    return Err(failed(message.to_owned()));
                }
                Err(RecvTimeoutError::Timeout) if interrupted() => {
                    return Err(SessionError::Interrupted);
                }
                Err(RecvTimeoutError::Timeout) if heard.elapsed() < SILENCE => {}
                Err(RecvTimeoutError::Timeout) => {
                    return Err(failed("the lock holder does not answer".to_owned()));
                }
            }
        }
    }

    /// Returns the locks that it holds.
    #[must_use]
    pub fn locks(&self) -> ReadLocks {
        ReadLocks {
            holder_pid: self.child.id(),
            holder_start: process_start(self.child.id()),
            dirs: self.dirs.clone(),
        }
    }

    /// Releases the locks. If the holder was killed, removes the locks that it has left.
    ///
    /// # Errors
    /// Returns [`SessionError::Locks`] if they could not be removed.
    pub fn release(&mut self) -> Result<(), SessionError> {
        drop(self.child.stdin.take());
        let status = self.child.wait().map_err(|e| SessionError::Locks {
            message: e.to_string(),
        })?;
        if status.success() {
            return Ok(());
        }
        if let Some(signal) = status.signal() {
            tracing::warn!(
                "the process that held the read locks (pid {}) was killed by signal {signal}; the \
                 backups have not been locked since",
                self.child.id()
            );
            return forget(self.child.id(), &self.dirs);
        }
        let message = format!("the lock holder could not remove its locks ({status})");
        Err(SessionError::Locks { message })
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        if self.child.stdin.is_some() {
            // This closes its standard input, so it releases the locks.
            let _ = self.release();
        }
    }
}

/// The locks of a session, which several may let go: its end, and whoever finds that they
/// are no longer needed.
#[derive(Debug, Clone)]
pub struct HeldLocks(Arc<Mutex<Option<Holder>>>);

impl HeldLocks {
    /// Takes over the holder.
    pub fn new(holder: Holder) -> Self {
        Self(Arc::new(Mutex::new(Some(holder))))
    }

    /// Releases the locks, unless they were released before.
    ///
    /// # Errors
    /// As [`Holder::release`].
    pub fn release(&self) -> Result<(), SessionError> {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        held.map_or(Ok(()), |mut holder| holder.release())
    }
}

/// Receives the answers of a holder, up to and including the final one.
fn listen(stdout: ChildStdout) -> Receiver<HolderAnswer> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines() {
            let answer = line.ok().and_then(|line| serde_json::from_str(&line).ok());
            let Some(answer) = answer else { break };
            let is_last = !matches!(answer, HolderAnswer::Waiting(_));
            // The receiver is dropped only when the result is no longer needed.
            if sender.send(answer).is_err() || is_last {
                break;
            }
        }
    });
    receiver
}

/// Checks whether anything keeps the backups from being locked, without locking
/// them. A user who may not look could not lock them either; that is reported when
/// locking is attempted.
///
/// # Errors
/// Returns [`SessionError::Locks`] if a lock is in the way or cannot be read, and
/// [`SessionError::BackupGone`] if a backup no longer exists.
pub fn look(dirs: &[PathBuf]) -> Result<(), SessionError> {
    match lock::look(dirs) {
        Ok(()) | Err(LockError::NoPermission { .. }) => Ok(()),
        Err(LockError::Gone { dir }) => Err(SessionError::BackupGone { dir }),
        Err(error) => Err(SessionError::Locks {
            message: sentence(&error),
        }),
    }
}
