//! Creating files and directories, and replacing files as a whole.

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

/// The prefix of the name of an unfinished file. A killed process leaves such a file
/// behind.
const UNFINISHED: &str = ".pbkfs-new-";

/// Whether this is the name of a file that [`Dir::replace`] did not finish because its
/// process was killed.
#[must_use]
pub fn is_unfinished(name: &OsStr) -> bool {
    let number = name.to_str().and_then(|name| name.strip_prefix(UNFINISHED));
    number.is_some_and(|hex| hex.len() == 16 && hex.bytes().all(|b| b.is_ascii_hexdigit()))
}

impl Dir {
    /// Creates an empty file, open for reading and writing. The mode is set as given,
    /// whatever the umask.
    ///
    /// # Errors
    /// Returns `AlreadyExists`, also for a dangling link, and the system's errors.
    pub fn create(&self, name: impl AsRef<OsStr>, mode: u32) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(self, plain(name.as_ref())?, flags, Mode::RUSR | Mode::WUSR)?;
        fchmod(&fd, Mode::from_raw_mode(mode))?;
        Ok(File::from(fd))
    }

    /// Opens a regular file for reading and writing, creating it if it does not exist.
    ///
    /// # Errors
    /// Returns [`Refused`] if something else is there, and the system's errors.
    pub fn open_or_create(&self, name: impl AsRef<OsStr>, mode: u32) -> io::Result<File> {
        self.opened_or_created(name.as_ref(), mode, OFlags::RDWR)
    }

    /// Opens a file in the same way for appending.
    ///
    /// # Errors
    /// As for [`Dir::open_or_create`].
    pub fn append(&self, name: impl AsRef<OsStr>, mode: u32) -> io::Result<File> {
        self.opened_or_created(name.as_ref(), mode, OFlags::WRONLY | OFlags::APPEND)
    }

    fn opened_or_created(&self, name: &OsStr, mode: u32, flags: OFlags) -> io::Result<File> {
        // Another process may create or remove the file between the two calls.
        for _ in 0..8 {
            match self.regular(plain(name)?, flags) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                opened => return opened,
            }
            match self.create(name, mode) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
                // Open it as if it had existed.
                Ok(_) => continue,
            }
        }
        Err(io::ErrorKind::WouldBlock.into())
    }

    /// Creates a directory and opens it. The mode is set as given, whatever the umask.
    ///
    /// # Errors
    /// Returns `AlreadyExists`, and the system's errors.
    pub fn make_dir(&self, name: impl AsRef<OsStr>, mode: u32) -> io::Result<Self> {
        let name = plain(name.as_ref())?;
        mkdirat(self, name, Mode::RWXU)?;
        let dir = self.dir(name)?;
        fchmod(&dir, Mode::from_raw_mode(mode))?;
        Ok(dir)
    }

    /// Opens a directory in this one, creating it with that mode if it does not exist.
    ///
    /// # Errors
    /// Returns [`Refused`] if something else is there, and the system's errors.
    pub fn dir_or_new(&self, name: impl AsRef<OsStr>, mode: u32) -> io::Result<Self> {
        let name = name.as_ref();
        match self.make_dir(name, mode) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => self.dir(name),
            made => made,
        }
    }

    /// Atomically replaces whatever is at a name by a file with these bytes: the file
    /// is written under a name of its own and renamed. `owner` is the file's user and
    /// group, by number, if not this process's user.
    ///
    /// # Errors
    /// If a system call fails; then nothing has changed at the name.
    pub fn replace(
        &self,
        name: impl AsRef<OsStr>,
        bytes: &[u8],
        mode: u32,
        owner: Option<(u32, u32)>,
    ) -> io::Result<()> {
        self.write_new(name.as_ref(), bytes, mode, owner)?.finish()
    }

    /// Replaces without any sync, for files that lose their meaning when the host goes
    /// down.
    ///
    /// # Errors
    /// As for [`Dir::replace`].
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

    /// Replaces whatever is at a name by a link to `to`.
    ///
    /// # Errors
    /// If a directory is there, or if a system call fails.
    pub fn put_link(&self, name: impl AsRef<OsStr>, to: &OsStr) -> io::Result<()> {
        let name = plain(name.as_ref())?;
        let new = Self::new_name()?;
        symlinkat(to, self, &new)?;
        self.rename(&new, name).inspect_err(|_| {
            // The cause of the failure is reported already.
            let _ = self.remove_file(&new);
        })
    }

    /// Gives an open file another name (a hard link); `EXDEV` if it is on another file
    /// system.
    ///
    /// # Errors
    /// If the name is taken, or if the system call fails.
    pub fn link(&self, name: impl AsRef<OsStr>, file: &File) -> io::Result<()> {
        let name = plain(name.as_ref())?;
        let flags = AtFlags::SYMLINK_FOLLOW;
        Ok(linkat(CWD, path_of(file), self, name, flags)?)
    }

    /// Changes the owner of what is at a name; of a link, the owner of the link itself.
    ///
    /// # Errors
    /// If the system call fails.
    pub fn give_name(&self, name: impl AsRef<OsStr>, uid: u32, gid: u32) -> io::Result<()> {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        let name = plain(name.as_ref())?;
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        Ok(chownat(self, name, Some(uid), Some(gid), flags)?)
    }

    /// Changes the owner of the directory.
    ///
    /// # Errors
    /// If the system call fails.
    pub fn give_to(&self, uid: u32, gid: u32) -> io::Result<()> {
        give(self, uid, gid)
    }

    /// Changes the directory's permissions.
    ///
    /// # Errors
    /// If the system call fails.
    pub fn set_mode(&self, mode: u32) -> io::Result<()> {
        Ok(fchmod(self, Mode::from_raw_mode(mode))?)
    }

    /// Renames within this directory, replacing whatever has the new name.
    ///
    /// # Errors
    /// If the system call fails.
    pub fn rename(&self, from: impl AsRef<OsStr>, to: impl AsRef<OsStr>) -> io::Result<()> {
        let (from, to) = (plain(from.as_ref())?, plain(to.as_ref())?);
        Ok(renameat(self, from, self, to)?)
    }

    /// Moves something to another directory, replacing whatever has its name there.
    ///
    /// # Errors
    /// If the system call fails.
    pub fn move_to(&self, name: impl AsRef<OsStr>, to: &Self) -> io::Result<()> {
        let name = plain(name.as_ref())?;
        Ok(renameat(self, name, to, name)?)
    }

    /// Generates a name that is most likely unused.
    pub(super) fn new_name() -> io::Result<OsString> {
        Ok(format!("{UNFINISHED}{:016x}", random()?).into())
    }
}

/// Returns an unpredictable number.
///
/// # Errors
/// If the system call fails.
pub fn random() -> io::Result<u64> {
    let mut bytes = [0_u8; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(u64::from_ne_bytes(bytes))
}

/// Changes the owner of an opened file or directory.
///
/// # Errors
/// If the system call fails.
pub fn give(opened: impl std::os::fd::AsFd, uid: u32, gid: u32) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    Ok(fchown(opened, Some(uid), Some(gid))?)
}

/// A file that is to replace another one. If the file system supports it, the file has
/// no name until it is finished, so nothing of it is left if this process is killed.
/// Dropping it unfinished removes it.
#[derive(Debug)]
pub struct Replacement<'d> {
    dir: &'d Dir,
    name: OsString,
    /// Its temporary name, if it has one.
    unfinished: Option<OsString>,
    file: File,
}

impl<'d> Replacement<'d> {
    /// Starts a file that is to be at `name`.
    ///
    /// # Errors
    /// If a system call fails.
    pub fn begin(dir: &'d Dir, name: &OsStr, mode: u32) -> io::Result<Self> {
        let name = plain(name)?.into();
        let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
        let (file, unfinished) = match openat(dir, ".", flags, Mode::RUSR | Mode::WUSR) {
            Ok(fd) => {
                fchmod(&fd, Mode::from_raw_mode(mode))?;
                (File::from(fd), None)
            }
            // The errors of file systems and kernels that do not support this.
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

    /// Returns the file to be written.
    pub fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Makes the file durable and puts it in place.
    ///
    /// # Errors
    /// If a system call fails; then nothing has changed at the name.
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
                // Give it a temporary name first: linking cannot replace an existing
                // file.
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
            // The cause of the failure is reported already.
            let _ = self.dir.remove_file(unfinished);
        }
    }
}

/// Checks that a name is a single component that stays in its directory.
pub(super) fn plain(name: &OsStr) -> io::Result<&Path> {
    let path = Path::new(name);
    match path.file_name() == Some(name) {
        true => Ok(path),
        false => Err(Refused::LeadsOut.into()),
    }
}
