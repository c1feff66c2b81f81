//! Removal that neither follows links nor leaves the directory.

use std::ffi::OsStr;
use std::io;
use std::os::unix::fs::PermissionsExt;

use rustix::fs::{AtFlags, Mode, OFlags, openat, renameat, unlinkat};
use rustix::io::Errno;

use super::create::plain;
use super::{Dir, Kind, path_of};

impl Dir {
    /// Removes whatever is at a name, unless it is a directory. It is not an error if
    /// nothing is.
    ///
    /// # Errors
    /// If the system call fails.
    pub fn remove_file(&self, name: impl AsRef<OsStr>) -> io::Result<()> {
        gone(unlinkat(self, plain(name.as_ref())?, AtFlags::empty()))
    }

    /// Removes an empty directory, if there is one.
    ///
    /// # Errors
    /// If the system call fails.
    pub fn remove_dir(&self, name: impl AsRef<OsStr>) -> io::Result<()> {
        gone(unlinkat(self, plain(name.as_ref())?, AtFlags::REMOVEDIR))
    }

    /// Removes everything in this directory, and keeps the directory. Nobody may be
    /// adding files meanwhile.
    ///
    /// A tree may be too deep for the descriptors or the stack. So it is flattened:
    /// before a directory is removed, its subdirectories are moved up.
    ///
    /// # Errors
    /// If a system call fails.
    pub fn remove_content(&self) -> io::Result<()> {
        loop {
            let names = self.names()?;
            if names.is_empty() {
                return Ok(());
            }
            for name in names {
                self.remove_level(&name)?;
            }
        }
    }

    /// Removes whatever is at a name, with everything in it. It is not an error if
    /// nothing is.
    ///
    /// # Errors
    /// If a system call fails.
    pub fn remove_tree(&self, name: impl AsRef<OsStr>) -> io::Result<()> {
        let name = name.as_ref();
        match self.stat(name)? {
            Some(stat) if stat.kind == Kind::Directory => {
                self.enter(name)?.remove_content()?;
                self.remove_dir(name)
            }
            _ => self.remove_file(name),
        }
    }

    /// Removes what is at a name, moving its subdirectories up to this directory.
    fn remove_level(&self, name: &OsStr) -> io::Result<()> {
        let is_dir = |dir: &Self, name: &OsStr| -> io::Result<bool> {
            Ok(dir
                .stat(name)?
                .is_some_and(|stat| stat.kind == Kind::Directory))
        };
        if !is_dir(self, name)? {
            return self.remove_file(name);
        }
        let dir = self.enter(name)?;
        for inner in dir.names()? {
            if is_dir(&dir, &inner)? {
                // Moving a directory requires write permission for it.
                dir.enter(&inner)?;
                renameat(&dir, &inner, self, Self::new_name()?)?;
            } else {
                dir.remove_file(&inner)?;
            }
        }
        self.remove_dir(name)
    }

    /// Opens a directory of this user's that is to be removed, whatever its mode.
    fn enter(&self, name: &OsStr) -> io::Result<Self> {
        let name = plain(name)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let found = openat(self, name, flags, Mode::empty())?;
        // This kind of descriptor does not support fchmod, but its path cannot be
        // redirected by a link. If the change is not permitted, the removal itself
        // fails.
        let _ = std::fs::set_permissions(path_of(&found), PermissionsExt::from_mode(0o700));
        self.dir(name)
    }
}

fn gone(result: Result<(), Errno>) -> io::Result<()> {
    match result {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}
