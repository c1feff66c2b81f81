//! The only access to files that others can write: a backup catalog, a data directory
//! that a clone's superuser filled, a diff that was copied from somewhere, directories
//! that users of the host share.
//!
//! pbkfs often runs as root, and such a place can hold anything: a link to a file of
//! root's in place of one of ours, a FIFO that blocks its reader, an endless file. So
//! all work there is relative to an opened directory ([`Dir`]):
//!
//! - No symbolic link is followed, and no path leads outside (`openat2` with
//!   `RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS`; if the kernel lacks it, step by step with
//!   `O_NOFOLLOW`).
//! - Only regular files are opened for reading. The open does not block (`O_NONBLOCK`),
//!   and `fstat` checks the kind.
//! - Whole reads have a limit.
//! - New files are created with `O_EXCL`; owner and mode are changed by descriptor,
//!   never by path.
//! - Paths that only another user may judge are resolved by root with that user's
//!   permissions ([`as_user`]).
//!
//! `tests/architecture.rs` checks that no other code opens such paths.

mod create;
mod error;
mod held;
mod remove;
mod stat;
mod user;
mod way;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, openat, openat2, statat};
use rustix::io::Errno;

pub use create::{Replacement, give, is_unfinished, random};
pub use error::{Kind, Refused, refused};
pub use held::{hold, identity, mount_of, path_of};
pub use stat::{Stat, id_of};
pub use user::{Rights, as_user};
pub use way::{check_owner, lead};

use stat::is_ours;

/// The most that is read of a small file of ours, in bytes: a state, a binding, a
/// record. The largest has a few kilobytes.
pub const SMALL: u64 = 1 << 20;

/// An opened directory. Paths passed to it are relative, and stay below it.
#[derive(Debug)]
pub struct Dir {
    fd: OwnedFd,
    /// For messages.
    path: PathBuf,
}

impl Dir {
    /// Opens a directory that the user has named. Links to it are the user's own, and
    /// are followed.
    ///
    /// # Errors
    /// If the system call fails; with `ENOTDIR` if something else is there.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self {
            fd: openat(CWD, path, flags, Mode::empty())?,
            path: path.to_owned(),
        })
    }

    /// Opens a directory of ours, whose own name must not be a link.
    ///
    /// # Errors
    /// Returns [`Refused`] if another user owns the directory or can write to it,
    /// because then nothing in it is certain to be ours; and the system's errors.
    pub fn open_own(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = openat(CWD, path, flags, Mode::empty());
        let fd = opened.map_err(|errno| match errno {
            Errno::NOTDIR | Errno::LOOP => Refused::NoDirectory.into(),
            other => io::Error::from(other),
        })?;
        let dir = Self {
            fd,
            path: path.to_owned(),
        };
        dir.check_own()?;
        Ok(dir)
    }

    /// Opens the directory that contains a file, and returns it with the file's name.
    ///
    /// # Errors
    /// If the path names no file, and as for [`Dir::open`].
    pub fn of_file(path: &Path) -> io::Result<(Self, &OsStr)> {
        let name = path
            .file_name()
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        let parent = path.parent().filter(|dir| !dir.as_os_str().is_empty());
        Ok((Self::open(parent.unwrap_or(Path::new(".")))?, name))
    }

    /// Returns its path, for messages.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens a directory below this one.
    ///
    /// # Errors
    /// Returns [`Refused`] for anything but a directory, and the system's errors.
    pub fn dir(&self, path: impl AsRef<Path>) -> io::Result<Self> {
        self.below(path.as_ref(), OFlags::RDONLY)
    }

    /// Opens a directory below this one for traversal only, which needs no read
    /// permission. It cannot be listed or synced.
    ///
    /// # Errors
    /// As for [`Dir::dir`].
    pub fn through(&self, path: impl AsRef<Path>) -> io::Result<Self> {
        self.below(path.as_ref(), OFlags::PATH)
    }

    fn below(&self, path: &Path, flags: OFlags) -> io::Result<Self> {
        Ok(Self {
            fd: self.open_beneath(path, flags | OFlags::DIRECTORY)?,
            path: self.path.join(path),
        })
    }

    /// Opens a regular file below this directory for reading.
    ///
    /// # Errors
    /// Returns [`Refused`] for anything else, and the system's errors.
    pub fn file(&self, path: impl AsRef<Path>) -> io::Result<File> {
        self.regular(path.as_ref(), OFlags::RDONLY)
    }

    /// Opens an existing regular file for reading and writing.
    ///
    /// # Errors
    /// As for [`Dir::file`].
    pub fn file_to_write(&self, path: impl AsRef<Path>) -> io::Result<File> {
        self.regular(path.as_ref(), OFlags::RDWR)
    }

    /// Reads a whole file of at most `limit` bytes.
    ///
    /// # Errors
    /// Returns [`Refused`] for a larger file and for anything but a regular file, and
    /// the system's errors.
    pub fn read(&self, path: impl AsRef<Path>, limit: u64) -> io::Result<Vec<u8>> {
        read_limited(self.file(path)?, limit)
    }

    /// Examines what is at a path; returns `None` if nothing is.
    ///
    /// # Errors
    /// If a system call fails.
    pub fn stat(&self, path: impl AsRef<Path>) -> io::Result<Option<Stat>> {
        let path = path.as_ref();
        let name = path.file_name().ok_or(Refused::LeadsOut)?;
        let stat = |dir: BorrowedFd<'_>| {
            let stat = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
            Ok(Stat::from(&stat))
        };
        found(match path.parent() {
            // Most paths are names in this directory, and cost one call.
            Some(parent) if !parent.as_os_str().is_empty() => {
                let flags = OFlags::PATH | OFlags::DIRECTORY;
                let opened = self.open_beneath(parent, flags);
                opened.and_then(|parent| stat(parent.as_fd()))
            }
            _ => stat(self.as_fd()),
        })
    }

    /// Examines the directory itself.
    ///
    /// # Errors
    /// If the system call fails.
    pub fn stat_self(&self) -> io::Result<Stat> {
        Ok(Stat::from(&rustix::fs::fstat(&self.fd)?))
    }

    /// Returns the names in it, in no particular order.
    ///
    /// # Errors
    /// If a system call fails.
    pub fn names(&self) -> io::Result<Vec<OsString>> {
        let mut names = Vec::new();
        // This leaves the descriptor's own position alone.
        for entry in rustix::fs::Dir::read_from(&self.fd)? {
            let name = entry?.file_name().to_bytes().to_owned();
            if name != b"." && name != b".." {
                names.push(OsString::from_vec(name));
            }
        }
        Ok(names)
    }

    /// Makes creations, renames and removals in it durable.
    ///
    /// # Errors
    /// If the system call fails.
    pub fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fsync(&self.fd)?)
    }

    /// Checks that only we can write to the directory: its owner is this process's user
    /// or root.
    fn check_own(&self) -> io::Result<()> {
        let stat = self.stat_self()?;
        match is_ours(stat.uid) && stat.mode & 0o022 == 0 {
            true => Ok(()),
            false => Err(Refused::NotOurs {
                uid: stat.uid,
                mode: stat.mode,
            }
            .into()),
        }
    }

    fn regular(&self, path: &Path, flags: OFlags) -> io::Result<File> {
        let fd = match self.open_beneath(path, flags | OFlags::NONBLOCK | OFlags::NOCTTY) {
            // A socket, or a device without a driver.
            Err(error) if error.raw_os_error() == Some(nix::libc::ENXIO) => {
                return Err(Refused::Is(self.kind_of(path)).into());
            }
            // A directory opened for writing.
            Err(error) if error.kind() == io::ErrorKind::IsADirectory => {
                return Err(Refused::Is(Kind::Directory).into());
            }
            opened => opened?,
        };
        let file = File::from(fd);
        match Kind::of(&file.metadata()?) {
            Kind::File => Ok(file),
            other => Err(Refused::Is(other).into()),
        }
    }

    fn open_beneath(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        let flags = flags | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let opened = match openat2(&self.fd, path, flags, Mode::empty(), resolve) {
            // Linux before 5.6, and containers whose filter does not know the call.
            Err(Errno::NOSYS | Errno::PERM) => self.open_step_by_step(path, flags),
            opened => opened,
        };
        opened.map_err(|errno| match errno {
            Errno::LOOP => Refused::Is(Kind::Symlink).into(),
            Errno::XDEV => Refused::LeadsOut.into(),
            Errno::NOTDIR if flags.contains(OFlags::DIRECTORY) => {
                Refused::Is(self.kind_of(path)).into()
            }
            other => other.into(),
        })
    }

    /// Does what `openat2` does, for kernels that lack it.
    fn open_step_by_step(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        let mut at = rustix::io::fcntl_dupfd_cloexec(&self.fd, 0)?;
        let mut steps = path.components().peekable();
        while let Some(step) = steps.next() {
            let name = match step {
                Component::Normal(name) => name,
                Component::CurDir => continue,
                _ => return Err(Errno::XDEV),
            };
            let flags = match steps.peek() {
                Some(_) => OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
                None => flags,
            };
            let opened = openat(&at, name, flags | OFlags::NOFOLLOW, Mode::empty());
            at = opened.map_err(|errno| match errno {
                Errno::NOTDIR if is_link(&at, name) => Errno::LOOP,
                other => other,
            })?;
        }
        Ok(at)
    }

    fn kind_of(&self, path: &Path) -> Kind {
        let stat = self.stat(path);
        stat.ok().flatten().map_or(Kind::Other, |stat| stat.kind)
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Reads a file that somebody else may have opened, to its end.
///
/// # Errors
/// Returns [`Refused`] if the file has more than `limit` bytes, and the system's
/// errors.
pub fn read_limited(file: impl Read, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > limit {
        true => Err(Refused::TooLarge { limit }.into()),
        false => Ok(bytes),
    }
}

/// Opens a regular file by a path whose directories the user has named.
///
/// # Errors
/// As for [`Dir::file`].
pub fn open(path: &Path) -> io::Result<File> {
    let (dir, name) = Dir::of_file(path)?;
    dir.file(name)
}

/// Reads all of such a file.
///
/// # Errors
/// As for [`Dir::read`].
pub fn read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    read_limited(open(path)?, limit)
}

/// Turns `NotFound` into `None`.
///
/// # Errors
/// Returns all other errors.
pub fn found<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        result => result.map(Some),
    }
}

fn is_link(dir: &OwnedFd, name: &OsStr) -> bool {
    statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|stat| Stat::from(&stat).kind == Kind::Symlink)
}

#[cfg(test)]
mod tests;
