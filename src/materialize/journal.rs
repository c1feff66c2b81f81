//! The journal of a materialization: what is being written where, and which files are
//! complete, so that an interrupted run can be resumed.
//!
//! It is a file beside the staged PGDATA. Its first line is a [`Header`] in JSON; every
//! further line is the number of a complete file's node. It is locked while a run writes.
//! It is valid only until the host is rebooted, because files are not synced one by one.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use nix::unistd::geteuid;
use serde::{Deserialize, Serialize};

use crate::untrusted::{self, Dir, SMALL};

/// Maximum size of a journal, in bytes: ten bytes for each of a hundred million files.
const LARGEST: u64 = 1 << 30;

/// Where the kernel names the host's boot.
pub const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// What a journal is of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The backup's id.
    pub backup: String,
    /// The image's fingerprint, which identifies the nodes; `None` if the run cannot be
    /// continued.
    pub image: Option<u64>,
    /// The host's boot.
    pub boot: String,
    /// For each root, its directory and the device and inode of the staged one.
    pub roots: Vec<(String, (u32, u32, u64))>,
}

impl Header {
    /// Returns whether a run with this header can go on from one with the other.
    pub fn goes_on(&self, other: &Self) -> bool {
        let paths = |header: &Self| -> Vec<String> {
            header.roots.iter().map(|(path, _)| path.clone()).collect()
        };
        (&self.backup, self.image, &self.boot) == (&other.backup, other.image, &other.boot)
            && self.image.is_some()
            && paths(self) == paths(other)
    }
}

/// An open journal, locked.
#[derive(Debug)]
pub struct Journal {
    file: Mutex<File>,
}

impl Journal {
    /// Opens the journal of this name, creating it if there is none.
    ///
    /// # Errors
    /// `WouldBlock` if another run holds it; `PermissionDenied` if it is another user's,
    /// who could name any directory in it; otherwise the system's error.
    pub fn open(dir: &Dir, name: impl AsRef<OsStr>) -> io::Result<Self> {
        let file = dir.open_or_create(name, 0o600)?;
        if file.metadata()?.uid() != geteuid().as_raw() {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        file.try_lock()?;
        let file = Mutex::new(file);
        Ok(Self { file })
    }

    /// Reads the header and the complete files; `None` if there is no valid header. An
    /// unfinished last line is removed.
    ///
    /// # Errors
    /// If reading fails.
    pub fn read(&self) -> io::Result<Option<(Header, HashSet<u32>)>> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.rewind()?;
        let mut text = String::new();
        (&mut *file).take(LARGEST).read_to_string(&mut text)?;
        let Some((first, rest)) = text.split_once('\n') else {
            return Ok(None);
        };
        let Ok(header) = serde_json::from_str(first) else {
            return Ok(None);
        };
        let whole = rest.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let complete = whole.lines().filter_map(|line| line.parse().ok()).collect();
        let length = text.rfind('\n').map_or(0, |end| end + 1);
        file.set_len(length as u64)?;
        Ok(Some((header, complete)))
    }

    /// Begins anew with this header, which is durable afterwards.
    ///
    /// # Errors
    /// If writing fails.
    pub fn begin(&self, header: &Header) -> io::Result<()> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", serde_json::to_string(header)?)?;
        file.sync_all()
    }

    /// Records that a file is complete.
    ///
    /// # Errors
    /// If writing fails.
    pub fn complete(&self, node: u32) -> io::Result<()> {
        let line = format!("{node}\n");
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(io::SeekFrom::End(0))?;
        file.write_all(line.as_bytes())
    }
}

/// Returns the id of the host's boot.
///
/// # Errors
/// If the kernel does not tell.
pub fn boot_id() -> io::Result<String> {
    let id = untrusted::read(Path::new(BOOT_ID), SMALL)?;
    Ok(String::from_utf8_lossy(id.trim_ascii()).into_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn header(backup: &str) -> Header {
        Header {
            backup: backup.to_owned(),
            image: Some(7),
            boot: boot_id().unwrap(),
            roots: vec![("/srv/main".to_owned(), (8, 1, 42))],
        }
    }

    #[test]
    fn it_remembers_complete_files_only() {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::open(temp.path()).unwrap();
        let journal = Journal::open(&dir, "journal").unwrap();
        assert_eq!(journal.read().unwrap(), None);
        journal.begin(&header("TOW7GA")).unwrap();
        journal.complete(3).unwrap();
        journal.complete(11).unwrap();
        let locked = Journal::open(&dir, "journal").unwrap_err();
        assert_eq!(locked.kind(), io::ErrorKind::WouldBlock);
        drop(journal);
        // A kill in the middle of a line.
        let mut file = fs::OpenOptions::new()
            .append(true)
            .open(temp.path().join("journal"))
            .unwrap();
        file.write_all(b"12").unwrap();
        drop(file);
        let journal = Journal::open(&dir, "journal").unwrap();
        let (read, complete) = journal.read().unwrap().unwrap();
        assert_eq!(complete, HashSet::from([3, 11]));
        assert!(read.goes_on(&header("TOW7GA")));
        assert!(!read.goes_on(&header("TOW7G5")));
        journal.complete(5).unwrap();
        assert_eq!(
            journal.read().unwrap().unwrap().1,
            HashSet::from([3, 5, 11])
        );
        journal.begin(&header("TOW7G5")).unwrap();
        assert_eq!(journal.read().unwrap().unwrap().1, HashSet::new());
    }
}
