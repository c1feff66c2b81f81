//! A diff in use: opened, locked and bound.

mod new;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::data::{DirStorage, Storage};
use super::directory::{self, Binding, Root};
use super::error::DiffError;
use super::layout::{DATA_DIR, LOCK_FILE, NOT_THERE, WAL_DIR};
use super::lock::{DiffLock, LockHolder};
use super::store::{Batch, ContentRecord, HeldBlocks, Store, StoreBackend};
use crate::untrusted::{Dir, Kind};

/// An opened, locked diff directory, bound to one backup.
pub struct Diff {
    // `None` for what `from_parts` made.
    root: Option<Arc<Root>>,
    store: Store,
    storage: Arc<dyn Storage>,
    // The flock goes when the diff does.
    lock: Option<DiffLock>,
}

impl Diff {
    /// Opens the diff that is locked by `lock`, and binds it to `binding` if it
    /// is new. A new diff's directory is its owner's alone to write from then
    /// on. Root may use a diff that another user owns: whatever that user does
    /// to it, he does to his own clone.
    ///
    /// # Errors
    /// [`DiffError::BoundElsewhere`] when the diff belongs to another backup;
    /// [`DiffError::WritableByOthers`] when others than its owner can write to
    /// its directory; [`DiffError::Foreign`] and [`DiffError::Linked`] for
    /// parts that are none; [`DiffError::Damaged`]; I/O and format errors.
    pub fn open(lock: DiffLock, binding: &Binding) -> Result<Self, DiffError> {
        let root = lock.root().clone();
        if directory::check(&root, binding)?.is_none() {
            new::make(&root, binding)?;
        }
        let storage = DirStorage::open(&root)?;
        let store = Store::open(StoreBackend::In(root.clone()))?;
        for ino in storage.check(store.inodes_with_content()?.into_iter())? {
            // A file may have blocks here and none of them yet.
            if store
                .content(ino)?
                .is_some_and(|(record, held)| needs_file(record, &held))
            {
                return Err(DiffError::Damaged {
                    path: storage.path_of(ino),
                    reason: NOT_THERE.to_owned(),
                });
            }
        }
        Ok(Self {
            root: Some(root),
            store,
            storage: Arc::new(storage),
            lock: Some(lock),
        })
    }

    /// A diff over any storage, for tests that lose power on purpose.
    #[cfg(test)]
    pub(crate) fn from_parts(
        backend: StoreBackend,
        storage: Arc<dyn Storage>,
    ) -> Result<Self, DiffError> {
        let store = Store::open(backend)?;
        Ok(Self {
            root: None,
            store,
            storage,
            lock: None,
        })
    }

    /// The diff's directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        self.root.as_ref().map_or(Path::new(""), |root| root.path())
    }

    /// A copy of the lock's descriptor, for the server that writes to the diff:
    /// see [`DiffLock::share`].
    ///
    /// # Errors
    /// The system's own.
    pub fn share_lock(&self) -> Result<Option<OwnedFd>, DiffError> {
        let shared = self.lock.as_ref().map(DiffLock::share).transpose();
        shared.map_err(|e| DiffError::io("share", &self.root().join(LOCK_FILE), e))
    }

    /// The metadata.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The data files.
    #[must_use]
    pub fn storage(&self) -> &dyn Storage {
        &*self.storage
    }

    /// What pbkfs has noted about the clone under that name.
    ///
    /// # Errors
    /// I/O errors; a damaged note.
    pub fn note(&self, name: &str) -> Result<Option<Vec<u8>>, DiffError> {
        self.store.note(name)
    }

    /// Notes something of at most 64 KiB under that name, or forgets it;
    /// durable when this returns.
    ///
    /// # Errors
    /// I/O errors, after which the old note still is there; a longer one.
    pub fn set_note(&self, name: &str, value: Option<&[u8]>) -> Result<(), DiffError> {
        self.store.set_note(name, value)
    }

    /// Applies `batch` in one durable transaction. Data files made since the
    /// last call get their directory entries synced first, so that no record
    /// can outlive the file that it points at.
    ///
    /// # Errors
    /// The file system's own error (`ENOSPC`, `EIO`) in
    /// [`DiffError::Io`]; nothing of the batch is applied then.
    pub fn commit(&self, batch: &Batch) -> Result<(), DiffError> {
        self.storage
            .sync_names()
            .map_err(|e| DiffError::io("sync", &self.root().join(DATA_DIR), e))?;
        self.store.commit(batch)
    }

    /// Removes data files that no record names: left by a crash between
    /// making a file and committing it, or between a committed removal and
    /// deleting its bytes.
    ///
    /// # Errors
    /// I/O errors of the data directory.
    pub fn collect_garbage(&self) -> Result<usize, DiffError> {
        let data_dir = self.root().join(DATA_DIR);
        let files = self
            .storage
            .list()
            .map_err(|e| DiffError::io("list", &data_dir, e))?;
        let known = self.store.inodes_with_content()?;
        let mut removed = 0;
        for ino in files.into_iter().filter(|ino| !known.contains(ino)) {
            self.storage
                .remove(ino)
                .map_err(|e| DiffError::io("remove", &data_dir.join(ino.to_string()), e))?;
            removed += 1;
        }
        Ok(removed)
    }

    /// The diff's directory, opened; `None` for one that is none.
    #[must_use]
    pub fn dir(&self) -> Option<&Dir> {
        self.root.as_ref().map(|root| root.dir())
    }

    /// Removes a throw-away diff with the directory itself: what the format
    /// names, and nothing else. pbkfs made the directory, so a link in its place
    /// is somebody else's. Nobody but this process may be using it; the server of
    /// an owner that has died is waited for.
    ///
    /// # Errors
    /// [`DiffError::Busy`] and [`DiffError::HeldByServer`], and nothing is removed;
    /// I/O errors, among them that the directory holds something else.
    pub fn remove(root: &Path) -> Result<(), DiffError> {
        let io = |e| DiffError::io("remove", root, e);
        let (parent, name) = Dir::of_file(root).map_err(io)?;
        let diff = Arc::new(Root::below(&parent, name).map_err(io)?);
        let this = LockHolder::this_process(Path::new(""));
        let _lock = match DiffLock::acquire_in(diff.clone(), &this) {
            // By a mount that was detached, as somebody still has files open.
            Err(DiffError::Busy { holder, .. }) if holder.is_same_process(&this) => None,
            lock => Some(lock?),
        };
        diff.empty()?;
        diff.remove_lock()?;
        parent.remove_dir(name).map_err(io)
    }

    /// Where the server's WAL directory is, if it was moved out of the overlay.
    #[must_use]
    pub fn wal_dir(&self) -> PathBuf {
        self.root().join(WAL_DIR)
    }

    /// Removes a WAL directory that no link of the overlay leads to: left by a
    /// crash before it was linked.
    ///
    /// # Errors
    /// I/O errors.
    pub fn remove_wal_dir(&self) -> Result<(), DiffError> {
        self.root
            .as_ref()
            .map_or(Ok(()), |root| root.remove_wal_dir())
    }

    /// Makes the WAL directory, which must not be there, and opens it.
    ///
    /// # Errors
    /// I/O errors.
    pub fn make_wal_dir(&self) -> Result<Dir, DiffError> {
        let made = match &self.root {
            Some(root) => root.dir().make_dir(WAL_DIR, 0o700),
            None => Err(std::io::ErrorKind::Unsupported.into()),
        };
        made.map_err(|e| DiffError::io("make the directory", &self.wal_dir(), e))
    }

    /// Makes what was made and removed in the diff's directory durable.
    ///
    /// # Errors
    /// I/O errors.
    pub fn sync_root(&self) -> Result<(), DiffError> {
        self.root.as_ref().map_or(Ok(()), |root| root.sync())
    }

    /// Bytes that the diff takes on disk, holes left out.
    ///
    /// # Errors
    /// I/O errors of the directory.
    pub fn disk_bytes(root: &Path) -> Result<u64, DiffError> {
        let root = Root::open(root)?;
        let mut total = directory::disk_usage(&root).bytes;
        let data = root.open_dir(DATA_DIR)?;
        for dir in [Some(root.dir()), data.as_ref()].into_iter().flatten() {
            let names = dir.names();
            for name in names.map_err(|e| DiffError::io("list", dir.path(), e))? {
                // A file may vanish between the two calls; it takes nothing then.
                if let Ok(Some(stat)) = dir.stat(name)
                    && stat.kind == Kind::File
                {
                    total = total.saturating_add(stat.disk_bytes);
                }
            }
        }
        Ok(total)
    }
}

/// Whether some of a file's bytes can only be in its data file.
fn needs_file(record: ContentRecord, held: &HeldBlocks) -> bool {
    matches!(record, ContentRecord::Whole { .. }) || !held.data.is_empty()
}
