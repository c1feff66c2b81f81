//! The one door to a catalog. Whatever reads a catalog reads it by a [`Store`]:
//! lists a directory, reads a small file whole, or opens a file to read it at
//! offsets. Nobody above knows where the catalog lies.
//!
//! A path given to a store is relative to the catalog's root and never leaves
//! it. A [`Place`] is such a path together with its store.
//!
//! A catalog is somebody else's data, and pbkfs often reads it as root. So what
//! stands where pg_probackup writes regular files and directories only, and is
//! neither, is refused by name ([`Refused`]), which is damage and no fault of
//! the host.

mod local;

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::{self, Read};
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::untrusted::read_limited;

pub use crate::untrusted::{Kind, Refused};
pub use local::LocalStore;

/// What stands in a directory of a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: OsString,
    /// What it is; of a link that may be followed, what it leads to.
    pub kind: Kind,
    /// Bytes, for a regular file.
    pub length: u64,
}

/// Where a catalog lies. Reads only.
pub trait Store: fmt::Debug + Send + Sync {
    /// What a path is called outside the store, for messages.
    fn name(&self, path: &Path) -> PathBuf;

    /// What stands in a directory, in no order.
    ///
    /// # Errors
    /// [`Refused`] if it is something else; the system's own.
    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>>;

    /// The names alone, where that is less work.
    ///
    /// # Errors
    /// As [`Store::list`].
    fn names(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        let entries = self.list(dir)?.into_iter();
        Ok(entries.map(|entry| entry.name).collect())
    }

    /// Opens a file to read it at offsets.
    ///
    /// # Errors
    /// [`Refused`] if it is no regular file; the system's own.
    fn open(&self, file: &Path) -> io::Result<Box<dyn StoreFile>>;

    /// Reads a whole file of at most `limit` bytes.
    ///
    /// # Errors
    /// [`Refused`] for a larger one; as [`Store::open`].
    fn read(&self, file: &Path, limit: u64) -> io::Result<Vec<u8>> {
        read_whole(self.open(file)?, limit)
    }
}

/// A file of a store, open. Several threads may read it at once.
pub trait StoreFile: fmt::Debug + Send + Sync {
    /// Its length in bytes.
    ///
    /// # Errors
    /// The system's own.
    fn length(&self) -> io::Result<u64>;

    /// Reads from an offset on, as much as there is and fits. 0 bytes are the
    /// end of the file.
    ///
    /// # Errors
    /// The system's own.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Fills `buf` from an offset on.
    ///
    /// # Errors
    /// `UnexpectedEof` if the file ends before; the system's own.
    fn fill_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let mut filled = 0;
        while let Some(rest) = buf.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.read_at(rest, offset.saturating_add(filled as u64)) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Hints that it will be read from end to end.
    fn expect_sequential(&self) {}

    /// A descriptor that another process can read it by, where there is one.
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// Reads what was opened to its end.
///
/// # Errors
/// [`Refused`] if it has more than `limit` bytes; the system's own.
pub(super) fn read_whole(file: Box<dyn StoreFile>, limit: u64) -> io::Result<Vec<u8>> {
    if file.length()? > limit {
        return Err(Refused::TooLarge { limit }.into());
    }
    read_limited(Sequential::new(file), limit)
}

/// A file of a store that is read from its beginning to its end.
#[derive(Debug)]
pub struct Sequential {
    file: Box<dyn StoreFile>,
    at: u64,
}

impl Sequential {
    /// From the beginning.
    #[must_use]
    pub fn new(file: Box<dyn StoreFile>) -> Self {
        Self { file, at: 0 }
    }
}

impl Read for Sequential {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(buf, self.at)?;
        self.at = self.at.saturating_add(count as u64);
        Ok(count)
    }
}

/// A path in a store. Two are the same if their names outside are.
#[derive(Clone)]
pub struct Place {
    store: Arc<dyn Store>,
    path: PathBuf,
}

impl Place {
    /// The root of a store.
    #[must_use]
    pub fn root(store: Arc<dyn Store>) -> Self {
        let path = PathBuf::new();
        Self { store, path }
    }

    /// A place below this one.
    #[must_use]
    pub fn join(&self, path: impl AsRef<Path>) -> Self {
        Self {
            store: Arc::clone(&self.store),
            path: self.path.join(path),
        }
    }

    /// What it is called outside the store, for messages.
    #[must_use]
    pub fn name(&self) -> PathBuf {
        self.store.name(&self.path)
    }

    /// The last part of its path; `None` for the root.
    #[must_use]
    pub fn file_name(&self) -> Option<&OsStr> {
        self.path.file_name()
    }

    /// What stands in this directory, in no order.
    ///
    /// # Errors
    /// As [`Store::list`].
    pub fn list(&self) -> io::Result<Vec<Entry>> {
        self.store.list(&self.path)
    }

    /// The names in this directory, in no order.
    ///
    /// # Errors
    /// As [`Store::list`].
    pub fn names(&self) -> io::Result<Vec<OsString>> {
        self.store.names(&self.path)
    }

    /// Opens this file.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open(&self) -> io::Result<Box<dyn StoreFile>> {
        self.store.open(&self.path)
    }

    /// Reads this file whole.
    ///
    /// # Errors
    /// As [`Store::read`].
    pub fn read(&self, limit: u64) -> io::Result<Vec<u8>> {
        self.store.read(&self.path, limit)
    }
}

impl PartialEq for Place {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

impl Eq for Place {}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.name().fmt(f)
    }
}

#[cfg(test)]
mod tests;
