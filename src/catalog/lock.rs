//! pg_probackup's shared lock on a backup: the one thing that we ever write
//! into the catalog.
//!
//! Each backup's directory may hold two files:
//!
//! ```text
//! backup.pid      the exclusive lock: "PID\n", created with O_EXCL
//! backup_ro.pid   the readers: "PID\n" each, replaced through backup_ro.pidtmp
//! ```
//!
//! A reader takes `backup.pid` for a moment, enters itself into
//! `backup_ro.pid`, and gives `backup.pid` back. Who wants to change the backup
//! (delete, merge) takes `backup.pid` and waits until every listed reader is
//! gone. A lock whose process is dead counts for nothing. Source: pg_probackup's
//! `src/catalog.c` (`lock_backup` and what it calls).
//!
//! The pids mean something only on the host, and in the PID namespace, that
//! wrote them. They should belong to the catalog's owner: pg_probackup, run by
//! another user, cannot tell whether a process lives that it may not signal,
//! and gives up (EPERM).

mod error;
mod exclusive;

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;

pub use error::LockError;
use error::{file_error, is_read_only};
use exclusive::{ExclusiveLock, Patience};

const READERS_FILE: &str = "backup_ro.pid";
const READERS_TEMP_FILE: &str = "backup_ro.pidtmp";

/// How long a lock that is dropped, not released, waits for the exclusive lock.
const WAIT_IN_DROP: Duration = Duration::from_secs(2);

/// What came of asking for a lock.
#[derive(Debug)]
#[must_use = "the lock is released when this is dropped"]
pub enum LockOutcome {
    /// The lock is held.
    Held(ReadLock),
    /// The catalog is on a read-only file system. As in pg_probackup this
    /// counts as granted: nobody can change the backup through this mount.
    ReadOnly,
}

/// A shared lock on one backup. Released by [`release`](Self::release); if
/// that was not called, as well as may be when it is dropped.
#[derive(Debug)]
pub struct ReadLock {
    dir: PathBuf,
    holder: Holder,
    wait: Duration,
    released: bool,
}

impl ReadLock {
    /// Enters `pid` as a reader of the backup in `backup_dir`, waiting up to
    /// `wait` while another process changes it. The process must live as long
    /// as the lock shall. It can hold one lock on a backup, not two.
    ///
    /// # Errors
    /// [`LockError::Busy`] when the time is up; [`LockError::NoPermission`] if
    /// the directory may not be written, which a caller may take as a reason to
    /// go on without; or any other failure. No lock file is left behind.
    pub fn acquire(backup_dir: &Path, pid: u32, wait: Duration) -> Result<LockOutcome, LockError> {
        let holder = Holder::alive(backup_dir, pid)?;
        match Self::enter(backup_dir, holder, Patience::of(wait)) {
            Err(error) if is_read_only(&error) => {
                tracing::warn!(
                    backup = %backup_dir.display(),
                    "not locked: the catalog is on a read-only file system"
                );
                Ok(LockOutcome::ReadOnly)
            }
            other => other.map(LockOutcome::Held),
        }
    }

    /// The backup's directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Gives the lock back: drops the own pid and those of dead processes, and
    /// removes the list when none is left.
    ///
    /// # Errors
    /// If the exclusive lock cannot be had in the time given when the lock was
    /// acquired, or a file cannot be written. The entry then stays, and goes
    /// stale when the process ends.
    pub fn release(mut self) -> Result<(), LockError> {
        self.leave(Patience::of(self.wait))
    }

    fn enter(dir: &Path, holder: Holder, patience: Patience) -> Result<Self, LockError> {
        let exclusive = ExclusiveLock::take(dir, holder, patience)?;
        let mut readers = read_readers(dir, holder, Foreign::Refuse)?;
        readers.push(holder.0);
        write_readers(dir, &readers)?;
        // From here on a failure is undone by this value's drop.
        let lock = Self {
            dir: dir.to_owned(),
            holder,
            wait: patience.busy,
            released: false,
        };
        exclusive.give_back()?;
        Ok(lock)
    }

    fn leave(&mut self, patience: Patience) -> Result<(), LockError> {
        // Whatever happens, once is enough: drop shall not try again.
        self.released = true;
        let exclusive = ExclusiveLock::take(&self.dir, self.holder, patience)?;
        let readers = read_readers(&self.dir, self.holder, Foreign::Keep)?;
        write_readers(&self.dir, &readers)?;
        exclusive.give_back()
    }
}

impl Drop for ReadLock {
    fn drop(&mut self) {
        if self.released {
            return;
        }
        if let Err(error) = self.leave(Patience::of(WAIT_IN_DROP)) {
            tracing::warn!(
                backup = %self.dir.display(),
                error = &error as &dyn std::error::Error,
                "the lock's entry stays until its process ends"
            );
        }
    }
}

/// Locks every member of a chain, in the order given: the FULL first, as
/// pg_probackup's restore does. `wait` counts for each member. On failure those
/// already locked are released, the last first.
///
/// # Errors
/// As [`ReadLock::acquire`], for the member that could not be locked.
pub fn lock_chain(
    dirs: &[PathBuf],
    pid: u32,
    wait: Duration,
) -> Result<Vec<LockOutcome>, LockError> {
    let mut held = Vec::with_capacity(dirs.len());
    for dir in dirs {
        match ReadLock::acquire(dir, pid, wait) {
            Ok(outcome) => held.push(outcome),
            Err(error) => {
                while let Some(outcome) = held.pop() {
                    drop(outcome);
                }
                return Err(error);
            }
        }
    }
    Ok(held)
}

/// A process that holds, or is to hold, a lock; always positive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Holder(i32);

impl Holder {
    fn alive(dir: &Path, pid: u32) -> Result<Self, LockError> {
        let holder = i32::try_from(pid).ok().filter(|&pid| pid > 0).map(Self);
        match holder {
            Some(holder) if holder.liveness() != Liveness::Dead => Ok(holder),
            _ => Err(LockError::NoSuchProcess {
                dir: dir.to_owned(),
                pid,
            }),
        }
    }

    /// The pid at the start of `text`, as C's `atoi` reads it, which is what
    /// pg_probackup uses.
    fn parse(text: &[u8]) -> Option<Self> {
        let text = text.trim_ascii_start();
        let digits = text.iter().take_while(|b| b.is_ascii_digit()).count();
        let number = str::from_utf8(text.get(..digits)?).ok()?.parse().ok()?;
        (number > 0).then_some(Self(number))
    }

    fn liveness(self) -> Liveness {
        match kill(Pid::from_raw(self.0), None) {
            Ok(()) => Liveness::Alive,
            Err(Errno::ESRCH) => Liveness::Dead,
            Err(_) => Liveness::Foreign,
        }
    }

    fn number(self) -> u32 {
        self.0.unsigned_abs()
    }

    fn foreign_in(self, file: PathBuf) -> LockError {
        let pid = self.number();
        LockError::ForeignHolder { file, pid }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Liveness {
    Alive,
    Dead,
    /// Alive, but another user's (EPERM).
    Foreign,
}

fn remove(dir: &Path, path: &Path) -> Result<(), LockError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(file_error(dir, path, error)),
        _ => Ok(()),
    }
}

/// What to do about a listed reader of another user.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Foreign {
    Refuse,
    Keep,
}

/// The living readers other than `own`, in the order listed.
fn read_readers(dir: &Path, own: Holder, foreign: Foreign) -> Result<Vec<i32>, LockError> {
    let path = dir.join(READERS_FILE);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(file_error(dir, &path, error)),
    };
    let mut living = Vec::new();
    for line in text.split(|&b| b == b'\n').filter(|line| !line.is_empty()) {
        let Some(reader) = Holder::parse(line) else {
            tracing::warn!(file = %path.display(), "dropping a line that names no process");
            continue;
        };
        if reader == own {
            continue;
        }
        match reader.liveness() {
            Liveness::Dead => {}
            Liveness::Foreign if foreign == Foreign::Refuse => {
                return Err(reader.foreign_in(path));
            }
            Liveness::Alive | Liveness::Foreign => living.push(reader.0),
        }
    }
    Ok(living)
}

/// Replaces the list; an empty one is removed.
fn write_readers(dir: &Path, readers: &[i32]) -> Result<(), LockError> {
    let path = dir.join(READERS_FILE);
    if readers.is_empty() {
        return remove(dir, &path);
    }
    let temp = dir.join(READERS_TEMP_FILE);
    let text: String = readers.iter().map(|pid| format!("{pid}\n")).collect();
    let written = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temp)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .and_then(|()| fs::rename(&temp, &path));
    written.map_err(|error| {
        // If this fails as well, the next writer overwrites the file.
        let _ = fs::remove_file(&temp);
        file_error(dir, &path, error)
    })
}

#[cfg(test)]
mod tests;
