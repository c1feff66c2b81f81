//! Files that the kernel serves itself, from a descriptor on the diff's file system.
//!
//! All open handles of an inode must share one backing id, and an inode must not be
//! open in both ways at once (the kernel answers `EIO`).
//! [`Overlay::passthrough`](crate::overlay::Overlay::passthrough) decides which way an
//! inode is served.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use fuser::BackingId;

use crate::diff::DataFile;

struct Entry {
    id: Arc<BackingId>,
    opens: usize,
}

/// The backing ids in use, by inode.
pub struct BackingTable {
    enabled: AtomicBool,
    /// Whether a file was ever passed through. From then on the kernel's own cache may
    /// be older than the files, so passthrough can no longer be turned off.
    worked: AtomicBool,
    entries: Mutex<HashMap<u64, Entry>>,
}

impl BackingTable {
    /// Creates an empty table; `enabled` is whether the kernel agreed.
    pub fn new(enabled: bool) -> Self {
        Self {
            enabled: AtomicBool::new(enabled),
            worked: AtomicBool::new(false),
            entries: Mutex::default(),
        }
    }

    /// Turns passthrough off for good, before any file was opened that way.
    pub fn disable(&self) {
        self.enabled.store(false, Ordering::Release);
    }

    /// Counts one more open of `ino` and returns its backing id. `register` creates the
    /// id from the file that `find` returns. Returns `None` if the inode is not to be
    /// passed through.
    pub fn open<E: From<io::Error>>(
        &self,
        ino: u64,
        find: impl FnOnce() -> Result<Option<Arc<dyn DataFile>>, E>,
        register: impl FnOnce(BorrowedFd<'_>) -> io::Result<BackingId>,
    ) -> Result<Option<Arc<BackingId>>, E> {
        if !self.enabled.load(Ordering::Acquire) {
            return Ok(None);
        }
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = entries.get_mut(&ino) {
            entry.opens += 1;
            return Ok(Some(entry.id.clone()));
        }
        let Some(data) = find()? else { return Ok(None) };
        let Some(file) = data.opened()? else {
            return Ok(None);
        };
        match register(file.as_fd()) {
            Ok(id) => {
                self.worked.store(true, Ordering::Release);
                let id = Arc::new(id);
                entries.insert(
                    ino,
                    Entry {
                        id: id.clone(),
                        opens: 1,
                    },
                );
                Ok(Some(id))
            }
            Err(error) if !self.worked.load(Ordering::Acquire) => {
                // The diff's file system does not support passthrough (it may be
                // stacked itself). Everything works without it, only slower.
                tracing::info!(%error, "the kernel cannot pass through to the diff's files");
                self.disable();
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Whether the kernel serves the open file `ino` itself.
    pub fn serves(&self, ino: u64) -> bool {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.contains_key(&ino)
    }

    /// Counts one open less; the last one removes the id.
    pub fn release(&self, ino: u64) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = entries.get_mut(&ino) {
            entry.opens -= 1;
            if entry.opens == 0 {
                entries.remove(&ino);
            }
        }
    }
}
