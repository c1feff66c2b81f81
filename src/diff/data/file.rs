//! The interface between the overlay and the data files.

use std::fs::File;
use std::io;
use std::sync::Arc;

use nix::fcntl::FallocateFlags;

/// A data file's attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataStat {
    /// Size in bytes.
    pub len: u64,
    /// Last change of the bytes, in nanoseconds since the epoch.
    pub mtime_ns: i64,
    /// Space on disk, in units of 512 bytes.
    pub blocks: u64,
}

/// The bytes of one file.
pub trait DataFile: Send + Sync {
    /// Reads up to `buf.len()` bytes; fewer only at the end of the file.
    ///
    /// # Errors
    /// If the system call fails.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all of `buf`.
    ///
    /// # Errors
    /// If a system call fails, for example with `ENOSPC`.
    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()>;
    /// Makes the written bytes and the size durable (`fdatasync`).
    ///
    /// # Errors
    /// If the system call fails.
    fn sync_data(&self) -> io::Result<()>;
    /// Truncates the file, or extends it with zeros.
    ///
    /// # Errors
    /// If the system call fails.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Returns size, times and space.
    ///
    /// # Errors
    /// If the system call fails.
    fn stat(&self) -> io::Result<DataStat>;
    /// Sets the time of the last change.
    ///
    /// # Errors
    /// If the system call fails.
    fn set_mtime(&self, mtime_ns: i64) -> io::Result<()>;
    /// Calls `fallocate(2)` with these flags.
    ///
    /// # Errors
    /// If the system call fails; with `EOPNOTSUPP` if the file system lacks the
    /// operation.
    fn allocate(&self, flags: FallocateFlags, offset: u64, len: u64) -> io::Result<()>;
    /// Calls `lseek(2)` with `SEEK_DATA` or `SEEK_HOLE`.
    ///
    /// # Errors
    /// If the system call fails; with `ENXIO` past the end.
    fn seek(&self, offset: u64, whence: nix::unistd::Whence) -> io::Result<u64>;
    /// Returns the open file, if there is one to pass through to.
    ///
    /// # Errors
    /// If the system call fails.
    fn opened(&self) -> io::Result<Option<Arc<File>>>;
}

/// The set of data files.
pub trait Storage: Send + Sync {
    /// Starts an empty file for `ino`, replacing an uncommitted leftover. The file may
    /// be created as late as in [`Storage::sync_names`].
    ///
    /// # Errors
    /// If a system call fails.
    fn create(&self, ino: u64) -> io::Result<Arc<dyn DataFile>>;
    /// Opens the file of `ino`.
    ///
    /// # Errors
    /// If the system call fails, for example with `ENOENT`.
    fn open(&self, ino: u64) -> io::Result<Arc<dyn DataFile>>;
    /// Removes the file of `ino`, if there is one.
    ///
    /// # Errors
    /// If the system call fails.
    fn remove(&self, ino: u64) -> io::Result<()>;
    /// Lists the inodes that have a file.
    ///
    /// # Errors
    /// If the system call fails.
    fn list(&self) -> io::Result<Vec<u64>>;
    /// Creates the files whose creation was deferred, and makes all names durable.
    ///
    /// # Errors
    /// If a system call fails.
    fn sync_names(&self) -> io::Result<()>;
    /// Makes the bytes of all files durable, open or not (`syncfs`).
    ///
    /// # Errors
    /// If the system call fails.
    fn sync_bytes(&self) -> io::Result<()>;
    /// Returns the file system's free space, from `statvfs(3)`.
    ///
    /// # Errors
    /// If the system call fails.
    fn statvfs(&self) -> io::Result<nix::sys::statvfs::Statvfs>;
}
