//! Making files and directories, and replacing files whole.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use rustix::fs::{Gid, Mode, OFlags, Uid, fchmod, fchown, mkdirat, openat, renameat};

use super::{Dir, Refused};

/// What begins the name of a file that is not whole yet.
const UNFINISHED: &str = ".pbkfs-new-";

/// Whether this is the name of a file that [`Dir::replace`] did not finish,
/// since its process was killed.
#[must_use]
pub fn is_unfinished(name: &OsStr) -> bool {
    let number = name.to_str().and_then(|name| name.strip_prefix(UNFINISHED));
    number.is_some_and(|hex| hex.len() == 16 && hex.bytes().all(|b| b.is_ascii_hexdigit()))
}

impl Dir {
    /// Makes a new, empty file, open for reading and writing. The mode is what
    /// is given, whatever the umask.
    ///
    /// # Errors
    /// `AlreadyExists`, a link that leads nowhere included; the system's own.
    pub fn create(&self, name: impl AsRef<OsStr>, mode: u32) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(self, plain(name.as_ref())?, flags, Mode::RUSR | Mode::WUSR)?;
        fchmod(&fd, Mode::from_raw_mode(mode))?;
        Ok(File::from(fd))
    }

    /// Opens a regular file for reading and writing, making it if it is not
    /// there.
    ///
    /// # Errors
    /// [`Refused`] if something else is there; the system's own.
    pub fn open_or_create(&self, name: impl AsRef<OsStr>, mode: u32) -> io::Result<File> {
        let name = name.as_ref();
        // Each may be made or removed by another between the two calls.
        for _ in 0..8 {
            match self.file_to_write(name) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                opened => return opened,
            }
            match self.create(name, mode) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                created => return created,
            }
        }
        Err(io::ErrorKind::WouldBlock.into())
    }

    /// Makes a directory and opens it. The mode is what is given, whatever the
    /// umask.
    ///
    /// # Errors
    /// `AlreadyExists`; the system's own.
    pub fn make_dir(&self, name: impl AsRef<OsStr>, mode: u32) -> io::Result<Self> {
        let name = plain(name.as_ref())?;
        mkdirat(self, name, Mode::RWXU)?;
        let dir = self.dir(name)?;
        fchmod(&dir, Mode::from_raw_mode(mode))?;
        Ok(dir)
    }

    /// Puts a file with these bytes at a name, whatever is there, whole or not
    /// at all: it is written under a name of its own and renamed. `owner` is
    /// who gets it, by number, if that is not this process's user.
    ///
    /// # Errors
    /// The system's own; what was there before still is.
    pub fn replace(
        &self,
        name: impl AsRef<OsStr>,
        bytes: &[u8],
        mode: u32,
        owner: Option<(u32, u32)>,
    ) -> io::Result<()> {
        let mut new = Replacement::begin(self, name.as_ref(), mode)?;
        new.file().write_all(bytes)?;
        if let Some((uid, gid)) = owner {
            give(new.file(), uid, gid)?;
        }
        new.finish()
    }

    /// Gives the directory to a user.
    ///
    /// # Errors
    /// The system's own.
    pub fn give_to(&self, uid: u32, gid: u32) -> io::Result<()> {
        give(self, uid, gid)
    }

    /// Changes the directory's permissions.
    ///
    /// # Errors
    /// The system's own.
    pub fn set_mode(&self, mode: u32) -> io::Result<()> {
        Ok(fchmod(self, Mode::from_raw_mode(mode))?)
    }

    /// Renames within this directory, over what is there.
    ///
    /// # Errors
    /// The system's own.
    pub fn rename(&self, from: impl AsRef<OsStr>, to: impl AsRef<OsStr>) -> io::Result<()> {
        let (from, to) = (plain(from.as_ref())?, plain(to.as_ref())?);
        Ok(renameat(self, from, self, to)?)
    }

    /// Moves something to another directory, over what is there.
    ///
    /// # Errors
    /// The system's own.
    pub fn move_to(&self, name: impl AsRef<OsStr>, to: &Self) -> io::Result<()> {
        let name = plain(name.as_ref())?;
        Ok(renameat(self, name, to, name)?)
    }

    /// A name that nothing has yet, most likely.
    pub(super) fn new_name() -> io::Result<OsString> {
        let mut random = [0_u8; 8];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
        let number = u64::from_ne_bytes(random);
        Ok(format!("{UNFINISHED}{number:016x}").into())
    }
}

/// Gives an opened file or directory to a user.
///
/// # Errors
/// The system's own.
pub fn give(opened: impl std::os::fd::AsFd, uid: u32, gid: u32) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    Ok(fchown(opened, Some(uid), Some(gid))?)
}

/// A file that is going to replace another one. Dropped before it was
/// finished, it is removed.
#[derive(Debug)]
pub struct Replacement<'d> {
    dir: &'d Dir,
    name: OsString,
    unfinished: OsString,
    file: File,
    finished: bool,
}

impl<'d> Replacement<'d> {
    /// Begins to write what is going to be at `name`.
    ///
    /// # Errors
    /// The system's own.
    pub fn begin(dir: &'d Dir, name: &OsStr, mode: u32) -> io::Result<Self> {
        let unfinished = Dir::new_name()?;
        let file = dir.create(&unfinished, mode)?;
        Ok(Self {
            dir,
            name: plain(name)?.into(),
            unfinished,
            file,
            finished: false,
        })
    }

    /// The file to be written.
    pub fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Makes it durable and puts it in its place.
    ///
    /// # Errors
    /// The system's own; what was there before still is.
    pub fn finish(mut self) -> io::Result<()> {
        self.file.sync_all()?;
        self.dir.rename(&self.unfinished, &self.name)?;
        self.finished = true;
        self.dir.sync()
    }
}

impl Drop for Replacement<'_> {
    fn drop(&mut self) {
        if !self.finished {
            // What made it fail is told already.
            let _ = self.dir.remove_file(&self.unfinished);
        }
    }
}

/// One name, that leads nowhere else.
pub(super) fn plain(name: &OsStr) -> io::Result<&Path> {
    let path = Path::new(name);
    match path.file_name() == Some(name) {
        true => Ok(path),
        false => Err(Refused::LeadsOut.into()),
    }
}
