//! What the overlay asks of data files.

use std::fs::File;
use std::io;
use std::sync::Arc;

use nix::fcntl::FallocateFlags;

/// What a data file says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataStat {
    /// Length in bytes.
    pub len: u64,
    /// Last change of the bytes, nanoseconds since the epoch.
    pub mtime_ns: i64,
    /// Last change of the file, nanoseconds since the epoch.
    pub ctime_ns: i64,
    /// Space taken, in units of 512 bytes.
    pub blocks: u64,
}

/// One file's bytes.
pub trait DataFile: Send + Sync {
    /// Reads up to `buf.len()` bytes; fewer only at the end of the file.
    ///
    /// # Errors
    /// The system's own.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all of `buf`.
    ///
    /// # Errors
    /// The system's own, `ENOSPC` among them.
    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()>;
    /// Makes written bytes and the length durable (`fdatasync`).
    ///
    /// # Errors
    /// The system's own.
    fn sync_data(&self) -> io::Result<()>;
    /// Cuts or extends with zeros.
    ///
    /// # Errors
    /// The system's own.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Length, times and space.
    ///
    /// # Errors
    /// The system's own.
    fn stat(&self) -> io::Result<DataStat>;
    /// Sets the time of the last change.
    ///
    /// # Errors
    /// The system's own.
    fn set_mtime(&self, mtime_ns: i64) -> io::Result<()>;
    /// `fallocate(2)` with these flags.
    ///
    /// # Errors
    /// The system's own; `EOPNOTSUPP` where the file system cannot.
    fn allocate(&self, flags: FallocateFlags, offset: u64, len: u64) -> io::Result<()>;
    /// `lseek(2)` with `SEEK_DATA` or `SEEK_HOLE`.
    ///
    /// # Errors
    /// The system's own; `ENXIO` past the end.
    fn seek(&self, offset: u64, whence: nix::unistd::Whence) -> io::Result<u64>;
    /// The opened file, where there is one to pass through to.
    ///
    /// # Errors
    /// The system's own.
    fn opened(&self) -> io::Result<Option<Arc<File>>>;
}

/// The set of data files.
pub trait Storage: Send + Sync {
    /// Begins an empty file for `ino`, replacing an uncommitted leftover. It may be
    /// made as late as [`Storage::sync_names`].
    ///
    /// # Errors
    /// The system's own.
    fn create(&self, ino: u64) -> io::Result<Arc<dyn DataFile>>;
    /// Opens the file of `ino`.
    ///
    /// # Errors
    /// The system's own, `ENOENT` among them.
    fn open(&self, ino: u64) -> io::Result<Arc<dyn DataFile>>;
    /// Removes the file of `ino`; it is not an error if there is none.
    ///
    /// # Errors
    /// The system's own.
    fn remove(&self, ino: u64) -> io::Result<()>;
    /// The inodes that have a file.
    ///
    /// # Errors
    /// The system's own.
    fn list(&self) -> io::Result<Vec<u64>>;
    /// Makes the created files that are still to be made, and all their names durable.
    ///
    /// # Errors
    /// The system's own.
    fn sync_names(&self) -> io::Result<()>;
    /// Makes the bytes of all files durable, open or not (`syncfs`).
    ///
    /// # Errors
    /// The system's own.
    fn sync_bytes(&self) -> io::Result<()>;
    /// Free space, as `statvfs(3)` of the file system tells it.
    ///
    /// # Errors
    /// The system's own.
    fn statvfs(&self) -> io::Result<nix::sys::statvfs::Statvfs>;
}
