//! `backup.pid`, the lock that one process at a time has on a backup.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use super::error::file_error;
use super::{Holder, Liveness, LockError, remove};

pub(super) const EXCLUSIVE_FILE: &str = "backup.pid";

/// How long an empty `backup.pid` is left alone: its owner has created it and
/// is about to write its pid, unless the system crashed in between.
const EMPTY_IS_STALE_AFTER: Duration = Duration::from_secs(30);

/// How often a busy lock is tried again. pg_probackup itself sleeps a second;
/// readers hold the exclusive lock for less than a millisecond.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// How long to wait for what.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    pub(super) busy: Duration,
    /// Counted apart, as in pg_probackup: an empty file does not use up the
    /// time for a busy one.
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

/// `backup.pid`, removed when this goes out of scope, whatever the reason.
pub(super) struct ExclusiveLock {
    dir: PathBuf,
    held: bool,
}

/// What is found where `backup.pid` could not be created.
enum Occupant {
    /// Held by a living process, if its pid is known: the file may have gone
    /// before it could be read.
    Busy(Option<Holder>),
    /// Just created, or left so by a crash.
    Empty,
    /// Of no meaning any more, for this reason.
    Stale(&'static str),
}

impl ExclusiveLock {
    pub(super) fn take(dir: &Path, holder: Holder, patience: Patience) -> Result<Self, LockError> {
        let path = dir.join(EXCLUSIVE_FILE);
        let (mut busy, mut empty) = (Duration::ZERO, Duration::ZERO);
        loop {
            if let Some(lock) = Self::try_create(dir, &path, holder)? {
                return Ok(lock);
            }
            match Self::occupant(dir, &path, holder)? {
                Occupant::Stale(why) => {
                    remove_stale(dir, &path, why)?;
                    continue;
                }
                Occupant::Empty if empty >= patience.empty => {
                    remove_stale(dir, &path, "it has been empty for long")?;
                    continue;
                }
                Occupant::Busy(by) if busy >= patience.busy => {
                    return Err(LockError::Busy {
                        dir: dir.to_owned(),
                        holder: by.map(Holder::number),
                        waited: busy,
                    });
                }
                Occupant::Empty => empty += patience.poll,
                Occupant::Busy(_) => busy += patience.poll,
            }
            thread::sleep(patience.poll);
        }
    }

    /// `None` if the file exists.
    fn try_create(dir: &Path, path: &Path, holder: Holder) -> Result<Option<Self>, LockError> {
        let opened = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path);
        let mut file = match opened {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(None),
            Err(error) => return Err(file_error(dir, path, error)),
        };
        let lock = Self {
            dir: dir.to_owned(),
            held: true,
        };
        // Not synced: after a crash of the system any content is stale.
        writeln!(file, "{}", holder.0).map_err(|error| file_error(dir, path, error))?;
        Ok(Some(lock))
    }

    fn occupant(dir: &Path, path: &Path, own: Holder) -> Result<Occupant, LockError> {
        let text = match fs::read(path) {
            Ok(text) if text.is_empty() => return Ok(Occupant::Empty),
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Occupant::Busy(None));
            }
            Err(error) => return Err(file_error(dir, path, error)),
        };
        let Some(other) = Holder::parse(&text) else {
            return Ok(Occupant::Stale("it names no process"));
        };
        if other == own {
            return Ok(Occupant::Stale(
                "it was left by an earlier process of our number",
            ));
        }
        match other.liveness() {
            Liveness::Alive => Ok(Occupant::Busy(Some(other))),
            Liveness::Dead => Ok(Occupant::Stale("its process is gone")),
            Liveness::Foreign => Err(other.foreign_in(path.to_owned())),
        }
    }

    pub(super) fn give_back(mut self) -> Result<(), LockError> {
        self.held = false;
        remove(&self.dir, &self.dir.join(EXCLUSIVE_FILE))
    }
}

impl Drop for ExclusiveLock {
    fn drop(&mut self) {
        if self.held
            && let Err(error) = remove(&self.dir, &self.dir.join(EXCLUSIVE_FILE))
        {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "the exclusive lock stays until this process ends"
            );
        }
    }
}

fn remove_stale(dir: &Path, path: &Path, why: &str) -> Result<(), LockError> {
    tracing::warn!(file = %path.display(), "removing a stale lock: {why}");
    remove(dir, path)
}
