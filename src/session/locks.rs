//! The read locks on the chain, held by a small process of the catalog's
//! owner.
//!
//! pg_probackup judges a lock by whether the process that it names lives, and
//! fails on one of another user. So the pid in it must be of the catalog's
//! owner, while pbkfs may be root: it starts itself a second time, which
//! becomes that user, takes the locks, says so on its standard output, and
//! lets go when its standard input ends — which it does even if the owner of
//! the session is killed.

use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::unistd::{Gid, Uid, geteuid, setgid, setgroups, setuid};
use serde::{Deserialize, Serialize};

use super::SessionError;
use crate::catalog::lock::{LockError, LockOutcome, lock_chain};
use crate::server::first_line;

/// How long pg_probackup's restore waits for a backup that is being changed.
const WAIT: Duration = Duration::from_secs(60);

/// How long one try of the holder waits.
const TRY: Duration = Duration::from_secs(1);

/// The name of the hidden subcommand.
const SUBCOMMAND: &str = "hold-locks";

/// What the holder says once.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    /// The locks are held.
    Held,
    /// The catalog is on a read-only file system, where nobody can change it.
    ReadOnly,
    /// This user may not write there.
    Denied(String),
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
}

impl Holder {
    /// Starts the holder for `dirs`, the FULL's first, and waits for its
    /// answer.
    ///
    /// # Errors
    /// [`SessionError::Locks`] when a member is being changed, or a lock file
    /// cannot be used; [`SessionError::Interrupted`].
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
            Ok(Answer::Failed(message)) => Err(SessionError::Locks { message }),
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
        Ok(Self { child })
    }

    fn answer(&mut self, interrupted: &dyn Fn() -> bool) -> Result<Answer, SessionError> {
        let failed = |message: String| SessionError::Locks { message };
        let Some(stdout) = self.child.stdout.take() else {
            return Err(failed("the lock holder has no output".to_owned()));
        };
        let patience = WAIT + Duration::from_secs(10);
        let line = match first_line(stdout, patience, interrupted) {
            Ok(line) => line,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {
                return Err(SessionError::Interrupted);
            }
            Err(e) if e.kind() == io::ErrorKind::TimedOut => {
                return Err(failed("the lock holder does not answer".to_owned()));
            }
            Err(e) => return Err(failed(e.to_string())),
        };
        serde_json::from_str(&line)
            .map_err(|_| failed("the lock holder ended without an answer".to_owned()))
    }

    /// The pid in the locks.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Lets the locks go.
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

/// The program that this process runs, by its name where it still has one.
#[must_use]
pub fn own_program() -> PathBuf {
    match std::env::current_exe() {
        Ok(path) if path.exists() => path,
        _ => PathBuf::from("/proc/self/exe"),
    }
}

/// The hidden subcommand: becomes the catalog's owner, takes the locks, says
/// so, and holds them until standard input ends. Gives the exit code.
///
/// # Errors
/// Standard output is closed.
pub fn hold_locks(dirs: &[PathBuf]) -> io::Result<i32> {
    let _ = nix::unistd::setsid();
    let (answer, held) = match become_owner(dirs).and_then(|()| take(dirs)) {
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
    let mut stdout = io::stdout().lock();
    serde_json::to_writer(&mut stdout, &answer)?;
    stdout.write_all(b"\n")?;
    stdout.flush()?;
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
            tracing::error!("cannot release the lock: {error}");
            code = 1;
        }
    }
    Ok(code)
}

/// Takes the locks, waiting for a busy one as long as restore does; in short
/// tries, between which it gives up if nobody wants the locks any more.
fn take(dirs: &[PathBuf]) -> Result<Vec<LockOutcome>, Answer> {
    let begin = Instant::now();
    loop {
        match lock_chain(dirs, std::process::id(), TRY) {
            Ok(held) => return Ok(held),
            Err(error @ LockError::NoPermission { .. }) => {
                return Err(Answer::Denied(with_cause(&error)));
            }
            Err(LockError::Busy { .. }) if begin.elapsed() < WAIT && !input_ended() => {}
            Err(LockError::Busy { dir, holder, .. }) => {
                let error = LockError::Busy {
                    dir,
                    holder,
                    waited: begin.elapsed(),
                };
                return Err(Answer::Failed(with_cause(&error)));
            }
            Err(error) => return Err(Answer::Failed(with_cause(&error))),
        }
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

fn with_cause(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

fn become_owner(dirs: &[PathBuf]) -> Result<(), Answer> {
    let Some(dir) = dirs.first().filter(|_| geteuid().is_root()) else {
        return Ok(());
    };
    let meta =
        std::fs::metadata(dir).map_err(|e| Answer::Failed(format!("{}: {e}", dir.display())))?;
    let (uid, gid) = (Uid::from_raw(meta.uid()), Gid::from_raw(meta.gid()));
    if uid.is_root() {
        return Ok(());
    }
    let become_user = || {
        setgroups(&[gid])?;
        setgid(gid)?;
        setuid(uid)
    };
    become_user().map_err(|e| Answer::Failed(format!("cannot become the catalog's owner: {e}")))
}
