//! The source of an archive's files: its directory, or a process that may read it.

use std::fmt;
use std::io;
use std::path::Path;

use super::{Form, WalArchive};
use crate::catalog::store::{Entry, StoreFile, StorePath};
use crate::pg::wal::segment::{backup_history_segment, history_timeline};
use crate::untrusted::{Dir, Kind};

/// The files of a WAL archive, by name.
pub trait ArchiveFiles: fmt::Debug + Send + Sync {
    /// Returns the names of all files; a name that is not UTF-8 does not belong to an
    /// archive.
    ///
    /// # Errors
    /// If the archive cannot be listed.
    fn names(&self) -> io::Result<Vec<String>>;

    /// Opens a file for reading.
    ///
    /// # Errors
    /// If it does not exist or cannot be opened.
    fn open(&self, name: &str) -> io::Result<Box<dyn StoreFile>>;

    /// Returns all files with their stored lengths.
    ///
    /// # Errors
    /// If the archive cannot be listed.
    fn entries(&self) -> io::Result<Vec<Entry>> {
        let entry = |name: String| {
            let length = self.open(&name).and_then(|file| file.length());
            // A file that has disappeared in the meantime is omitted.
            let length = length.ok()?;
            Some(Entry {
                name: name.into(),
                kind: Kind::File,
                length,
            })
        };
        Ok(self.names()?.into_iter().filter_map(entry).collect())
    }
}

/// The archive's directory itself.
impl ArchiveFiles for StorePath {
    fn names(&self) -> io::Result<Vec<String>> {
        let names = StorePath::names(self)?.into_iter();
        Ok(names.filter_map(|name| name.into_string().ok()).collect())
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn StoreFile>> {
        self.join(name).open()
    }

    fn entries(&self) -> io::Result<Vec<Entry>> {
        self.list()
    }
}

impl WalArchive {
    /// Returns the names of the archive's files, or the plain I/O error.
    ///
    /// # Errors
    /// If the archive cannot be listed.
    pub(crate) fn listed(&self) -> io::Result<Vec<String>> {
        self.files.names()
    }

    /// Opens a file of the archive for a user who may not read the archive. The name must
    /// be that of an archive's file, and the file must be a regular file in the archive
    /// itself, so that nobody gains access to more than the instance's WAL. If a `view`
    /// is given, another path of the archive's directory, the file is opened in there.
    ///
    /// # Errors
    /// If it does not exist, cannot be opened, or is something else.
    pub(crate) fn open_for_another(
        &self,
        view: Option<&Path>,
        name: &str,
    ) -> io::Result<Box<dyn StoreFile>> {
        let is_ours = Form::of(name, self.size).is_some()
            || history_timeline(name).is_some()
            || backup_history_segment(name).is_some();
        if !is_ours {
            let why = format!("\"{name}\" is not the name of a file in a WAL archive");
            return Err(io::Error::other(why));
        }
        match view {
            Some(view) => Ok(Box::new(Dir::open(view)?.file(name)?)),
            None => self.files.open(name),
        }
    }
}
