//! The writable layer on disk: what a clone changed, and nothing else.
//!
//! ```text
//! DIFF/.pbkfs-binding.json   the backup that the diff belongs to      -> binding
//! DIFF/.pbkfs-lock           flock'ed while in use, never deleted     -> lock
//! DIFF/meta.redb             names, inodes, which blocks are here,    -> store
//!                            and small changes of blocks              -> deltas
//! DIFF/data/INODE            the bytes, at their natural offsets      -> data
//! DIFF/.pbkfs-wal/           the server's pg_wal, once one has run    -> wal_dir
//! ```
//!
//! This module stores and finds; what the parts mean together (which block
//! wins, when a bit may become durable) is decided in [`crate::overlay`]. The
//! one rule that both rest on: **metadata that points at bytes is committed
//! only after those bytes are on disk.**

mod backend;
mod binding;
mod cleanup;
mod data;
mod deltas;
mod error;
mod inspect;
mod lock;
mod record;
mod reserved;
mod store;
mod wal_dir;

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use backend::StoreBackend;
pub use binding::{Binding, FORMAT_VERSION};
pub use cleanup::{Changes, Cleanup, counted};
pub use data::{DataFile, DataStat, DirStorage, Storage, system_time, time_ns};
pub use deltas::{DeltaChange, HeldBlocks};
pub use error::DiffError;
pub use inspect::{HeldContent, Records, inspect};
pub use lock::{DiffLock, LockHolder};
pub use record::{
    BLOCKS_PER_CHUNK, Batch, BlockChunk, ContentRecord, InodeKind, InodeRecord, NameEntry,
};
pub use store::{Namespace, Store};
pub use wal_dir::WAL_DIR;

const META_FILE: &str = "meta.redb";
const DATA_DIR: &str = "data";

/// An opened, locked diff directory, bound to one backup.
pub struct Diff {
    root: PathBuf,
    store: Store,
    storage: Arc<dyn Storage>,
    binding: Binding,
    // The flock goes when the diff does.
    lock: Option<DiffLock>,
}

impl Diff {
    /// Opens the diff in `root`, which is made when it does not exist, and
    /// binds it to `binding` if it is new. `lock` is the diff's own lock,
    /// taken before by [`DiffLock::acquire`].
    ///
    /// # Errors
    /// [`DiffError::BoundElsewhere`] when the diff belongs to another backup;
    /// [`DiffError::NotADiff`] when the directory holds something else;
    /// I/O and format errors of its parts.
    pub fn open(root: &Path, lock: DiffLock, binding: &Binding) -> Result<Self, DiffError> {
        let binding = binding::bind(root, binding)?;
        let storage = DirStorage::open(&root.join(DATA_DIR))?;
        let store = Store::open(StoreBackend::File(root.join(META_FILE)))?;
        Ok(Self {
            root: root.to_owned(),
            store,
            storage: Arc::new(storage),
            binding,
            lock: Some(lock),
        })
    }

    /// A diff over any storage, for tests that lose power on purpose.
    #[doc(hidden)]
    pub fn from_parts(
        backend: StoreBackend,
        storage: Arc<dyn Storage>,
        binding: Binding,
    ) -> Result<Self, DiffError> {
        let store = Store::open(backend)?;
        Ok(Self {
            root: PathBuf::new(),
            store,
            storage,
            binding,
            lock: None,
        })
    }

    /// The diff's directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A copy of the lock's descriptor, for the server that writes to the diff:
    /// see [`DiffLock::share`].
    ///
    /// # Errors
    /// The system's own.
    pub fn share_lock(&self) -> Result<Option<OwnedFd>, DiffError> {
        let shared = self.lock.as_ref().map(DiffLock::share).transpose();
        shared.map_err(|e| DiffError::io("share", &self.root.join(lock::LOCK_FILE), e))
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

    /// The backup that the diff belongs to.
    #[must_use]
    pub fn binding(&self) -> &Binding {
        &self.binding
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
            .map_err(|e| DiffError::io("sync", &self.root.join(DATA_DIR), e))?;
        self.store.commit(batch)
    }

    /// Removes data files that no record names: left by a crash between
    /// making a file and committing it, or between a committed removal and
    /// deleting its bytes.
    ///
    /// # Errors
    /// I/O errors of the data directory.
    pub fn collect_garbage(&self) -> Result<usize, DiffError> {
        let data_dir = self.root.join(DATA_DIR);
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

    /// Removes the diff in `root` with the directory itself: what the format
    /// names, and nothing else. Nobody may be using it.
    ///
    /// # Errors
    /// I/O errors, among them that the directory holds something else.
    pub fn remove(root: &Path) -> Result<(), DiffError> {
        let diff = cleanup::OpenRoot::open(root)?;
        diff.empty()?;
        diff.remove_lock()?;
        fs::remove_dir(root).map_err(|e| DiffError::io("remove", root, e))
    }

    /// Where the server's WAL directory is, if it was moved out of the overlay.
    #[must_use]
    pub fn wal_dir(&self) -> PathBuf {
        self.root.join(WAL_DIR)
    }

    /// Removes a WAL directory that no link of the overlay leads to: left by a
    /// crash before it was linked.
    ///
    /// # Errors
    /// I/O errors.
    pub fn remove_wal_dir(&self) -> Result<(), DiffError> {
        cleanup::OpenRoot::open(&self.root)?.remove_wal_dir()
    }

    /// Bytes that the diff takes on disk, holes left out.
    ///
    /// # Errors
    /// I/O errors of the directory.
    pub fn disk_bytes(root: &Path) -> Result<u64, DiffError> {
        use std::os::unix::fs::MetadataExt;
        let mut total = wal_dir::disk_usage(root).bytes;
        for dir in [root.to_owned(), root.join(DATA_DIR)] {
            let entries = fs::read_dir(&dir).map_err(|e| DiffError::io("list", &dir, e))?;
            for entry in entries.flatten() {
                // A file may vanish between the two calls; it takes nothing then.
                let Ok(meta) = entry.metadata() else { continue };
                if meta.is_file() {
                    total += meta.blocks() * 512;
                }
            }
        }
        Ok(total)
    }
}
