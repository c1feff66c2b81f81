//! The only access to a catalog. All code that reads a catalog does so through a
//! [`Store`]: it lists a directory, reads a small file as a whole, or opens a file to
//! read at offsets. Code above this module does not know where the catalog is located.
//!
//! A path given to a store is relative to the catalog's root and never leaves it. A
//! [`StorePath`] is such a path together with its store.
//!
//! A catalog is untrusted data, and pbkfs often reads it as root. pg_probackup writes
//! only regular files and directories into it. Therefore anything else in their place is
//! refused by name ([`Refused`]), which is damage and not a fault of the host.

mod local;
#[cfg(feature = "remote")]
pub mod remote;

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::{self, Read};
use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use crate::untrusted::read_limited;

pub use crate::untrusted::{Kind, Refused};
pub use local::LocalStore;

/// An entry in a directory of a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: OsString,
    /// Its kind; for a link that may be followed, that of its target.
    pub kind: Kind,
    /// Size in bytes, for a regular file.
    pub length: u64,
}

/// Read-only access to a catalog, wherever it is located.
pub trait Store: fmt::Debug + Send + Sync {
    /// Returns the name of a path outside the store, for messages.
    fn name(&self, path: &Path) -> PathBuf;

    /// Lists the entries of a directory, in no particular order.
    ///
    /// # Errors
    /// [`Refused`] if it is something else; otherwise the system's error.
    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>>;

    /// Lists only the names, if that is less work.
    ///
    /// # Errors
    /// As for [`Store::list`].
    fn names(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        let entries = self.list(dir)?.into_iter();
        Ok(entries.map(|entry| entry.name).collect())
    }

    /// Opens a file for reading at offsets.
    ///
    /// # Errors
    /// [`Refused`] if it is not a regular file; otherwise the system's error.
    fn open(&self, file: &Path) -> io::Result<Box<dyn StoreFile>>;

    /// Opens a file of which the bytes in `wanted` are going to be read first: a store
    /// that waits for a network can bring them along.
    ///
    /// # Errors
    /// As for [`Store::open`].
    fn open_at(&self, file: &Path, wanted: Range<u64>) -> io::Result<Box<dyn StoreFile>> {
        let _ = wanted;
        self.open(file)
    }

    /// Reads a whole file of at most `limit` bytes.
    ///
    /// # Errors
    /// [`Refused`] if it is larger; otherwise as for [`Store::open`].
    fn read(&self, file: &Path, limit: u64) -> io::Result<Vec<u8>> {
        read_whole(self.open(file)?, limit)
    }

    /// Whether it keeps copies of what it has read.
    fn keeps_copies(&self) -> bool {
        false
    }

    /// Returns how many threads should read at a time: more than there are processors if
    /// most of their time is waiting.
    fn parallel(&self) -> usize {
        std::thread::available_parallelism().map_or(1, NonZeroUsize::get)
    }
}

/// An open file of a store. Several threads may read it in parallel.
pub trait StoreFile: fmt::Debug + Send + Sync {
    /// Returns its length in bytes.
    ///
    /// # Errors
    /// Returns the system's error.
    fn length(&self) -> io::Result<u64>;

    /// Reads from an offset as much as is available and fits. 0 bytes mean the end of the
    /// file.
    ///
    /// # Errors
    /// Returns the system's error.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Fills `buf` from an offset.
    ///
    /// # Errors
    /// `UnexpectedEof` if the file ends too early; otherwise the system's error.
    fn fill_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let read = |rest: &mut [u8], at| self.read_at(rest, offset.saturating_add(at));
        match fill(buf, read)? == buf.len() {
            true => Ok(()),
            false => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Forgets copies that the store keeps of a range, and returns whether it keeps any:
    /// what is damaged in a copy may be right when it is read again.
    fn forget(&self, range: Range<u64>) -> bool {
        let _ = range;
        false
    }

    /// Hints that it will be read from end to end.
    fn expect_sequential(&self) {}

    /// Returns a descriptor through which another process can read it, if there is one.
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// Returns the name of a path below a root.
fn below(root: &Path, path: &Path) -> PathBuf {
    match path.as_os_str().is_empty() {
        true => root.to_owned(),
        false => root.join(path),
    }
}

/// Refuses a path that leads anywhere but down from the root.
fn check_leads_down(path: &Path) -> io::Result<()> {
    let is_name = |part: Component<'_>| matches!(part, Component::Normal(_));
    match path.components().all(is_name) {
        true => Ok(()),
        false => Err(Refused::LeadsOut.into()),
    }
}

/// Whether an error says nothing about a file, but that the network to it failed.
#[must_use]
pub fn is_out_of_reach(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::HostUnreachable | io::ErrorKind::StaleNetworkFileHandle
    )
}

/// Attempts something with a range of a file, and once more if that fails and the store may
/// have read a damaged copy of it.
///
/// # Errors
/// Returns the error of the last attempt.
pub(crate) fn with_fresh<T, E>(
    file: &dyn StoreFile,
    range: Range<u64>,
    mut attempt: impl FnMut() -> Result<T, E>,
) -> Result<T, E> {
    match attempt() {
        Err(_) if file.forget(range) => attempt(),
        ended => ended,
    }
}

/// Lets `read` fill `buf`, as far as there is content, and returns how much there was.
/// `read` receives the rest of `buf` and the offset of that.
///
/// # Errors
/// Returns the errors of `read`, except interruptions.
pub(super) fn fill(
    buf: &mut [u8],
    mut read: impl FnMut(&mut [u8], u64) -> io::Result<usize>,
) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buf.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match read(rest, filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Reads an open file to its end.
///
/// # Errors
/// [`Refused`] if it has more than `limit` bytes; otherwise the system's error.
pub(super) fn read_whole(file: Box<dyn StoreFile>, limit: u64) -> io::Result<Vec<u8>> {
    if file.length()? > limit {
        return Err(Refused::TooLarge { limit }.into());
    }
    read_limited(Sequential::new(file), limit)
}

/// Reads a file of a store from beginning to end.
#[derive(Debug)]
pub struct Sequential {
    file: Box<dyn StoreFile>,
    at: u64,
}

impl Sequential {
    /// Creates a reader at the beginning of the file.
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

/// A path in a store. Two places are equal if their names outside the store are.
#[derive(Clone)]
pub struct StorePath {
    store: Arc<dyn Store>,
    path: PathBuf,
}

impl StorePath {
    /// Returns the root of a store.
    #[must_use]
    pub fn root(store: Arc<dyn Store>) -> Self {
        let path = PathBuf::new();
        Self { store, path }
    }

    /// Returns a place below this one.
    #[must_use]
    pub fn join(&self, path: impl AsRef<Path>) -> Self {
        Self {
            store: Arc::clone(&self.store),
            path: self.path.join(path),
        }
    }

    /// Returns its name outside the store, for messages.
    #[must_use]
    pub fn name(&self) -> PathBuf {
        self.store.name(&self.path)
    }

    /// Returns the last component of its path; `None` for the root.
    #[must_use]
    pub fn file_name(&self) -> Option<&OsStr> {
        self.path.file_name()
    }

    /// Lists the entries of this directory, in no particular order.
    ///
    /// # Errors
    /// As for [`Store::list`].
    pub fn list(&self) -> io::Result<Vec<Entry>> {
        self.store.list(&self.path)
    }

    /// Lists the names in this directory, in no particular order.
    ///
    /// # Errors
    /// As for [`Store::list`].
    pub fn names(&self) -> io::Result<Vec<OsString>> {
        self.store.names(&self.path)
    }

    /// Opens this file.
    ///
    /// # Errors
    /// As for [`Store::open`].
    pub fn open(&self) -> io::Result<Box<dyn StoreFile>> {
        self.store.open(&self.path)
    }

    /// Opens this file, of which the bytes in `wanted` are going to be read first.
    ///
    /// # Errors
    /// As for [`Store::open`].
    pub fn open_at(&self, wanted: Range<u64>) -> io::Result<Box<dyn StoreFile>> {
        self.store.open_at(&self.path, wanted)
    }

    /// Whether the store keeps copies of what it has read.
    #[must_use]
    pub fn keeps_copies(&self) -> bool {
        self.store.keeps_copies()
    }

    /// Returns how many threads should read at a time.
    #[must_use]
    pub fn parallel(&self) -> usize {
        self.store.parallel()
    }

    /// Reads this file as a whole.
    ///
    /// # Errors
    /// As for [`Store::read`].
    pub fn read(&self, limit: u64) -> io::Result<Vec<u8>> {
        self.store.read(&self.path, limit)
    }
}

impl PartialEq for StorePath {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

impl Eq for StorePath {}

impl fmt::Debug for StorePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.name().fmt(f)
    }
}

#[cfg(test)]
mod tests;
