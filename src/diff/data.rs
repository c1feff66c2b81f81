//! The data files, `data/INODE`, behind traits so that a test can take their
//! place and lose power.

mod kept;
mod unmade;

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::fcntl::FallocateFlags;

use super::DATA_DIR;
use super::error::DiffError;
use super::root::Root;
use crate::untrusted::{Dir, Kind};
use kept::{Files, KeptFile};

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

/// The mode of the directory and of its files: they are pbkfs's alone.
const DIR_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// Data files in a directory, which is opened once and kept. What stands at a
/// file's name may have been put there by anybody.
#[derive(Debug)]
pub struct DirStorage {
    files: Arc<Files>,
    names_dirty: AtomicBool,
}

impl DirStorage {
    /// Opens the data files of a diff, making their directory if need be.
    ///
    /// # Errors
    /// [`DiffError::Foreign`] for something else in its place; I/O errors, with
    /// the path.
    pub(super) fn open(root: &Root) -> Result<Self, DiffError> {
        let dir = match root.open_dir(DATA_DIR)? {
            Some(dir) => dir,
            None => (root.dir().make_dir(DATA_DIR, DIR_MODE))
                .map_err(|e| DiffError::io("make the directory", &root.join(DATA_DIR), e))?,
        };
        // The directory itself may be new, so its own name counts too.
        Ok(Self {
            files: Arc::new(Files::new(dir)),
            names_dirty: AtomicBool::new(true),
        })
    }

    fn dir(&self) -> &Dir {
        self.files.dir()
    }

    /// Refuses what stands at the names of these inodes and is no file of this
    /// diff alone. Gives those that have no file.
    ///
    /// # Errors
    /// [`DiffError::Foreign`], [`DiffError::Linked`]; I/O errors.
    pub(super) fn check(&self, known: impl Iterator<Item = u64>) -> Result<Vec<u64>, DiffError> {
        let mut missing = Vec::new();
        for ino in known {
            let path = self.path_of(ino);
            let stat = self.dir().stat(ino.to_string());
            match stat.map_err(|e| DiffError::io("look at", &path, e))? {
                None => missing.push(ino),
                Some(stat) if stat.kind != Kind::File => {
                    let found = stat.kind;
                    return Err(DiffError::Foreign { path, found });
                }
                Some(stat) if stat.links > 1 => return Err(DiffError::Linked { path }),
                Some(_) => {}
            }
        }
        Ok(missing)
    }

    /// Where an inode's bytes are.
    pub(super) fn path_of(&self, ino: u64) -> PathBuf {
        self.dir().path().join(ino.to_string())
    }
}

/// The inodes whose data files are in a directory. Only names of our own form
/// count; anything else is not ours to judge.
pub(super) fn inodes_in(data: &Dir) -> io::Result<Vec<u64>> {
    let names = data.names()?;
    Ok(names
        .iter()
        .filter_map(|name| inode_of_name(name))
        .collect())
}

/// The inode of a data file's name, if it is one that pbkfs gives.
pub(super) fn inode_of_name(name: &OsStr) -> Option<u64> {
    let name = name.to_str()?;
    let ino: u64 = name.parse().ok()?;
    (ino.to_string() == name).then_some(ino)
}

impl Storage for DirStorage {
    fn create(&self, ino: u64) -> io::Result<Arc<dyn DataFile>> {
        self.files.create(ino)?;
        self.names_dirty.store(true, Ordering::Release);
        Ok(Arc::new(KeptFile::new(&self.files, ino)))
    }

    fn open(&self, ino: u64) -> io::Result<Arc<dyn DataFile>> {
        self.files.check(ino)?;
        Ok(Arc::new(KeptFile::new(&self.files, ino)))
    }

    fn remove(&self, ino: u64) -> io::Result<()> {
        self.files.remove(ino)
    }

    fn list(&self) -> io::Result<Vec<u64>> {
        inodes_in(self.dir())
    }

    fn sync_names(&self) -> io::Result<()> {
        if !self.names_dirty.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        let synced = self.files.make_all().and_then(|()| self.dir().sync());
        synced.inspect_err(|_| self.names_dirty.store(true, Ordering::Release))
    }

    fn sync_bytes(&self) -> io::Result<()> {
        Ok(nix::unistd::syncfs(self.dir())?)
    }

    fn statvfs(&self) -> io::Result<nix::sys::statvfs::Statvfs> {
        Ok(nix::sys::statvfs::fstatvfs(self.dir())?)
    }
}

/// The time that is `ns` nanoseconds after the epoch (before it, if negative).
/// One that the system cannot tell is the epoch.
#[must_use]
pub fn system_time(ns: i64) -> SystemTime {
    let distance = Duration::from_nanos(ns.unsigned_abs());
    let time = match ns < 0 {
        true => UNIX_EPOCH.checked_sub(distance),
        false => UNIX_EPOCH.checked_add(distance),
    };
    time.unwrap_or(UNIX_EPOCH)
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    use super::*;
    use crate::untrusted::{Refused, refused};

    #[test]
    fn every_time_comes_back() {
        for ns in [i64::MIN + 1, -1_000_000_001, -1, 0, 1, i64::MAX] {
            assert_eq!(time_ns(system_time(ns)), ns);
        }
        assert_eq!(time_ns(system_time(i64::MIN)), i64::MIN);
    }

    #[test]
    fn what_is_no_data_file_is_neither_opened_nor_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let precious = dir.path().join("precious");
        fs::write(&precious, "precious").unwrap();
        let root = dir.path().join("diff");
        fs::create_dir(&root).unwrap();
        let storage = DirStorage::open(&Root::open(&root).unwrap()).unwrap();
        let traps: [fn(&Path, &Path); 3] = [
            |at, to| symlink(to, at).unwrap(),
            |at, _| symlink("/dev/zero", at).unwrap(),
            |at, _| mkfifo(at, Mode::S_IRWXU).unwrap(),
        ];
        let at = root.join("data/7");
        for make in traps {
            make(&at, &precious);
            let error = storage.open(7).map(|_| ()).unwrap_err();
            assert!(matches!(refused(&error), Some(Refused::Is(_))), "{error}");
            let error = storage.check([6, 7].into_iter()).unwrap_err();
            assert!(matches!(error, DiffError::Foreign { .. }), "{error}");
            assert!(error.to_string().contains("data/7"), "{error}");
            // A new file takes the name.
            storage.create(7).unwrap().write_all_at(b"new", 0).unwrap();
            storage.check([6, 7].into_iter()).unwrap();
            storage.remove(7).unwrap();
        }
        fs::hard_link(&precious, &at).unwrap();
        let error = storage.check([7].into_iter()).unwrap_err();
        assert!(matches!(error, DiffError::Linked { .. }), "{error}");
        assert_eq!(fs::read(&precious).unwrap(), b"precious");
    }

    #[test]
    fn the_directory_of_the_data_is_no_link() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        symlink("/", dir.path().join("data")).unwrap();
        let error = DirStorage::open(&root).unwrap_err();
        assert!(matches!(error, DiffError::Foreign { .. }), "{error}");
    }
}
