//! A catalog in a local directory.
//!
//! ```text
//! backups/INSTANCE/ID    links up to this level are followed: they were created
//! wal/INSTANCE           by the administrator to move things elsewhere
//! ..                     below, pg_probackup writes only regular files and
//!                        directories, and no link is followed
//! ```
//! Opening anything here never blocks, and only regular files are read.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, AtFlags, fadvise, statat};

use super::{Entry, Store, StoreFile, below, check_leads_down};
use crate::untrusted::{Dir, Stat};

/// The store of a catalog that is a directory on this host.
#[derive(Debug)]
pub struct LocalStore {
    root: PathBuf,
}

impl LocalStore {
    /// Creates the store of the catalog with this absolute path; whether it exists is
    /// found out when it is read.
    #[must_use]
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// Opens a directory.
    fn dir(&self, path: &Path) -> io::Result<Dir> {
        let (above, below) = parted(path, followed(path))?;
        let dir = Dir::open(&self.root.join(above))?;
        match below.as_os_str().is_empty() {
            true => Ok(dir),
            false => dir.dir(below),
        }
    }
}

impl Store for LocalStore {
    fn name(&self, path: &Path) -> PathBuf {
        below(&self.root, path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        let dir = self.dir(path)?;
        let may_be_links = path.components().count() < followed(path);
        let mut entries = Vec::new();
        for name in dir.names()? {
            // Entries that disappear in the meantime, as when retention deletes, are
            // omitted.
            if let Some(stat) = look(&dir, &name, may_be_links)? {
                entries.push(Entry {
                    name,
                    kind: stat.kind,
                    length: stat.len,
                });
            }
        }
        Ok(entries)
    }

    fn names(&self, path: &Path) -> io::Result<Vec<OsString>> {
        self.dir(path)?.names()
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn StoreFile>> {
        // The file itself is never a link.
        let above = path.components().count().saturating_sub(1);
        let (above, below) = parted(path, above.min(followed(path)))?;
        let file = Dir::open(&self.root.join(above))?.file(below)?;
        Ok(Box::new(file))
    }
}

/// Returns how many leading components of a path may be links.
fn followed(path: &Path) -> usize {
    match path.starts_with("wal") {
        true => 2,
        false => 3,
    }
}

/// Splits a path into its first components and the rest.
fn parted(path: &Path, first: usize) -> io::Result<(PathBuf, PathBuf)> {
    check_leads_down(path)?;
    let parts = path.components();
    Ok((
        parts.clone().take(first).collect(),
        parts.skip(first).collect(),
    ))
}

/// Returns the status of a name, or of its link's target if that is requested and exists.
fn look(dir: &Dir, name: &OsString, follow: bool) -> io::Result<Option<Stat>> {
    if follow && let Ok(stat) = statat(dir, name, AtFlags::empty()) {
        return Ok(Some(Stat::from(&stat)));
    }
    dir.stat(name)
}

impl StoreFile for File {
    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        // The system would report an impossible file offset as an error of ours.
        let end = offset.checked_add(buf.len() as u64);
        match end.is_some_and(|end| i64::try_from(end).is_ok()) {
            true => FileExt::read_at(self, buf, offset),
            false => Ok(0),
        }
    }

    fn expect_sequential(&self) {
        // This is only advice: it increases read-ahead.
        let _ = fadvise(self, 0, None, Advice::Sequential);
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.as_fd())
    }
}
