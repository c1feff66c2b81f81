//! Making files and directories, and replacing files whole.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, Gid, Mode, OFlags, Uid, chownat, fchmod, fchown, linkat, mkdirat, openat,
    renameat, symlinkat,
};
use rustix::io::Errno;

use super::{Dir, Refused, path_of};

/// What begins the name of a file that is not whole yet. A killed process
/// leaves one behind.
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
        self.opened_or_created(name.as_ref(), mode, OFlags::RDWR)
    }

    /// The same for adding to its end.
    ///
    /// # Errors
    /// As [`Dir::open_or_create`].
    pub fn append(&self, name: impl AsRef<OsStr>, mode: u32) -> io::Result<File> {
        self.opened_or_created(name.as_ref(), mode, OFlags::WRONLY | OFlags::APPEND)
    }

    fn opened_or_created(&self, name: &OsStr, mode: u32, flags: OFlags) -> io::Result<File> {
        // Each may be made or removed by another between the two calls.
        for _ in 0..8 {
            match self.regular(plain(name)?, flags) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                opened => return opened,
            }
            match self.create(name, mode) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
                // As whoever finds it there opens it.
                Ok(_) => continue,
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

    /// Opens a directory in this one, making it with that mode if it is not
    /// there.
    ///
    /// # Errors
    /// [`Refused`] if something else is there; the system's own.
    pub fn dir_or_new(&self, name: impl AsRef<OsStr>, mode: u32) -> io::Result<Self> {
        let name = name.as_ref();
        match self.make_dir(name, mode) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => self.dir(name),
            made => made,
        }
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
        self.write_new(name.as_ref(), bytes, mode, owner)?.finish()
    }

    /// The same for what an end of the host makes void anyway: nothing is
    /// synced.
    ///
    /// # Errors
    /// As [`Dir::replace`].
    pub fn replace_volatile(
        &self,
        name: impl AsRef<OsStr>,
        bytes: &[u8],
        mode: u32,
        owner: Option<(u32, u32)>,
    ) -> io::Result<()> {
        self.write_new(name.as_ref(), bytes, mode, owner)?.put()
    }

    fn write_new(
        &self,
        name: &OsStr,
        bytes: &[u8],
        mode: u32,
        owner: Option<(u32, u32)>,
    ) -> io::Result<Replacement<'_>> {
        let mut new = Replacement::begin(self, name, mode)?;
        new.file().write_all(bytes)?;
        if let Some((uid, gid)) = owner {
            give(new.file(), uid, gid)?;
        }
        Ok(new)
    }

    /// Puts a link that leads to `to` at a name, in place of what is there.
    ///
    /// # Errors
    /// A directory is there; the system's own.
    pub fn put_link(&self, name: impl AsRef<OsStr>, to: &OsStr) -> io::Result<()> {
        let name = plain(name.as_ref())?;
        let new = Self::new_name()?;
        symlinkat(to, self, &new)?;
        self.rename(&new, name).inspect_err(|_| {
            // What made it fail is told already.
            let _ = self.remove_file(&new);
        })
    }

    /// Gives what is at a name to a user; of a link, the link itself.
    ///
    /// # Errors
    /// The system's own.
    pub fn give_name(&self, name: impl AsRef<OsStr>, uid: u32, gid: u32) -> io::Result<()> {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        let name = plain(name.as_ref())?;
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        Ok(chownat(self, name, Some(uid), Some(gid), flags)?)
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
        Ok(format!("{UNFINISHED}{:016x}", random()?).into())
    }
}

/// A number that nobody can foretell.
///
/// # Errors
/// The system's own.
pub fn random() -> io::Result<u64> {
    let mut bytes = [0_u8; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(u64::from_ne_bytes(bytes))
}

/// Gives an opened file or directory to a user.
///
/// # Errors
/// The system's own.
pub fn give(opened: impl std::os::fd::AsFd, uid: u32, gid: u32) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    Ok(fchown(opened, Some(uid), Some(gid))?)
}

/// A file that is going to replace another one. Until it is finished it has no
/// name, where the file system lets it; then nothing of it is left when this
/// process is killed. Dropped before it was finished, it is gone.
#[derive(Debug)]
pub struct Replacement<'d> {
    dir: &'d Dir,
    name: OsString,
    /// Its name in the meantime, if it has one.
    unfinished: Option<OsString>,
    file: File,
}

impl<'d> Replacement<'d> {
    /// Begins to write what is going to be at `name`.
    ///
    /// # Errors
    /// The system's own.
    pub fn begin(dir: &'d Dir, name: &OsStr, mode: u32) -> io::Result<Self> {
        let name = plain(name)?.into();
        let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
        let (file, unfinished) = match openat(dir, ".", flags, Mode::RUSR | Mode::WUSR) {
            Ok(fd) => {
                fchmod(&fd, Mode::from_raw_mode(mode))?;
                (File::from(fd), None)
            }
            // What a file system or a kernel says that cannot do it.
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOENT | Errno::INVAL) => {
                let unfinished = Dir::new_name()?;
                (dir.create(&unfinished, mode)?, Some(unfinished))
            }
            Err(errno) => return Err(errno.into()),
        };
        Ok(Self {
            dir,
            name,
            unfinished,
            file,
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
        self.put()?;
        self.dir.sync()
    }

    fn put(&mut self) -> io::Result<()> {
        let unfinished = match &self.unfinished {
            Some(unfinished) => unfinished.clone(),
            None => {
                let unfinished = Dir::new_name()?;
                // A name of its own first: a link cannot replace what is there.
                let path = path_of(&self.file);
                linkat(CWD, path, self.dir, &unfinished, AtFlags::SYMLINK_FOLLOW)?;
                self.unfinished.insert(unfinished).clone()
            }
        };
        self.dir.rename(&unfinished, &self.name)?;
        self.unfinished = None;
        Ok(())
    }
}

impl Drop for Replacement<'_> {
    fn drop(&mut self) {
        if let Some(unfinished) = &self.unfinished {
            // What made it fail is told already.
            let _ = self.dir.remove_file(unfinished);
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
