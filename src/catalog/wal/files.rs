//! Where the files of an archive come from: its directory, or somebody who may
//! read it.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::{Form, WalArchive};
use crate::pg::wal::segment::{backup_history_segment, history_timeline};

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
    fn open(&self, name: &str) -> io::Result<File>;

    /// The length of a file as it is stored, in bytes.
    ///
    /// # Errors
    /// It is not there, or cannot be looked at.
    fn stored_length(&self, name: &str) -> io::Result<u64> {
        Ok(self.open(name)?.metadata()?.len())
    }
}

/// The archive's directory itself.
#[derive(Debug)]
pub(super) struct Directory(pub PathBuf);

impl ArchiveFiles for Directory {
    fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.0)? {
            names.extend(entry?.file_name().into_string());
        }
        Ok(names)
    }

    fn open(&self, name: &str) -> io::Result<File> {
        File::open(self.0.join(name))
    }

    fn stored_length(&self, name: &str) -> io::Result<u64> {
        Ok(fs::metadata(self.0.join(name))?.len())
    }
}

impl WalArchive {
    /// The names of the archive's files, with the bare reason if it cannot be
    /// listed.
    ///
    /// # Errors
    /// It cannot.
    pub fn listed(&self) -> io::Result<Vec<String>> {
        self.files.names()
    }

    /// Opens a file of the archive, in `dir`, by which its directory can be
    /// known as well, for somebody who may not read the archive: only one whose name is an archive's, and only a regular file right
    /// there, so that nobody is given more than the instance's WAL.
    ///
    /// # Errors
    /// It is not there, cannot be opened, or is something else.
    pub fn open_for_another(&self, dir: &Path, name: &str) -> io::Result<File> {
        let is_ours = Form::of(name, self.size).is_some()
            || history_timeline(name).is_some()
            || backup_history_segment(name).is_some();
        let refused = |why: &str| Err(io::Error::other(format!("\"{name}\" is {why}")));
        if !is_ours {
            return refused("not the name of a file in a WAL archive");
        }
        let file = OpenOptions::new()
            .read(true)
            // A fifo would keep us waiting for its writer.
            .custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK)
            .open(dir.join(name))?;
        match file.metadata()?.is_file() {
            true => Ok(file),
            false => refused("not a regular file"),
        }
    }
}
