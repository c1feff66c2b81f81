//! The read locks on the chain, held by a small process of the catalog's
//! owner.
//!
//! pg_probackup judges a lock by whether the process that it names lives, and
//! fails on one of another user. So the pid in it must be of the catalog's
//! owner, while pbkfs may be root: it starts itself a second time, which
//! becomes that user, takes the locks, says so on its standard output, and
//! lets go when its standard input ends — which it does even if the owner of
//! the session is killed.
//!
//! A holder that was killed lets nothing go. Who finishes the session starts another
//! one that only takes away what the killed one has left.
//!
//! Each line of its output is an answer in JSON ([`Answer`]): what it waits
//! for, each time that this is something else, and at last what came of it.

pub mod chain;
mod left;

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use nix::unistd::{Gid, Uid, geteuid, setgid, setgroups, setuid};
use serde::{Deserialize, Serialize};

use crate::catalog::lock::{self, LockError, LockOutcome, Waiting};
use crate::causes::sentence;
use crate::escape::value;
use crate::server::own_program;
use crate::session::SessionError;
use crate::session::place::state::process_start;
use crate::untrusted::Dir;
use left::forget;
pub use left::{ReadLocks, forget_locks};

/// How long pg_probackup's restore waits for a backup that is being changed.
const WAIT: Duration = Duration::from_secs(60);

/// How long one try of the holder waits.
const TRY: Duration = Duration::from_secs(1);

/// How long the holder may be silent: it says whenever it waits for something
/// else than before, and waits for nothing longer than [`WAIT`].
const SILENCE: Duration = WAIT.saturating_add(Duration::from_secs(10));

/// How often is looked whether somebody wants the session to end.
const POLL: Duration = Duration::from_millis(50);

/// The name of the hidden subcommand.
const SUBCOMMAND: &str = "hold-locks";

/// What the holder says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    /// It waits, for this; another answer follows.
    Waiting(String),
    /// The locks are held.
    Held,
    /// The catalog is on a read-only file system, where nobody can change it.
    ReadOnly,
    /// This user may not write there.
    Denied(String),
    /// This backup is not there any more.
    Gone(String),
    /// It did not work.
    Failed(String),
}

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

/// The hidden subcommand: becomes the catalog's owner, takes the locks, says
/// so, and holds them until standard input ends. Gives the exit code.
///
/// # Errors
/// Standard output is closed.
pub fn hold_locks(dirs: &[PathBuf]) -> io::Result<i32> {
    let _ = nix::unistd::setsid();
    let (answer, held) = match open_and_take(dirs) {
        Ok(held)
            if held
                .iter()
                .all(|lock| matches!(lock, LockOutcome::ReadOnly)) =>
        {
            (Answer::ReadOnly, held)
        }
        Ok(held) => (Answer::Held, held),
        Err(answer) => (answer, Vec::new()),
    };
    say(&answer)?;
    if !matches!(answer, Answer::Held) {
        return Ok(0);
    }
    // Ends with the owner of the session, whichever way that ends.
    io::copy(&mut io::stdin().lock().take(u64::MAX), &mut io::sink())?;
    let mut code = 0;
    // The target's first, as restore does it.
    for lock in held.into_iter().rev() {
        if let LockOutcome::Held(lock) = lock
            && let Err(error) = lock.release()
        {
            tracing::error!("cannot release the lock: {}", sentence(&error));
            code = 1;
        }
    }
    Ok(code)
}

fn say(answer: &Answer) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    serde_json::to_writer(&mut stdout, answer)?;
    stdout.write_all(b"\n")?;
    stdout.flush()
}

/// Opens the backups' directories, becomes the owner of what was opened, and
/// takes the locks there: a path could lead elsewhere the next time.
fn open_and_take(dirs: &[PathBuf]) -> Result<Vec<LockOutcome>, Answer> {
    let dirs = lock::open(dirs).map_err(|error| refusal(&error))?;
    if let Some(dir) = dirs.first() {
        become_owner(dir)?;
    }
    take(&dirs)
}

/// Takes the locks, waiting for a busy one as long as restore does; in short
/// tries, between which it gives up if nobody wants the locks any more.
fn take(dirs: &[Arc<Dir>]) -> Result<Vec<LockOutcome>, Answer> {
    let begin = Instant::now();
    let mut told = None;
    let mut waiting = |on: &Waiting| {
        if told.as_ref() != Some(on) {
            let left = WAIT.saturating_sub(begin.elapsed()).as_secs_f32().round();
            // If nobody listens any more, the end of the input tells so.
            let _ = say(&Answer::Waiting(format!(
                "waiting for a backup's lock, {left} s at most: {on}"
            )));
            told = Some(on.clone());
        }
    };
    loop {
        match lock::lock_chain(dirs, std::process::id(), TRY, &mut waiting) {
            Ok(held) => return Ok(held),
            Err(LockError::Busy { .. }) if begin.elapsed() < WAIT && !input_ended() => {}
            Err(LockError::Busy {
                dir, file, holder, ..
            }) => {
                return Err(refusal(&LockError::Busy {
                    dir,
                    file,
                    holder,
                    waited: begin.elapsed(),
                }));
            }
            Err(error) => return Err(refusal(&error)),
        }
    }
}

/// The answer that tells of an error.
fn refusal(error: &LockError) -> Answer {
    match error {
        LockError::NoPermission { .. } => Answer::Denied(sentence(error)),
        LockError::Gone { dir } => Answer::Gone(dir.to_string_lossy().into_owned()),
        LockError::Busy { .. }
        | LockError::Refused { .. }
        | LockError::NoSuchProcess { .. }
        | LockError::Io { .. } => Answer::Failed(sentence(error)),
    }
}

/// Whether standard input has ended. Nobody ever writes to it.
fn input_ended() -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let stdin = io::stdin();
    let mut fds = [PollFd::new(
        std::os::fd::AsFd::as_fd(&stdin),
        PollFlags::POLLIN,
    )];
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

fn become_owner(dir: &Dir) -> Result<(), Answer> {
    if !geteuid().is_root() {
        return Ok(());
    }
    let failed = |e: io::Error| {
        let dir = value(dir.path());
        Answer::Failed(format!("cannot become the owner of {dir}: {e}"))
    };
    let owner = dir.stat_self().map_err(failed)?;
    let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
    if uid.is_root() {
        return Ok(());
    }
    let become_user = || {
        setgroups(&[gid])?;
        setgid(gid)?;
        setuid(uid)
    };
    become_user().map_err(|errno| failed(errno.into()))
}
