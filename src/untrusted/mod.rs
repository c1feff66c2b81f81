//! The one way to files that somebody else can write: a backup catalog, a data
//! directory that a clone's superuser filled, a diff that was copied from
//! somewhere, directories that users of the host share.
//!
//! pbkfs is often root, and such a place can hold anything: a link to a file of
//! root's in place of a file of ours, a FIFO that keeps its reader waiting, a
//! file without end. So everything there is done relative to an opened
//! directory ([`Dir`]):
//!
//! - no symbolic link is followed, and no path leads out (`openat2` with
//!   `RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS`; where the kernel has none, step by
//!   step with `O_NOFOLLOW`);
//! - what is opened to be read is a regular file, seen by `fstat` after it was
//!   opened without waiting (`O_NONBLOCK`);
//! - what is read whole has a limit;
//! - what is made is new (`O_EXCL`), and owner and mode are changed by the
//!   descriptor, never by a path;
//! - what root does for another user with paths that only that user may judge,
//!   it does with that user's rights ([`as_user`]).
//!
//! `tests/architecture.rs` holds that no other code opens such paths.

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

/// The most that is read of a small file of ours, in bytes: a state, a binding,
/// a record. The largest of them has some kilobytes.
pub const SMALL: u64 = 1 << 20;

/// An opened directory. Paths given to it are relative, and stay below it.
#[derive(Debug)]
pub struct Dir {
    fd: OwnedFd,
    /// For messages.
    path: PathBuf,
}

impl Dir {
    /// Opens a directory that the user has named: links that lead to it are
    /// the user's own, and are followed.
    ///
    /// # Errors
    /// The system's own; `ENOTDIR` where something else is there.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self {
            fd: openat(CWD, path, flags, Mode::empty())?,
            path: path.to_owned(),
        })
    }

    /// Opens a directory of ours, whose own name is no link.
    ///
    /// # Errors
    /// [`Refused`] if another user owns it, or others may write to it: then
    /// nothing in it is ours for sure. The system's own.
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

    /// The directory that a file is in, with the file's name in it.
    ///
    /// # Errors
    /// The path names no file; those of [`Dir::open`].
    pub fn of_file(path: &Path) -> io::Result<(Self, &OsStr)> {
        let name = path
            .file_name()
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        let parent = path.parent().filter(|dir| !dir.as_os_str().is_empty());
        Ok((Self::open(parent.unwrap_or(Path::new(".")))?, name))
    }

    /// Where it is, for messages.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens a directory below this one.
    ///
    /// # Errors
    /// [`Refused`] for anything but a directory; the system's own.
    pub fn dir(&self, path: impl AsRef<Path>) -> io::Result<Self> {
        let path = path.as_ref();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let fd = self.open_beneath(path, flags)?;
        Ok(Self {
            fd,
            path: self.path.join(path),
        })
    }

    /// Opens a directory below this one to go through it, which takes no right to
    /// read it: its names cannot be told, and it cannot be synced.
    ///
    /// # Errors
    /// As [`Dir::dir`].
    pub fn through(&self, path: impl AsRef<Path>) -> io::Result<Self> {
        let path = path.as_ref();
        let fd = self.open_beneath(path, OFlags::PATH | OFlags::DIRECTORY)?;
        Ok(Self {
            fd,
            path: self.path.join(path),
        })
    }

    /// Opens a regular file below this directory for reading.
    ///
    /// # Errors
    /// [`Refused`] for anything else; the system's own.
    pub fn file(&self, path: impl AsRef<Path>) -> io::Result<File> {
        self.regular(path.as_ref(), OFlags::RDONLY)
    }

    /// Opens a regular file that is there for reading and writing.
    ///
    /// # Errors
    /// As [`Dir::file`].
    pub fn file_to_write(&self, path: impl AsRef<Path>) -> io::Result<File> {
        self.regular(path.as_ref(), OFlags::RDWR)
    }

    /// Reads a whole file of at most `limit` bytes.
    ///
    /// # Errors
    /// [`Refused`] for a larger one and for what is no regular file; the
    /// system's own.
    pub fn read(&self, path: impl AsRef<Path>, limit: u64) -> io::Result<Vec<u8>> {
        read_limited(self.file(path)?, limit)
    }

    /// What stands at a path, or `None`.
    ///
    /// # Errors
    /// The system's own.
    pub fn stat(&self, path: impl AsRef<Path>) -> io::Result<Option<Stat>> {
        let path = path.as_ref();
        let name = path.file_name().ok_or(Refused::LeadsOut)?;
        let stat = |dir: BorrowedFd<'_>| {
            let stat = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
            Ok(Stat::from(&stat))
        };
        found(match path.parent() {
            // Most are names in here, and cost one call.
            Some(parent) if !parent.as_os_str().is_empty() => {
                let flags = OFlags::PATH | OFlags::DIRECTORY;
                let opened = self.open_beneath(parent, flags);
                opened.and_then(|parent| stat(parent.as_fd()))
            }
            _ => stat(self.as_fd()),
        })
    }

    /// What the directory itself is.
    ///
    /// # Errors
    /// The system's own.
    pub fn stat_self(&self) -> io::Result<Stat> {
        Ok(Stat::from(&rustix::fs::fstat(&self.fd)?))
    }

    /// The names in it, in no order.
    ///
    /// # Errors
    /// The system's own.
    pub fn names(&self) -> io::Result<Vec<OsString>> {
        let mut names = Vec::new();
        // The descriptor's own position is left alone.
        for entry in rustix::fs::Dir::read_from(&self.fd)? {
            let name = entry?.file_name().to_bytes().to_owned();
            if name != b"." && name != b".." {
                names.push(OsString::from_vec(name));
            }
        }
        Ok(names)
    }

    /// Makes what was made, renamed and removed in it durable.
    ///
    /// # Errors
    /// The system's own.
    pub fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fsync(&self.fd)?)
    }

    /// Whether the directory is ours alone to write: its owner is this
    /// process's user, or root.
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
            // So answer a socket, and a device without a driver.
            Err(error) if error.raw_os_error() == Some(nix::libc::ENXIO) => {
                return Err(Refused::Is(self.kind_of(path)).into());
            }
            // So answers a directory that is to be written.
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
            // Before Linux 5.6, and in containers that do not know it.
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

    /// The same as `openat2` does, for kernels that have none.
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
/// [`Refused`] if it has more than `limit` bytes; the system's own.
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
/// As [`Dir::file`].
pub fn open(path: &Path) -> io::Result<File> {
    let (dir, name) = Dir::of_file(path)?;
    dir.file(name)
}

/// Reads such a file whole.
///
/// # Errors
/// As [`Dir::read`].
pub fn read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    read_limited(open(path)?, limit)
}

/// `None` for what is not there.
///
/// # Errors
/// All others.
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
