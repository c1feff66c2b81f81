//! `backup.pid`, the lock that only one process at a time holds on a backup.

use std::fmt;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::error::file_error;
use super::holder::Holder;
use super::process::Process;
use super::{LIMIT, LockError};
use crate::escape::value;
use crate::untrusted::Dir;

pub(super) const EXCLUSIVE_FILE: &str = "backup.pid";

/// How long an empty `backup.pid` is left alone. Its owner has created it and is about to
/// write its pid, unless the system crashed in between.
const EMPTY_IS_STALE_AFTER: Duration = Duration::from_secs(30);

/// Interval between attempts to take a busy lock. pg_probackup itself sleeps for a
/// second; readers hold the exclusive lock for less than a millisecond.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Shorter waits are not reported.
const UNTOLD: Duration = Duration::from_millis(200);

/// The cause of a wait for a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// The lock file.
    pub file: PathBuf,
    /// The process that holds it; `None` if the file is empty.
    pub holder: Option<Process>,
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = value(&self.file);
        match &self.holder {
            Some(holder) => write!(f, "{holder} holds {file}"),
            None => write!(f, "{file} is empty: just created, or left by a crash"),
        }
    }
}

/// How long to wait in each case.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    pub(super) busy: Duration,
    /// Counted separately, as in pg_probackup: waiting for an empty file does not use up
    /// the time for a busy one.
    pub(super) empty: Duration,
    pub(super) poll: Duration,
}

impl Patience {
    pub(super) fn of(busy: Duration) -> Self {
        Self {
            busy,
            empty: EMPTY_IS_STALE_AFTER,
            poll: POLL_INTERVAL,
        }
    }
}

/// `backup.pid`, which is removed when this goes out of scope for whatever reason.
pub(super) struct ExclusiveLock {
    dir: Arc<Dir>,
    held: bool,
}

/// What is found if `backup.pid` could not be created.
enum Occupant {
    /// Held by a running process. Its pid is unknown if the file disappeared before it
    /// could be read.
    Busy(Option<Holder>),
    /// Just created, or left in this state by a crash.
    Empty,
    /// No longer valid, for this reason.
    Stale(&'static str),
}

impl ExclusiveLock {
    /// Takes the lock. `waiting` is called with the cause of a wait whenever that
    /// changes.
    pub(super) fn take(
        dir: &Arc<Dir>,
        holder: Holder,
        patience: Patience,
        waiting: &mut dyn FnMut(&Waiting),
    ) -> Result<Self, LockError> {
        let (mut busy, mut empty) = (Duration::ZERO, Duration::ZERO);
        let mut told = None;
        loop {
            if let Some(lock) = Self::try_create(dir, holder)? {
                return Ok(lock);
            }
            let by = match Self::occupant(dir, holder)? {
                Occupant::Stale(why) => {
                    remove_stale(dir, why)?;
                    continue;
                }
                Occupant::Empty if empty >= patience.empty => {
                    remove_stale(dir, "it has been empty for too long")?;
                    continue;
                }
                Occupant::Busy(by) if busy >= patience.busy => {
                    return Err(Self::busy(dir, by, busy));
                }
                Occupant::Empty => {
                    empty += patience.poll;
                    Some(None)
                }
                Occupant::Busy(by) => {
                    busy += patience.poll;
                    by.map(Some)
                }
            };
            if let Some(holder) = by
                && busy + empty >= UNTOLD
                && told != by
            {
                told = by;
                waiting(&Waiting {
                    file: dir.path().join(EXCLUSIVE_FILE),
                    holder: holder.map(Holder::process),
                });
            }
            thread::sleep(patience.poll);
        }
    }

    /// Checks who holds the lock without taking it. A missing, stale or newly created file
    /// would not prevent taking it.
    pub(super) fn look(dir: &Arc<Dir>, own: Holder) -> Result<(), LockError> {
        match Self::occupant(dir, own)? {
            Occupant::Busy(Some(other)) => Err(Self::busy(dir, Some(other), Duration::ZERO)),
            Occupant::Busy(None) | Occupant::Empty | Occupant::Stale(_) => Ok(()),
        }
    }

    fn busy(dir: &Dir, holder: Option<Holder>, waited: Duration) -> LockError {
        LockError::Busy {
            dir: dir.path().to_owned(),
            file: dir.path().join(EXCLUSIVE_FILE),
            holder: holder.map(Holder::process),
            waited,
        }
    }

    /// Creates the file; `None` if it exists.
    fn try_create(dir: &Arc<Dir>, holder: Holder) -> Result<Option<Self>, LockError> {
        let mut file = match dir.create(EXCLUSIVE_FILE, 0o600) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(None),
            Err(error) => return Err(failed(dir, error)),
        };
        let lock = Self {
            dir: dir.clone(),
            held: true,
        };
        // The file is not synced: after a system crash, any content is stale.
        writeln!(file, "{}", holder.number()).map_err(|error| failed(dir, error))?;
        Ok(Some(lock))
    }

    fn occupant(dir: &Dir, own: Holder) -> Result<Occupant, LockError> {
        let text = match dir.read(EXCLUSIVE_FILE, LIMIT) {
            Ok(text) if text.is_empty() => return Ok(Occupant::Empty),
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Occupant::Busy(None));
            }
            Err(error) => return Err(failed(dir, error)),
        };
        let Some(other) = Holder::parse(&text) else {
            return Ok(Occupant::Stale("it names no process"));
        };
        if other == own {
            return Ok(Occupant::Stale(
                "it was left by an earlier process with our pid",
            ));
        }
        match other.is_alive() {
            true => Ok(Occupant::Busy(Some(other))),
            false => Ok(Occupant::Stale("its process has exited")),
        }
    }

    pub(super) fn give_back(mut self) -> Result<(), LockError> {
        self.held = false;
        remove(&self.dir)
    }
}

impl Drop for ExclusiveLock {
    fn drop(&mut self) {
        if self.held
            && let Err(error) = remove(&self.dir)
        {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "the exclusive lock remains until this process exits"
            );
        }
    }
}

fn remove_stale(dir: &Dir, why: &str) -> Result<(), LockError> {
    let file = dir.path().join(EXCLUSIVE_FILE);
    tracing::warn!(file = %value(&file), "removing a stale lock: {why}");
    remove(dir)
}

fn remove(dir: &Dir) -> Result<(), LockError> {
    let removed = dir.remove_file(EXCLUSIVE_FILE);
    removed.map_err(|error| failed(dir, error))
}

fn failed(dir: &Dir, error: io::Error) -> LockError {
    file_error(dir.path(), EXCLUSIVE_FILE, error)
}
