//! A diff's directory, opened once and kept open.
//!
//! It may have been copied from anywhere, so its content is untrusted. Everything is
//! opened relative to this directory and never through a link, and only if it is of the
//! kind that pbkfs creates there ([`crate::untrusted`]). The path to the directory is
//! the user's own, and may be a link.

use std::ffi::OsStr;
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::diff::error::DiffError;
use crate::diff::layout::{BINDING_FILE, LOCK_FILE};
use crate::untrusted::{Dir, Stat, found};

/// The directory that a file system has in its root.
const LOST_AND_FOUND: &str = "lost+found";

/// Write permission for others than the owner.
const GROUP_AND_OTHERS: u32 = 0o022;

/// See the module's documentation.
#[derive(Debug)]
pub struct Root {
    dir: Dir,
}

impl Root {
    /// Opens the directory.
    ///
    /// # Errors
    /// Returns [`DiffError::NotADiff`] for anything but a directory, and I/O errors.
    pub fn open(path: &Path) -> Result<Self, DiffError> {
        match Dir::open(path) {
            Ok(dir) => Ok(Self { dir }),
            // The error may also be about a component of the path.
            Err(e) if e.kind() == ErrorKind::NotADirectory && path.exists() => {
                Err(DiffError::NotADiff {
                    path: path.to_owned(),
                })
            }
            Err(e) => Err(DiffError::io("open", path, e)),
        }
    }

    /// Opens the directory; returns `None` if the path does not exist.
    ///
    /// # Errors
    /// As for [`Root::open`].
    pub fn find(path: &Path) -> Result<Option<Self>, DiffError> {
        match Self::open(path) {
            Err(DiffError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(None),
            opened => opened.map(Some),
        }
    }

    /// Opens the directory of that name in another one; it must not be a link.
    ///
    /// # Errors
    /// Returns I/O errors unchanged.
    pub fn below(parent: &Dir, name: &OsStr) -> std::io::Result<Self> {
        let dir = parent.dir(name)?;
        Ok(Self { dir })
    }

    /// Opens the directory, creating it for this user alone if it does not exist.
    ///
    /// # Errors
    /// As for [`Root::open`] and [`Root::make`].
    pub fn open_or_make(path: &Path) -> Result<Self, DiffError> {
        match Self::find(path)? {
            Some(root) => Ok(root),
            None => Self::make(path),
        }
    }

    /// Creates the directory for this user alone, and opens it.
    ///
    /// # Errors
    /// If the path exists, or if an I/O operation fails.
    pub fn make(path: &Path) -> Result<Self, DiffError> {
        let make = || {
            let (parent, name) = Dir::of_file(path)?;
            parent.make_dir(name, 0o700)
        };
        let dir = make().map_err(|e| DiffError::io("create the directory", path, e))?;
        Ok(Self { dir })
    }

    /// Returns the directory's path, as the user gave it.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Returns the path of something in it, for messages and for other programs.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path().join(name)
    }

    /// Returns the directory itself.
    pub fn dir(&self) -> &Dir {
        &self.dir
    }

    /// Examines what is at a name; a link itself, not its target.
    ///
    /// # Errors
    /// If an I/O operation fails.
    pub fn stat(&self, name: &str) -> Result<Option<Stat>, DiffError> {
        let stat = self.dir.stat(name);
        stat.map_err(|e| DiffError::io("stat", &self.join(name), e))
    }

    /// Opens a directory in it; `None` if there is none.
    ///
    /// # Errors
    /// Returns [`DiffError::Foreign`] for anything else, and I/O errors.
    pub fn open_dir(&self, name: &str) -> Result<Option<Dir>, DiffError> {
        found(self.dir.dir(name)).map_err(|e| DiffError::io("open", &self.join(name), e))
    }

    /// Whether pbkfs has used it: it has a binding or a lock file.
    ///
    /// # Errors
    /// If an I/O operation fails.
    pub fn is_diff(&self) -> Result<bool, DiffError> {
        Ok(self.stat(BINDING_FILE)?.is_some() || self.stat(LOCK_FILE)?.is_some())
    }

    /// Opens a regular file in it for reading and writing, and returns it with its size
    /// in bytes; `None` if it does not exist.
    ///
    /// # Errors
    /// Returns [`DiffError::Foreign`] for anything else, [`DiffError::Linked`] for a
    /// file that has another name, and I/O errors.
    pub fn open_file(&self, name: &str) -> Result<Option<(File, u64)>, DiffError> {
        let file = found(self.dir.file_to_write(name));
        let file = file.map_err(|e| DiffError::io("open", &self.join(name), e))?;
        file.map(|file| self.alone(name, file)).transpose()
    }

    /// Opens such a file, creating it for this user alone if it does not exist.
    ///
    /// # Errors
    /// As for [`Root::open_file`].
    pub fn open_or_create(&self, name: &str) -> Result<File, DiffError> {
        let file = self.dir.open_or_create(name, 0o600);
        let file = file.map_err(|e| DiffError::io("open", &self.join(name), e))?;
        Ok(self.alone(name, file)?.0)
    }

    /// Refuses a file that has another name: that name's file would be changed as well.
    fn alone(&self, name: &str, file: File) -> Result<(File, u64), DiffError> {
        let path = self.join(name);
        let meta = file.metadata();
        let meta = meta.map_err(|e| DiffError::io("stat", &path, e))?;
        match meta.nlink() {
            0 | 1 => Ok((file, meta.len())),
            _ => Err(DiffError::Linked { path }),
        }
    }

    /// Whether the directory is still empty.
    ///
    /// # Errors
    /// If an I/O operation fails.
    pub fn is_empty(&self) -> Result<bool, DiffError> {
        let names = self.dir.names();
        let names = names.map_err(|e| DiffError::io("list", self.path(), e))?;
        Ok(names.iter().all(|name| name == LOST_AND_FOUND))
    }

    /// Refuses a directory that holds other things and never was a diff, so that a
    /// mistyped path never gets files of ours.
    ///
    /// # Errors
    /// Returns [`DiffError::NotADiff`], and I/O errors.
    pub fn refuse_foreign_content(&self) -> Result<(), DiffError> {
        match self.is_diff()? || self.is_empty()? {
            true => Ok(()),
            false => Err(DiffError::NotADiff {
                path: self.path().to_owned(),
            }),
        }
    }

    /// Removes write permission for all but the owner, as `initdb` does with an empty
    /// directory that it is given.
    ///
    /// # Errors
    /// If an I/O operation fails.
    pub fn take_for_owner(&self) -> Result<(), DiffError> {
        let mode = self.mode()?;
        match mode & GROUP_AND_OTHERS {
            0 => Ok(()),
            _ => {
                let changed = self.dir.set_mode(mode & !GROUP_AND_OTHERS);
                changed.map_err(|e| DiffError::io("change the permissions of", self.path(), e))?;
                tracing::info!(
                    "{} had mode {mode:04o}; write permission was removed for all but \
                     its owner",
                    self.path().display()
                );
                Ok(())
            }
        }
    }

    /// Refuses a directory that users other than its owner can write to: while a clone
    /// runs, they could replace what it reads. The owner may be another user. Root
    /// works with the diffs of all users, for example with one that user postgres
    /// created: whatever owners do there affects only their own clones, because nothing
    /// outside the directory is opened.
    ///
    /// # Errors
    /// Returns [`DiffError::WritableByOthers`], and I/O errors.
    pub fn check_owners_alone(&self) -> Result<(), DiffError> {
        match self.mode()? & GROUP_AND_OTHERS {
            0 => Ok(()),
            _ => Err(DiffError::WritableByOthers {
                path: self.path().to_owned(),
            }),
        }
    }

    /// Makes creations and removals in it durable.
    ///
    /// # Errors
    /// If an I/O operation fails.
    pub fn sync(&self) -> Result<(), DiffError> {
        let synced = self.dir.sync();
        synced.map_err(|e| DiffError::io("sync", self.path(), e))
    }

    fn mode(&self) -> Result<u32, DiffError> {
        let stat = self.dir.stat_self();
        Ok(stat
            .map_err(|e| DiffError::io("stat", self.path(), e))?
            .mode)
    }
}
