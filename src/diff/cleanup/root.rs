//! A diff's directory, opened: looked at and emptied without following links.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::super::binding::{BINDING_FILE, TEMPORARY_FILE};
use super::super::error::DiffError;
use super::super::lock::LOCK_FILE;
use super::super::wal_dir::WAL_DIR;
use super::super::{DATA_DIR, META_FILE};

/// The files beside `data/`, in the order in which they may go.
const FILES: [&str; 3] = [META_FILE, TEMPORARY_FILE, BINDING_FILE];

/// One file of `data/`.
pub struct StoredFile {
    /// Its inode.
    pub ino: u64,
    /// What it takes on disk.
    pub bytes: u64,
}

/// A diff's directory, opened, so that nothing can be put in its place.
#[derive(Debug)]
pub struct OpenRoot {
    pub path: PathBuf,
    handle: OwnedFd,
}

impl OpenRoot {
    /// Opens the directory; anything else is no diff.
    pub fn open(path: &Path) -> Result<Self, DiffError> {
        let handle = File::open(path).map_err(|e| DiffError::io("open", path, e))?;
        let meta = handle
            .metadata()
            .map_err(|e| DiffError::io("look at", path, e))?;
        if !meta.is_dir() {
            return Err(DiffError::NotADiff {
                path: path.to_owned(),
            });
        }
        Ok(Self {
            path: path.to_owned(),
            handle: handle.into(),
        })
    }

    /// Refuses what is no diff, or has something foreign in the place of a
    /// part that would be opened.
    pub fn check(&self) -> Result<(), DiffError> {
        let is_diff = self.stat(BINDING_FILE)?.is_some() || self.stat(LOCK_FILE)?.is_some();
        if !is_diff {
            return Err(DiffError::NotADiff {
                path: self.path.clone(),
            });
        }
        for name in [BINDING_FILE, LOCK_FILE, META_FILE] {
            if let Some(stat) = self.stat(name)?
                && kind(&stat) != SFlag::S_IFREG
            {
                return Err(self.foreign(name, &stat));
            }
        }
        self.data_dir().map(|_| ())
    }

    fn foreign(&self, name: &str, stat: &FileStat) -> DiffError {
        DiffError::Foreign {
            path: self.path.join(name),
            found: match kind(stat) {
                SFlag::S_IFLNK => "a symbolic link",
                SFlag::S_IFDIR => "a directory",
                SFlag::S_IFREG => "a file",
                _ => "neither a file nor a directory",
            },
        }
    }

    /// What stands under that name; a link itself, not what it leads to.
    pub fn stat(&self, name: &str) -> Result<Option<FileStat>, DiffError> {
        match fstatat(&self.handle, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::ENOENT) => Ok(None),
            Err(e) => Err(DiffError::io("look at", &self.path.join(name), e.into())),
        }
    }

    fn data_dir(&self) -> Result<Option<OwnedFd>, DiffError> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        match openat(&self.handle, DATA_DIR, flags, Mode::empty()) {
            Ok(data) => Ok(Some(data)),
            Err(Errno::ENOENT) => Ok(None),
            Err(e) => match self.stat(DATA_DIR)? {
                Some(stat) if kind(&stat) != SFlag::S_IFDIR => Err(self.foreign(DATA_DIR, &stat)),
                _ => Err(DiffError::io("open", &self.path.join(DATA_DIR), e.into())),
            },
        }
    }

    /// The files in `data/` whose names pbkfs gives.
    pub fn data_files(&self) -> Result<Vec<StoredFile>, DiffError> {
        let Some(data) = self.data_dir()? else {
            return Ok(Vec::new());
        };
        let mut files = Vec::new();
        for ino in self
            .names(&data)?
            .iter()
            .filter_map(|name| inode_name(name))
        {
            let name = ino.to_string();
            let stat = fstatat(&data, name.as_str(), AtFlags::AT_SYMLINK_NOFOLLOW)
                .map_err(|e| DiffError::io("look at", &self.data_path(ino), e.into()))?;
            files.push(StoredFile {
                ino,
                bytes: u64::try_from(stat.st_blocks).unwrap_or(0) * 512,
            });
        }
        Ok(files)
    }

    fn data_path(&self, ino: u64) -> PathBuf {
        self.path.join(DATA_DIR).join(ino.to_string())
    }

    /// The names in an opened directory.
    fn names(&self, dir: &OwnedFd) -> Result<Vec<OsString>, DiffError> {
        fs::read_dir(opened(dir))
            .and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect())
            .map_err(|e: io::Error| DiffError::io("list", &self.path, e))
    }

    /// Whatever stands in the directory and is not of the format.
    pub fn strangers(&self) -> Result<Vec<PathBuf>, DiffError> {
        let known = [
            LOCK_FILE,
            META_FILE,
            DATA_DIR,
            WAL_DIR,
            TEMPORARY_FILE,
            BINDING_FILE,
        ];
        let is_known = |name: &OsStr| known.iter().any(|known| name == *known);
        let mut strangers = self.strangers_below(&self.handle, Path::new(""), is_known)?;
        if let Some(data) = self.data_dir()? {
            let is_known = |name: &OsStr| inode_name(name).is_some();
            strangers.extend(self.strangers_below(&data, Path::new(DATA_DIR), is_known)?);
        }
        strangers.sort();
        Ok(strangers)
    }

    fn strangers_below(
        &self,
        dir: &OwnedFd,
        below: &Path,
        is_known: impl Fn(&OsStr) -> bool,
    ) -> Result<Vec<PathBuf>, DiffError> {
        let names = self.names(dir)?;
        let strangers = names.into_iter().filter(|name| !is_known(name));
        Ok(strangers
            .map(|name| self.path.join(below).join(name))
            .collect())
    }

    /// Removes all of the diff but its lock, and the directory of the data
    /// unless strangers stand in it.
    pub fn empty(&self) -> Result<(), DiffError> {
        let data = self.data_dir()?;
        self.unlink(META_FILE)?;
        // Durable before any data goes: metadata must not outlive its bytes.
        self.sync()?;
        if let Some(data) = data {
            for ino in self
                .names(&data)?
                .iter()
                .filter_map(|name| inode_name(name))
            {
                let name = ino.to_string();
                unlink_at(&data, &name)
                    .map_err(|e| DiffError::io("remove", &self.data_path(ino), e))?;
            }
            match unlinkat(&self.handle, DATA_DIR, UnlinkatFlags::RemoveDir) {
                Ok(()) | Err(Errno::ENOENT | Errno::ENOTEMPTY) => {}
                Err(e) => {
                    return Err(DiffError::io("remove", &self.path.join(DATA_DIR), e.into()));
                }
            }
        }
        self.remove_wal_dir()?;
        for name in FILES {
            self.unlink(name)?;
        }
        self.sync()
    }

    /// Removes the WAL directory with all that is in it, which is the server's;
    /// a link in its place, or in it, goes itself.
    pub fn remove_wal_dir(&self) -> Result<(), DiffError> {
        match fs::remove_dir_all(opened(&self.handle).join(WAL_DIR)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.map_err(|e| DiffError::io("remove", &self.path.join(WAL_DIR), e)),
        }
    }

    /// Removes the lock file, for a diff that is to vanish altogether.
    pub fn remove_lock(&self) -> Result<(), DiffError> {
        self.unlink(LOCK_FILE)
    }

    fn unlink(&self, name: &str) -> Result<(), DiffError> {
        unlink_at(&self.handle, name).map_err(|e| DiffError::io("remove", &self.path.join(name), e))
    }

    fn sync(&self) -> Result<(), DiffError> {
        nix::unistd::fsync(&self.handle).map_err(|e| DiffError::io("sync", &self.path, e.into()))
    }
}

/// An opened directory by way of its descriptor, as its path may lead elsewhere
/// by now.
fn opened(dir: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()))
}

/// Removes a name that is no directory's. It is not an error if it is gone.
fn unlink_at(dir: &OwnedFd, name: &str) -> io::Result<()> {
    match unlinkat(dir, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT
}

/// The inode of a data file's name, if it is one that pbkfs gives.
fn inode_name(name: &OsStr) -> Option<u64> {
    let name = name.to_str()?;
    let ino: u64 = name.parse().ok()?;
    (ino.to_string() == name).then_some(ino)
}
