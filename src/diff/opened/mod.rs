//! A diff in use: opened, locked and bound.

mod new;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::data::{DirStorage, Storage};
use super::directory::{self, Binding, Promotion, Root};
use super::error::DiffError;
use super::layout::{CATALOG_DIR, DATA_DIR, LOCK_FILE, NEW_CATALOG_DIR, NOT_THERE, WAL_DIR};
use super::lock::{DiffLock, LockHolder};
use super::store::{Batch, ContentRecord, HeldBlocks, Store, StoreBackend};
use crate::untrusted::{Dir, Kind};

/// An opened, locked diff directory, bound to one backup.
pub struct Diff {
    // `None` in a diff created by `from_parts`.
    root: Option<Arc<Root>>,
    store: Store,
    storage: Arc<dyn Storage>,
    // Dropping the diff releases the flock.
    lock: Option<DiffLock>,
}

impl Diff {
    /// Opens the diff that is locked by `lock`, and binds it to `binding` if it is new.
    /// From then on, only its owner can write to the directory of a new diff. Root may
    /// use a diff that another user owns: whatever that user does to it affects only
    /// the user's own clone.
    ///
    /// # Errors
    /// Returns [`DiffError::BoundElsewhere`] if the diff belongs to another backup;
    /// [`DiffError::WritableByOthers`] if users other than its owner can write to its
    /// directory; [`DiffError::Foreign`] or [`DiffError::Linked`] if a part is not what
    /// pbkfs creates; [`DiffError::Damaged`]; and I/O and format errors.
    pub fn open(lock: DiffLock, binding: &Binding) -> Result<Self, DiffError> {
        let root = lock.root().clone();
        if directory::check(&root, binding)?.is_none() {
            new::make(&root, binding)?;
        }
        let storage = DirStorage::open(&root)?;
        let store = Store::open(StoreBackend::In(root.clone()))?;
        for ino in storage.check(store.inodes_with_content()?.into_iter())? {
            // A file may have a record for blocks and no block yet.
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

    /// Builds a diff on any storage, for tests that simulate a power loss.
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

    /// Returns the path of the diff's directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        self.root.as_ref().map_or(Path::new(""), |root| root.path())
    }

    /// Duplicates the lock's descriptor, for the server that writes to the diff; see
    /// [`DiffLock::share`].
    ///
    /// # Errors
    /// If the system call fails.
    pub fn share_lock(&self) -> Result<Option<OwnedFd>, DiffError> {
        let shared = self.lock.as_ref().map(DiffLock::share).transpose();
        shared.map_err(|e| DiffError::io("share", &self.root().join(LOCK_FILE), e))
    }

    /// Returns the metadata.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Returns the data files.
    #[must_use]
    pub fn storage(&self) -> &dyn Storage {
        &*self.storage
    }

    /// Returns the note of that name that pbkfs keeps about the clone.
    ///
    /// # Errors
    /// If an I/O operation fails, or if the note is damaged.
    pub fn note(&self, name: &str) -> Result<Option<Vec<u8>>, DiffError> {
        self.store.note(name)
    }

    /// Sets the note of that name, of at most 64 KiB, or removes it. The change is
    /// durable when this returns.
    ///
    /// # Errors
    /// If an I/O operation fails, and then the old note remains; if the note is too
    /// large.
    pub fn set_note(&self, name: &str, value: Option<&[u8]>) -> Result<(), DiffError> {
        self.store.set_note(name, value)
    }

    /// Applies `batch` in one durable transaction. The directory entries of data files
    /// created since the last call are synced first, so that no record can outlive the
    /// file that it refers to.
    ///
    /// # Errors
    /// Returns the file system's error (`ENOSPC`, `EIO`) in [`DiffError::Io`]; then
    /// nothing of the batch is applied.
    pub fn commit(&self, batch: &Batch) -> Result<(), DiffError> {
        self.storage
            .sync_names()
            .map_err(|e| DiffError::io("sync", &self.root().join(DATA_DIR), e))?;
        self.store.commit(batch)
    }

    /// Removes data files that no record names. A crash leaves them between creating a
    /// file and committing its record, or between committing a removal and deleting the
    /// bytes.
    ///
    /// # Errors
    /// If an I/O operation on the data directory fails.
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

    /// Records that the clone is being cut over to a data directory, or was, and that
    /// nobody may use the diff. `None` removes the record.
    ///
    /// # Errors
    /// If an I/O operation fails.
    pub fn record_promotion(&self, promotion: Option<&Promotion>) -> Result<(), DiffError> {
        let root = self.root.as_ref();
        root.map_or(Ok(()), |root| directory::record_promotion(root, promotion))
    }

    /// Does the same for a diff that is not open and that an interrupted promotion has
    /// left. It is locked meanwhile.
    ///
    /// # Errors
    /// If the diff is in use, or if an I/O operation fails.
    pub fn amend_promotion(root: &Path, promotion: Option<&Promotion>) -> Result<(), DiffError> {
        let this = LockHolder::this_process(Path::new(""));
        let lock = DiffLock::acquire(root, &this)?;
        directory::record_promotion(lock.root(), promotion)
    }

    /// Whether the diff keeps what is still needed of the catalog.
    ///
    /// # Errors
    /// If an I/O operation fails.
    pub fn keeps_catalog(&self) -> Result<bool, DiffError> {
        let stat = self.root.as_ref().map(|root| root.stat(CATALOG_DIR));
        Ok(stat.transpose()?.flatten().is_some())
    }

    /// Creates an empty directory for what is still needed of the catalog, and opens it.
    /// It counts only after [`Diff::put_catalog`].
    ///
    /// # Errors
    /// If an I/O operation fails.
    pub fn begin_catalog(&self) -> Result<Dir, DiffError> {
        if let Some(root) = &self.root {
            root.remove_tree(NEW_CATALOG_DIR)?;
        }
        self.make_dir(NEW_CATALOG_DIR)
    }

    /// Creates a directory of that name, which must not exist, and opens it.
    fn make_dir(&self, name: &str) -> Result<Dir, DiffError> {
        let made = match &self.root {
            Some(root) => root.dir().make_dir(name, 0o700),
            None => Err(std::io::ErrorKind::Unsupported.into()),
        };
        made.map_err(|e| DiffError::io("create the directory", &self.root().join(name), e))
    }

    /// Makes that directory durable and puts it in place.
    ///
    /// # Errors
    /// If an I/O operation fails.
    pub fn put_catalog(&self) -> Result<(), DiffError> {
        let io = |e| DiffError::io("create", &self.root().join(CATALOG_DIR), e);
        let Some(root) = &self.root else {
            return Ok(());
        };
        self.storage.sync_bytes().map_err(io)?;
        let renamed = root.dir().rename(NEW_CATALOG_DIR, CATALOG_DIR);
        renamed.map_err(io)?;
        root.sync()
    }

    /// Returns the opened directory of the diff; `None` if the diff has no directory.
    #[must_use]
    pub fn dir(&self) -> Option<&Dir> {
        self.root.as_ref().map(|root| root.dir())
    }

    /// Removes a throw-away diff with its directory: what the format names, and nothing
    /// else. pbkfs created the directory, so a link in its place is foreign. No other
    /// process may be using the diff; if its owner has died, this waits for the owner's
    /// server to exit.
    ///
    /// # Errors
    /// Returns [`DiffError::Busy`] or [`DiffError::HeldByServer`], and then removes
    /// nothing; and I/O errors, for example if the directory holds something else.
    pub fn remove(root: &Path) -> Result<(), DiffError> {
        let io = |e| DiffError::io("remove", root, e);
        let (parent, name) = Dir::of_file(root).map_err(io)?;
        let diff = Arc::new(Root::below(&parent, name).map_err(io)?);
        let this = LockHolder::this_process(Path::new(""));
        let _lock = match DiffLock::acquire_in(diff.clone(), &this) {
            // A detached mount holds it, because files in it are still open.
            Err(DiffError::Busy { holder, .. }) if holder.is_same_process(&this) => None,
            lock => Some(lock?),
        };
        diff.empty()?;
        diff.unlink(LOCK_FILE)?;
        parent.remove_dir(name).map_err(io)
    }

    /// Returns the path of the server's WAL directory, if it was moved out of the
    /// overlay.
    #[must_use]
    pub fn wal_dir(&self) -> PathBuf {
        self.root().join(WAL_DIR)
    }

    /// Removes a WAL directory that no link in the overlay points to. A crash leaves
    /// one behind before it is linked.
    ///
    /// # Errors
    /// If an I/O operation fails.
    pub fn remove_wal_dir(&self) -> Result<(), DiffError> {
        let root = self.root.as_ref();
        root.map_or(Ok(()), |root| root.remove_tree(WAL_DIR))
    }

    /// Creates the WAL directory, which must not exist, and opens it.
    ///
    /// # Errors
    /// If an I/O operation fails.
    pub fn make_wal_dir(&self) -> Result<Dir, DiffError> {
        self.make_dir(WAL_DIR)
    }

    /// Makes creations and removals in the diff's directory durable.
    ///
    /// # Errors
    /// If an I/O operation fails.
    pub fn sync_root(&self) -> Result<(), DiffError> {
        self.root.as_ref().map_or(Ok(()), |root| root.sync())
    }

    /// Returns the size of the diff on disk in bytes, without holes.
    ///
    /// # Errors
    /// If an I/O operation on the directory fails.
    pub fn disk_bytes(root: &Path) -> Result<u64, DiffError> {
        let root = Root::open(root)?;
        let mut total = directory::disk_usage(&root).bytes;
        let data = root.open_dir(DATA_DIR)?;
        for dir in [Some(root.dir()), data.as_ref()].into_iter().flatten() {
            let names = dir.names();
            for name in names.map_err(|e| DiffError::io("list", dir.path(), e))? {
                // A file may vanish between the two calls, and then takes no space.
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
