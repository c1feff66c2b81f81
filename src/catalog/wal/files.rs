//! Where the files of an archive come from: its directory, or somebody who may
//! read it.

use std::fmt;
use std::io;
use std::path::Path;

use super::{Form, WalArchive};
use crate::catalog::store::{Entry, Place, StoreFile};
use crate::pg::wal::segment::{backup_history_segment, history_timeline};
use crate::untrusted::{Dir, Kind};

/// The files of a WAL archive, by their names.
pub trait ArchiveFiles: fmt::Debug + Send + Sync {
    /// The names of all files; what is not UTF-8 is none of an archive's.
    ///
    /// # Errors
    /// The archive cannot be listed.
    fn names(&self) -> io::Result<Vec<String>>;

    /// Opens a file for reading.
    ///
    /// # Errors
    /// It is not there, or cannot be opened.
    fn open(&self, name: &str) -> io::Result<Box<dyn StoreFile>>;

    /// All files, with their lengths as they are stored.
    ///
    /// # Errors
    /// The archive cannot be listed.
    fn entries(&self) -> io::Result<Vec<Entry>> {
        let entry = |name: String| {
            let length = self.open(&name).and_then(|file| file.length());
            // What has gone meanwhile is left out.
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
impl ArchiveFiles for Place {
    fn names(&self) -> io::Result<Vec<String>> {
        let names = Place::names(self)?.into_iter();
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
    /// The names of the archive's files, with the bare reason if it cannot be
    /// listed.
    ///
    /// # Errors
    /// It cannot.
    pub(crate) fn listed(&self) -> io::Result<Vec<String>> {
        self.files.names()
    }

    /// Opens a file of the archive for somebody who may not read the archive:
    /// only one whose name is an archive's, and only a regular file right
    /// there, so that nobody is given more than the instance's WAL. With a
    /// `view`, by which the archive's directory can be known as well, it is
    /// opened in there.
    ///
    /// # Errors
    /// It is not there, cannot be opened, or is something else.
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
