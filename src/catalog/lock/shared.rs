//! The readers' lock, on one backup or on a whole chain.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::error::{LockError, file_error, is_read_only};
use super::exclusive::{EXCLUSIVE_FILE, ExclusiveLock, Patience, Waiting};
use super::holder::Holder;
use super::readers;
use crate::escape::value;
use crate::untrusted::Dir;

/// How long dropping a lock that was not released waits for the exclusive lock.
const WAIT_IN_DROP: Duration = Duration::from_secs(2);

/// The outcome of a request for a lock.
#[derive(Debug)]
#[must_use = "the lock is released when this is dropped"]
pub enum LockOutcome {
    /// The lock is held.
    Held(ReadLock),
    /// The catalog is on a read-only file system. As in pg_probackup, this counts as
    /// granted: nobody can change the backup through this mount.
    ReadOnly,
}

/// A shared lock on one backup. It is released by [`release`](Self::release); if that was
/// not called, dropping it tries to release it.
#[derive(Debug)]
pub struct ReadLock {
    dir: Arc<Dir>,
    holder: Holder,
    wait: Duration,
    released: bool,
}

impl ReadLock {
    /// Registers `pid` as a reader of the backup in `dir`, waiting up to `wait` while
    /// another process changes it; `waiting` is called with the cause. The process must
    /// live as long as the lock is needed. It can hold only one lock on a backup.
    ///
    /// # Errors
    /// [`LockError::Busy`] if the time runs out; [`LockError::NoPermission`] if the
    /// directory may not be written, in which case a caller may choose to go on without a
    /// lock; [`LockError::Gone`] if the backup has been replaced; or any other failure.
    /// No lock file is left behind.
    pub(crate) fn acquire(
        dir: &Arc<Dir>,
        pid: u32,
        wait: Duration,
        waiting: &mut dyn FnMut(&Waiting),
    ) -> Result<LockOutcome, LockError> {
        let holder = Holder::alive(dir.path(), pid)?;
        match Self::enter(dir, holder, Patience::of(wait), waiting) {
            Err(error) if is_read_only(&error) => {
                tracing::warn!(
                    backup = %value(dir.path()),
                    "not locked: the catalog is on a read-only file system"
                );
                Ok(LockOutcome::ReadOnly)
            }
            other => other.map(LockOutcome::Held),
        }
    }

    /// Releases the lock: removes its own pid and those of dead processes, and deletes
    /// the list if it is then empty.
    ///
    /// # Errors
    /// If the exclusive lock cannot be taken within the time given when the lock was
    /// acquired, or if a file cannot be written. The entry then remains, and becomes
    /// stale when the process exits.
    pub fn release(mut self) -> Result<(), LockError> {
        self.leave(Patience::of(self.wait))
    }

    fn enter(
        dir: &Arc<Dir>,
        holder: Holder,
        patience: Patience,
        waiting: &mut dyn FnMut(&Waiting),
    ) -> Result<Self, LockError> {
        let exclusive = ExclusiveLock::take(dir, holder, patience, waiting)?;
        // A merge renames the directory of the FULL backup.
        if !is_in_its_place(dir).map_err(|e| file_error(dir.path(), EXCLUSIVE_FILE, e))? {
            let dir = dir.path().to_owned();
            return Err(LockError::Gone { dir });
        }
        let mut readers = readers::read(dir, holder)?;
        readers.push(holder);
        readers::write(dir, &readers)?;
        // From here on, dropping this value undoes a failure.
        let lock = Self {
            dir: dir.clone(),
            holder,
            wait: patience.busy,
            released: false,
        };
        exclusive.give_back()?;
        Ok(lock)
    }

    fn leave(&mut self, patience: Patience) -> Result<(), LockError> {
        // Once is enough, whatever happens: drop must not try again.
        self.released = true;
        let taken = ExclusiveLock::take(&self.dir, self.holder, patience, &mut |_| ());
        let exclusive = match taken {
            // Then there is nothing to release.
            Err(LockError::Gone { .. }) => return Ok(()),
            taken => taken?,
        };
        let readers = readers::read(&self.dir, self.holder)?;
        readers::write(&self.dir, &readers)?;
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
                backup = %value(self.dir.path()),
                error = &error as &dyn std::error::Error,
                "the lock's entry remains until its process exits"
            );
        }
    }
}

/// Checks whether another process prevents locking a chain, without locking anything.
///
/// # Errors
/// [`LockError::Busy`] for the first member that is being changed; also the errors of
/// [`open`] and of reading the lock files.
pub(crate) fn look(dirs: &[PathBuf]) -> Result<(), LockError> {
    for dir in open(dirs)? {
        let own = Holder::alive(dir.path(), std::process::id())?;
        ExclusiveLock::look(&dir, own)?;
    }
    Ok(())
}

/// Removes what a killed holder of ours has left in a backup's directory: its line among
/// the readers, and an exclusive lock that it held when it was killed. Does nothing if
/// the holder is not listed or is running.
///
/// # Errors
/// As for [`ReadLock::acquire`].
pub(crate) fn forget(dir: &Arc<Dir>, killed: u32) -> Result<(), LockError> {
    let own = Holder::alive(dir.path(), std::process::id())?;
    let is_named = readers::names(dir, readers::READERS_FILE, killed)?
        || readers::names(dir, EXCLUSIVE_FILE, killed)?;
    if !is_named || Holder::alive(dir.path(), killed).is_ok() {
        return Ok(());
    }
    let patience = Patience::of(WAIT_IN_DROP);
    let exclusive = ExclusiveLock::take(dir, own, patience, &mut |_| ())?;
    let living = readers::read(dir, own)?;
    readers::write(dir, &living)?;
    exclusive.give_back()
}

/// Opens the directories of backups to be locked.
///
/// # Errors
/// [`LockError::Gone`] if one does not exist; [`LockError::NoPermission`]; the system's
/// errors.
pub(crate) fn open(dirs: &[PathBuf]) -> Result<Vec<Arc<Dir>>, LockError> {
    let open = |dir: &PathBuf| match Dir::open(dir) {
        Ok(opened) => Ok(Arc::new(opened)),
        Err(error) => Err(file_error(dir, EXCLUSIVE_FILE, error)),
    };
    dirs.iter().map(open).collect()
}

/// Whether an opened directory is still the one that its path resolves to.
fn is_in_its_place(dir: &Dir) -> std::io::Result<bool> {
    match Dir::open(dir.path()) {
        Ok(now) => Ok(now.stat_self()?.id == dir.stat_self()?.id),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        // The lock's holder may have no access to the parent directories.
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Ok(true),
        Err(error) => Err(error),
    }
}

/// Locks every member of a chain in the given order: the FULL first, as pg_probackup's
/// restore does. `wait` applies to each member; `waiting` is called with the cause of a
/// wait. On failure, the members already locked are released, the last first.
///
/// # Errors
/// As for [`ReadLock::acquire`], for the member that could not be locked.
pub(crate) fn lock_chain(
    dirs: &[Arc<Dir>],
    pid: u32,
    wait: Duration,
    waiting: &mut dyn FnMut(&Waiting),
) -> Result<Vec<LockOutcome>, LockError> {
    let mut held = Vec::with_capacity(dirs.len());
    for dir in dirs {
        match ReadLock::acquire(dir, pid, wait, waiting) {
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

#[cfg(test)]
mod tests;
