//! The lock holder itself: a second pbkfs process.

use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::unistd::{Gid, Uid, geteuid, setgid, setgroups, setuid};

use super::answer::{HolderAnswer, WAIT};
use crate::catalog::lock::{self, LockError, LockOutcome, Waiting};
use crate::causes::sentence;
use crate::escape::value;
use crate::session::SessionError;
use crate::untrusted::Dir;

/// How long a single attempt waits for the locks.
const TRY: Duration = Duration::from_secs(1);

/// Runs the hidden subcommand: becomes the catalog's owner, takes the locks, reports
/// that, and holds them until end of file on standard input. Returns the exit code.
///
/// # Errors
/// If standard output is closed.
pub fn hold_locks(dirs: &[PathBuf]) -> io::Result<i32> {
    let _ = nix::unistd::setsid();
    let (answer, held) = match open_and_take(dirs) {
        Ok(held)
            if held
                .iter()
                .all(|lock| matches!(lock, LockOutcome::ReadOnly)) =>
        {
            (HolderAnswer::ReadOnly, held)
        }
        Ok(held) => (HolderAnswer::Held, held),
        Err(answer) => (answer, Vec::new()),
    };
    say(&answer)?;
    if !matches!(answer, HolderAnswer::Held) {
        return Ok(0);
    }
    // This returns when the session's owner exits, however it exits.
    io::copy(&mut io::stdin().lock().take(u64::MAX), &mut io::sink())?;
    let mut code = 0;
    // Release the target's lock first, as restore does.
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

fn say(answer: &HolderAnswer) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    serde_json::to_writer(&mut stdout, answer)?;
    stdout.write_all(b"\n")?;
    stdout.flush()
}

/// Opens the backups' directories, becomes the owner of the first one opened,
/// and takes the locks in the opened directories: a path could resolve to
/// something else the next time.
fn open_and_take(dirs: &[PathBuf]) -> Result<Vec<LockOutcome>, HolderAnswer> {
    let dirs = lock::open(dirs).map_err(|error| refusal(&error))?;
    if let Some(dir) = dirs.first() {
        become_owner(dir)?;
    }
    take(&dirs)
}

/// Takes the locks, waiting for a busy one as long as restore does. It waits in short
/// attempts, and gives up between them if the locks are no longer wanted.
fn take(dirs: &[Arc<Dir>]) -> Result<Vec<LockOutcome>, HolderAnswer> {
    let begin = Instant::now();
    let mut told = None;
    let mut waiting = |on: &Waiting| {
        if told.as_ref() != Some(on) {
            let left = WAIT.saturating_sub(begin.elapsed()).as_secs_f32().round();
            // If nobody is listening any more, end of file on the input signals it.
            let _ = say(&HolderAnswer::Waiting(format!(
                "waiting for a backup's lock, for {left} s at most: {on}"
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

/// Returns the answer that reports an error.
fn refusal(error: &LockError) -> HolderAnswer {
    match error {
        LockError::NoPermission { .. } => HolderAnswer::Denied(sentence(error)),
        LockError::Gone { dir } => HolderAnswer::Gone(dir.to_string_lossy().into_owned()),
        LockError::Busy { .. }
        | LockError::Refused { .. }
        | LockError::NoSuchProcess { .. }
        | LockError::Io { .. } => HolderAnswer::Failed(sentence(error)),
    }
}

/// Returns whether standard input has reached end of file. Nothing is ever written to it.
fn input_ended() -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let stdin = io::stdin();
    let mut fds = [PollFd::new(
        std::os::fd::AsFd::as_fd(&stdin),
        PollFlags::POLLIN,
    )];
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

fn become_owner(dir: &Dir) -> Result<(), HolderAnswer> {
    if !geteuid().is_root() {
        return Ok(());
    }
    let failed = |e: io::Error| {
        let dir = value(dir.path());
        HolderAnswer::Failed(format!("cannot switch to the owner of {dir}: {e}"))
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

/// Runs the hidden subcommand's other task: becomes the catalog's owner and removes
/// the locks that the killed holder `killed` has left. A backup that no longer
/// exists has no locks.
///
/// # Errors
/// Returns [`SessionError::Locks`] if the locks cannot be removed.
pub fn forget_locks(dirs: &[PathBuf], killed: u32) -> Result<(), SessionError> {
    let failed = |error: LockError| SessionError::Locks {
        message: sentence(&error),
    };
    let mut opened = Vec::new();
    for dir in dirs {
        match lock::open(std::slice::from_ref(dir)) {
            Ok(dirs) => opened.extend(dirs),
            Err(LockError::Gone { .. }) => {}
            Err(error) => return Err(failed(error)),
        }
    }
    if let Some(Err(HolderAnswer::Failed(message))) = opened.first().map(|dir| become_owner(dir)) {
        return Err(SessionError::Locks { message });
    }
    // Release the target's lock first, in the holder's order.
    for dir in opened.iter().rev() {
        lock::forget(dir, killed).map_err(failed)?;
    }
    Ok(())
}
