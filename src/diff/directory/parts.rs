//! The parts of a diff as names in its directory: listing them, finding what is not of
//! the format, and removing them.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::PathBuf;

use super::root::Root;
use crate::diff::data::{inode_of_name, inodes_in};
use crate::diff::error::DiffError;
use crate::diff::layout::{
    BINDING_FILE, CATALOG_DIR, DATA_DIR, LOCK_FILE, META_FILE, NEW_CATALOG_DIR, PROMOTION_FILE,
    TEMPORARY_FILE, WAL_DIR,
};
use crate::untrusted::{Dir, Kind, is_unfinished};

/// The files beside `data/`, in the order in which they may be removed.
const FILES: [&str; 4] = [META_FILE, TEMPORARY_FILE, PROMOTION_FILE, BINDING_FILE];

/// One file of `data/`.
pub struct StoredFile {
    /// Its inode.
    pub ino: u64,
    /// Its space on disk in bytes.
    pub bytes: u64,
}

impl Root {
    /// Refuses a directory that is not a diff, or that holds something that could be
    /// neither emptied nor removed by its name alone: a lock that is not a file, a
    /// directory in a file's place, or anything else in a directory's place.
    pub fn check(&self) -> Result<(), DiffError> {
        if !self.is_diff()? {
            return Err(DiffError::NotADiff {
                path: self.path().to_owned(),
            });
        }
        let foreign = |name: &str, found| {
            let path = self.join(name);
            Err(DiffError::Foreign { path, found })
        };
        match self.stat(LOCK_FILE)? {
            Some(stat) if stat.kind != Kind::File => return foreign(LOCK_FILE, stat.kind),
            _ => {}
        }
        for name in FILES {
            match self.stat(name)? {
                Some(stat) if stat.kind == Kind::Directory => return foreign(name, stat.kind),
                _ => {}
            }
        }
        self.open_dir(DATA_DIR).map(|_| ())
    }

    /// Returns the files in `data/` whose names pbkfs gives.
    pub fn data_files(&self) -> Result<Vec<StoredFile>, DiffError> {
        let Some(data) = self.open_dir(DATA_DIR)? else {
            return Ok(Vec::new());
        };
        let mut files = Vec::new();
        for ino in inodes(&data)? {
            let name = ino.to_string();
            let stat = data.stat(&name);
            let stat = stat.map_err(|e| DiffError::io("stat", &data.path().join(&name), e))?;
            files.push(StoredFile {
                ino,
                bytes: stat.map_or(0, |stat| stat.disk_bytes),
            });
        }
        Ok(files)
    }

    /// Returns the paths in the directory that the format does not name.
    pub fn strangers(&self) -> Result<Vec<PathBuf>, DiffError> {
        let others = [LOCK_FILE, DATA_DIR, WAL_DIR, CATALOG_DIR, NEW_CATALOG_DIR];
        let is_known = |name: &OsStr| {
            let is_name = |known: &&str| name == *known;
            is_unfinished(name) || FILES.iter().any(is_name) || others.iter().any(is_name)
        };
        let mut strangers = strangers_in(self.dir(), is_known)?;
        if let Some(data) = self.open_dir(DATA_DIR)? {
            strangers.extend(strangers_in(&data, |name| inode_of_name(name).is_some())?);
        }
        strangers.sort();
        Ok(strangers)
    }

    /// Removes everything of the diff but its lock. The data directory stays if it
    /// holds anything that is not of the format.
    pub fn empty(&self) -> Result<(), DiffError> {
        let data = self.open_dir(DATA_DIR)?;
        self.unlink(META_FILE)?;
        // Make this durable before removing any data: metadata must not outlive its
        // bytes.
        self.sync()?;
        if let Some(data) = data {
            for ino in inodes(&data)? {
                let name = ino.to_string();
                let removed = data.remove_file(&name);
                removed.map_err(|e| DiffError::io("remove", &data.path().join(&name), e))?;
            }
            match self.dir().remove_dir(DATA_DIR) {
                Err(e) if e.kind() != io::ErrorKind::DirectoryNotEmpty => {
                    return Err(DiffError::io("remove", &self.join(DATA_DIR), e));
                }
                _ => {}
            }
        }
        // All of the WAL directory's content is the server's.
        self.remove_tree(WAL_DIR)?;
        self.remove_tree(NEW_CATALOG_DIR)?;
        self.remove_tree(CATALOG_DIR)?;
        for name in names(self.dir())?.iter().filter(|name| is_unfinished(name)) {
            self.unlink(name)?;
        }
        for name in FILES {
            self.unlink(name)?;
        }
        self.sync()
    }

    /// Removes a directory with everything in it. Of a link in its place, or in it, only
    /// the link is removed.
    pub fn remove_tree(&self, name: &str) -> Result<(), DiffError> {
        let removed = self.dir().remove_tree(name);
        removed.map_err(|e| DiffError::io("remove", &self.join(name), e))
    }

    /// Removes the file or link at a name, if there is one.
    pub fn unlink(&self, name: impl AsRef<OsStr>) -> Result<(), DiffError> {
        let name = name.as_ref();
        let removed = self.dir().remove_file(name);
        removed.map_err(|e| DiffError::io("remove", &self.join(name), e))
    }
}

fn names(dir: &Dir) -> Result<Vec<OsString>, DiffError> {
    dir.names()
        .map_err(|e| DiffError::io("list", dir.path(), e))
}

fn inodes(data: &Dir) -> Result<Vec<u64>, DiffError> {
    inodes_in(data).map_err(|e| DiffError::io("list", data.path(), e))
}

fn strangers_in(dir: &Dir, is_known: impl Fn(&OsStr) -> bool) -> Result<Vec<PathBuf>, DiffError> {
    let strangers = names(dir)?.into_iter().filter(|name| !is_known(name));
    Ok(strangers.map(|name| dir.path().join(name)).collect())
}
