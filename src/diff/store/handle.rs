//! The one place where redb is used: opened on demand, and isolated from the rest of
//! pbkfs.
//!
//! The file may be damaged, or crafted to do harm. Damage that redb then reports, and
//! any panic, becomes [`DiffError::Damaged`], and the store is not used again.
//! panics with, is [`DiffError::Damaged`], and the store is not used again.

use std::io::ErrorKind;
use std::mem;
use std::path::PathBuf;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use redb::Database;

use super::backend::StoreBackend;
use super::panics::contain;
use crate::diff::error::DiffError;

/// See the module's documentation.
pub struct Handle {
    backend: StoreBackend,
    state: RwLock<State>,
}

enum State {
    /// Before the first use, and after a failure.
    Closed,
    Open(Database),
    /// The damage that was found.
    Damaged(String),
}

impl Handle {
    pub fn new(backend: StoreBackend) -> Self {
        Self {
            backend,
            state: RwLock::new(State::Closed),
        }
    }

    pub fn path(&self) -> PathBuf {
        self.backend.path()
    }

    /// Runs `work` on the database. Reads continue during a commit. After an I/O error
    /// (a full disk) redb refuses all further use of a handle, although the file on
    /// disk is intact. The next call then reopens it.
    ///
    /// # Errors
    /// Returns [`DiffError::Store`], or [`DiffError::Damaged`], which all later calls
    /// return, too.
    pub fn with<T>(
        &self,
        action: &'static str,
        work: impl FnOnce(&Database) -> Result<T, redb::Error>,
    ) -> Result<T, DiffError> {
        loop {
            let state = self.read();
            match &*state {
                State::Open(database) => {
                    let done = contain(|| work(database));
                    drop(state);
                    return match done {
                        Ok(done) => done.map_err(|error| self.failed(action, error)),
                        Err(panic) => {
                            // Do not run redb on this data again, not even to close it.
                            mem::forget(self.replace(State::Damaged(panic.clone())));
                            Err(self.damaged(&panic))
                        }
                    };
                }
                State::Damaged(reason) => return Err(self.damaged(reason)),
                State::Closed => {}
            }
            drop(state);
            self.open(action)?;
        }
    }

    fn open(&self, action: &'static str) -> Result<(), DiffError> {
        let mut state = self.write();
        if !matches!(*state, State::Closed) {
            return Ok(());
        }
        let opened = match contain(|| self.backend.open()) {
            Ok(opened) => opened?,
            Err(panic) => Err(redb::Error::Corrupted(panic)),
        };
        match opened {
            Ok(database) => {
                *state = State::Open(database);
                Ok(())
            }
            Err(error) => {
                drop(state);
                Err(self.failed(action, error))
            }
        }
    }

    /// Classifies redb's error.
    fn failed(&self, action: &'static str, error: redb::Error) -> DiffError {
        if is_damage(&error) {
            let reason = match error {
                redb::Error::Corrupted(reason) => reason,
                other => other.to_string(),
            };
            let answer = self.damaged(&reason);
            close(self.replace(State::Damaged(reason)));
            return answer;
        }
        if matches!(error, redb::Error::Io(_) | redb::Error::PreviousIo) {
            close(self.replace(State::Closed));
        }
        DiffError::Store {
            action,
            path: self.path(),
            source: Box::new(error),
        }
    }

    fn damaged(&self, reason: &str) -> DiffError {
        DiffError::Damaged {
            path: self.path(),
            reason: reason.to_owned(),
        }
    }

    /// Changes the state once the database is not in use. A damaged state stays.
    fn replace(&self, new: State) -> State {
        let mut state = self.write();
        match *state {
            State::Damaged(_) => State::Closed,
            _ => mem::replace(&mut *state, new),
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        close(self.replace(State::Closed));
    }
}

/// Closes the database. redb then writes to the file once more, and may find damage
/// only now.
fn close(state: State) {
    if let Err(panic) = contain(|| drop(state)) {
        tracing::debug!(panic, "the diff's metadata is damaged");
    }
}

/// Whether the error is about the file, and not about this use of it or the system.
/// Unless somebody else wrote the file, redb never sees one that is truncated, has
/// other types or lacks tables.
fn is_damage(error: &redb::Error) -> bool {
    use redb::Error;
    match error {
        Error::Io(error) => matches!(
            error.kind(),
            ErrorKind::UnexpectedEof | ErrorKind::InvalidData
        ),
        Error::Corrupted(_)
        | Error::UpgradeRequired(_)
        | Error::RepairAborted
        | Error::TableTypeMismatch { .. }
        | Error::TableIsMultimap(_)
        | Error::TableIsNotMultimap(_)
        | Error::TypeDefinitionChanged { .. }
        | Error::TableDoesNotExist(_)
        | Error::LockPoisoned(_) => true,
        _ => false,
    }
}
