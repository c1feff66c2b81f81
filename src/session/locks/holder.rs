//! The holder of the locks, seen by the session's owner.

use std::io::{BufRead, BufReader};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use super::answer::{Answer, SUBCOMMAND, WAIT};
use super::left::forget;
use crate::catalog::lock::{self, LockError};
use crate::causes::sentence;
use crate::server::own_program;
use crate::session::SessionError;
use crate::session::place::state::{ReadLocks, process_start};

/// How long the holder may be silent: it says whenever it waits for something
/// else than before, and waits for nothing longer than [`WAIT`].
const SILENCE: Duration = WAIT.saturating_add(Duration::from_secs(10));

/// How often is looked whether somebody wants the session to end.
const POLL: Duration = Duration::from_millis(50);

/// How the locking went.
#[derive(Debug)]
pub enum Locking {
    /// Held, until [`Holder::release`].
    Held(Holder),
    /// Not held; for this reason.
    Without(String),
}

/// The process that holds the locks.
#[derive(Debug)]
pub struct Holder {
    child: Child,
    dirs: Vec<PathBuf>,
}

impl Holder {
    /// Starts the holder for `dirs`, the FULL's first, and waits for its
    /// answer.
    ///
    /// # Errors
    /// [`SessionError::Locks`] when a member is being changed, or a lock file
    /// cannot be used; [`SessionError::BackupGone`] when a member was merged or
    /// deleted meanwhile; [`SessionError::Interrupted`].
    pub fn start(
        dirs: &[PathBuf],
        interrupted: &dyn Fn() -> bool,
    ) -> Result<Locking, SessionError> {
        let mut holder = Self::spawn(dirs)?;
        let answer = holder.answer(interrupted);
        match answer {
            Ok(Answer::Held) => Ok(Locking::Held(holder)),
            Ok(Answer::ReadOnly) => Ok(Locking::Without(
                "it is on a read-only file system".to_owned(),
            )),
            Ok(Answer::Denied(message)) => Ok(Locking::Without(message)),
            Ok(Answer::Gone(dir)) => Err(SessionError::BackupGone { dir: dir.into() }),
            Ok(Answer::Failed(message) | Answer::Waiting(message)) => {
                Err(SessionError::Locks { message })
            }
            Err(e) => Err(e),
        }
    }

    fn spawn(dirs: &[PathBuf]) -> Result<Self, SessionError> {
        let program = own_program();
        let mut command = Command::new(&program);
        command.arg0("pbkfs").arg(SUBCOMMAND).args(dirs);
        // In a session of its own: a terminal's Ctrl-C must not take the lock
        // away before the mount is gone.
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Ours would keep whoever reads it waiting.
            .stderr(Stdio::null())
            .process_group(0);
        let child = command
            .spawn()
            .map_err(|e| SessionError::io("run", &program, e))?;
        let dirs = dirs.to_vec();
        Ok(Self { child, dirs })
    }

    /// The holder's last answer; what it waits for meanwhile goes to the log.
    fn answer(&mut self, interrupted: &dyn Fn() -> bool) -> Result<Answer, SessionError> {
        let failed = |message: String| SessionError::Locks { message };
        let Some(stdout) = self.child.stdout.take() else {
            return Err(failed("the lock holder has no output".to_owned()));
        };
        let answers = listen(stdout);
        let mut heard = Instant::now();
        loop {
            match answers.recv_timeout(POLL) {
                Ok(Answer::Waiting(what)) => {
                    tracing::warn!("{what}");
                    heard = Instant::now();
                }
                Ok(answer) => return Ok(answer),
                Err(RecvTimeoutError::Disconnected) => {
                    let message = "the lock holder ended without an answer";
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

    /// What it holds.
    #[must_use]
    pub fn locks(&self) -> ReadLocks {
        ReadLocks {
            holder_pid: self.child.id(),
            holder_start: process_start(self.child.id()),
            dirs: self.dirs.clone(),
        }
    }

    /// Lets the locks go. Those of a holder that was killed are taken away.
    ///
    /// # Errors
    /// [`SessionError::Locks`] when they could not be removed.
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
                "the process that held the read locks (pid {}) was ended by signal {signal}; from \
                 then on the backups were not locked",
                self.child.id()
            );
            return forget(self.child.id(), &self.dirs);
        }
        let message = format!("the lock holder could not remove them ({status})");
        Err(SessionError::Locks { message })
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        if self.child.stdin.is_some() {
            // Its standard input ends here, and it lets go.
            let _ = self.release();
        }
    }
}

/// The answers of a holder, up to the one that is its last.
fn listen(stdout: ChildStdout) -> Receiver<Answer> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines() {
            let answer = line.ok().and_then(|line| serde_json::from_str(&line).ok());
            let Some(answer) = answer else { break };
            let is_last = !matches!(answer, Answer::Waiting(_));
            // The receiver is gone only if nobody wants to know any more.
            if sender.send(answer).is_err() || is_last {
                break;
            }
        }
    });
    receiver
}

/// Finds who keeps the backups from being locked, and locks nothing. Who may not
/// look would not be let in either, and that is told when it is tried.
///
/// # Errors
/// [`SessionError::Locks`].
pub fn look(dirs: &[PathBuf]) -> Result<(), SessionError> {
    match lock::look(dirs) {
        Ok(()) | Err(LockError::NoPermission { .. }) => Ok(()),
        Err(LockError::Gone { dir }) => Err(SessionError::BackupGone { dir }),
        Err(error) => Err(SessionError::Locks {
            message: sentence(&error),
        }),
    }
}
