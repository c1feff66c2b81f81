//! The data files, `data/INODE`, behind traits so that a test can take their
//! place and lose power.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::fcntl::FallocateFlags;

use super::error::DiffError;

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
    /// The descriptor, where there is one to pass through to.
    fn as_fd(&self) -> Option<BorrowedFd<'_>>;
}

/// The set of data files.
pub trait Storage: Send + Sync {
    /// Makes an empty file for `ino`, replacing an uncommitted leftover.
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
    /// Makes the names of created files durable.
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

/// Data files in a directory.
#[derive(Debug)]
pub struct DirStorage {
    dir: PathBuf,
    handle: File,
    names_dirty: AtomicBool,
}

impl DirStorage {
    /// Opens the directory, making it if need be.
    ///
    /// # Errors
    /// I/O errors, with the path.
    pub fn open(dir: &Path) -> Result<Self, DiffError> {
        match fs::DirBuilder::new().mode(0o700).create(dir) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(DiffError::io("make the directory", dir, e)),
        }
        let handle = OpenOptions::new()
            .read(true)
            .custom_flags(nix::libc::O_DIRECTORY | nix::libc::O_NOFOLLOW)
            .open(dir)
            .map_err(|e| DiffError::io("open", dir, e))?;
        // The directory itself may be new, so its own name counts too.
        Ok(Self {
            dir: dir.to_owned(),
            handle,
            names_dirty: AtomicBool::new(true),
        })
    }

    fn path(&self, ino: u64) -> PathBuf {
        self.dir.join(ino.to_string())
    }

    fn options() -> OpenOptions {
        let mut options = OpenOptions::new();
        options
            .read(true)
            .write(true)
            .mode(0o600)
            .custom_flags(nix::libc::O_NOFOLLOW);
        options
    }
}

impl Storage for DirStorage {
    fn create(&self, ino: u64) -> io::Result<Arc<dyn DataFile>> {
        let file = Self::options()
            .create(true)
            .truncate(true)
            .open(self.path(ino))?;
        self.names_dirty.store(true, Ordering::Release);
        Ok(Arc::new(file))
    }

    fn open(&self, ino: u64) -> io::Result<Arc<dyn DataFile>> {
        Ok(Arc::new(Self::options().open(self.path(ino))?))
    }

    fn remove(&self, ino: u64) -> io::Result<()> {
        match fs::remove_file(self.path(ino)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    fn list(&self) -> io::Result<Vec<u64>> {
        let mut inodes = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            // Only names of our own form; anything else is not ours to judge.
            if let Some(ino) = entry?
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok())
            {
                inodes.push(ino);
            }
        }
        Ok(inodes)
    }

    fn sync_names(&self) -> io::Result<()> {
        if self.names_dirty.swap(false, Ordering::AcqRel)
            && let Err(e) = self.handle.sync_all()
        {
            self.names_dirty.store(true, Ordering::Release);
            return Err(e);
        }
        Ok(())
    }

    fn sync_bytes(&self) -> io::Result<()> {
        Ok(nix::unistd::syncfs(&self.handle)?)
    }

    fn statvfs(&self) -> io::Result<nix::sys::statvfs::Statvfs> {
        Ok(nix::sys::statvfs::fstatvfs(&self.handle)?)
    }
}

impl DataFile for File {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match FileExt::read_at(self, rest, offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        FileExt::write_all_at(self, buf, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        File::sync_data(self)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        File::set_len(self, len)
    }

    fn stat(&self) -> io::Result<DataStat> {
        let meta = self.metadata()?;
        Ok(DataStat {
            len: meta.len(),
            mtime_ns: nanoseconds(meta.mtime(), meta.mtime_nsec()),
            ctime_ns: nanoseconds(meta.ctime(), meta.ctime_nsec()),
            blocks: meta.blocks(),
        })
    }

    fn set_mtime(&self, mtime_ns: i64) -> io::Result<()> {
        self.set_modified(system_time(mtime_ns))
    }

    fn allocate(&self, flags: FallocateFlags, offset: u64, len: u64) -> io::Result<()> {
        let too_big = |_| io::Error::from_raw_os_error(nix::libc::EFBIG);
        let offset = i64::try_from(offset).map_err(too_big)?;
        let len = i64::try_from(len).map_err(too_big)?;
        Ok(nix::fcntl::fallocate(self, flags, offset, len)?)
    }

    fn seek(&self, offset: u64, whence: nix::unistd::Whence) -> io::Result<u64> {
        let offset =
            i64::try_from(offset).map_err(|_| io::Error::from_raw_os_error(nix::libc::ENXIO))?;
        let found = nix::unistd::lseek(self, offset, whence)?;
        u64::try_from(found).map_err(io::Error::other)
    }

    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(AsFd::as_fd(self))
    }
}

fn nanoseconds(seconds: i64, nanoseconds: i64) -> i64 {
    seconds
        .saturating_mul(1_000_000_000)
        .saturating_add(nanoseconds)
}

/// The time that is `ns` nanoseconds after the epoch (before it, if negative).
#[must_use]
pub fn system_time(ns: i64) -> SystemTime {
    let distance = Duration::from_nanos(ns.unsigned_abs());
    if ns < 0 {
        UNIX_EPOCH - distance
    } else {
        UNIX_EPOCH + distance
    }
}

/// Nanoseconds from the epoch to `time`; times that an i64 cannot hold are
/// brought to its ends (the years 1677 and 2262).
#[must_use]
pub fn time_ns(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_nanos()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |ns| -ns),
    }
}
