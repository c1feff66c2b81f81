//! The data files of a real diff, in a directory.

use std::ffi::OsStr;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::DIR_MODE;
use super::file::{DataFile, Storage};
use super::kept::{Files, KeptFile};
use crate::diff::directory::Root;
use crate::diff::error::DiffError;
use crate::diff::layout::DATA_DIR;
use crate::untrusted::{Dir, Kind};

/// Data files in a directory that is opened once and kept open. Anybody may have put
/// something else in a file's place.
#[derive(Debug)]
pub struct DirStorage {
    files: Arc<Files>,
    names_dirty: AtomicBool,
}

impl DirStorage {
    /// Opens the data files of a diff, creating their directory if it is missing.
    ///
    /// # Errors
    /// Returns [`DiffError::Foreign`] if something else is in its place, and I/O errors
    /// with the path.
    pub(in crate::diff) fn open(root: &Root) -> Result<Self, DiffError> {
        let dir = match root.open_dir(DATA_DIR)? {
            Some(dir) => dir,
            None => (root.dir().make_dir(DATA_DIR, DIR_MODE))
                .map_err(|e| DiffError::io("create the directory", &root.join(DATA_DIR), e))?,
        };
        // The directory itself may be new, so its own entry needs a sync, too.
        Ok(Self {
            files: Arc::new(Files::new(dir)),
            names_dirty: AtomicBool::new(true),
        })
    }

    fn dir(&self) -> &Dir {
        self.files.dir()
    }

    /// Refuses anything at the names of these inodes that is not a file of this diff
    /// alone. Returns the inodes that have no file.
    ///
    /// # Errors
    /// Returns [`DiffError::Foreign`], [`DiffError::Linked`] or an I/O error.
    pub(in crate::diff) fn check(
        &self,
        known: impl Iterator<Item = u64>,
    ) -> Result<Vec<u64>, DiffError> {
        let mut missing = Vec::new();
        for ino in known {
            let path = self.path_of(ino);
            let stat = self.dir().stat(ino.to_string());
            match stat.map_err(|e| DiffError::io("stat", &path, e))? {
                None => missing.push(ino),
                Some(stat) if stat.kind != Kind::File => {
                    let found = stat.kind;
                    return Err(DiffError::Foreign { path, found });
                }
                Some(stat) if stat.links > 1 => return Err(DiffError::Linked { path }),
                Some(_) => {}
            }
        }
        Ok(missing)
    }

    /// Returns the path of an inode's data file.
    pub(in crate::diff) fn path_of(&self, ino: u64) -> PathBuf {
        self.dir().path().join(ino.to_string())
    }
}

/// Returns the inodes whose data files are in a directory. Names that pbkfs does not
/// give are ignored.
pub(in crate::diff) fn inodes_in(data: &Dir) -> io::Result<Vec<u64>> {
    let names = data.names()?;
    Ok(names
        .iter()
        .filter_map(|name| inode_of_name(name))
        .collect())
}

/// Parses a data file's name into its inode; `None` if pbkfs gives no such name.
pub(in crate::diff) fn inode_of_name(name: &OsStr) -> Option<u64> {
    let name = name.to_str()?;
    let ino: u64 = name.parse().ok()?;
    (ino.to_string() == name).then_some(ino)
}

impl Storage for DirStorage {
    fn create(&self, ino: u64) -> io::Result<Arc<dyn DataFile>> {
        self.files.create(ino)?;
        self.names_dirty.store(true, Ordering::Release);
        Ok(Arc::new(KeptFile::new(&self.files, ino)))
    }

    fn open(&self, ino: u64) -> io::Result<Arc<dyn DataFile>> {
        self.files.check(ino)?;
        Ok(Arc::new(KeptFile::new(&self.files, ino)))
    }

    fn remove(&self, ino: u64) -> io::Result<()> {
        self.files.remove(ino)
    }

    fn list(&self) -> io::Result<Vec<u64>> {
        inodes_in(self.dir())
    }

    fn sync_names(&self) -> io::Result<()> {
        if !self.names_dirty.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        let synced = self.files.make_all().and_then(|()| self.dir().sync());
        synced.inspect_err(|_| self.names_dirty.store(true, Ordering::Release))
    }

    fn sync_bytes(&self) -> io::Result<()> {
        Ok(nix::unistd::syncfs(self.dir())?)
    }

    fn statvfs(&self) -> io::Result<nix::sys::statvfs::Statvfs> {
        Ok(nix::sys::statvfs::fstatvfs(self.dir())?)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    use super::*;
    use crate::untrusted::{Refused, refused};

    #[test]
    fn what_is_no_data_file_is_neither_opened_nor_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let precious = dir.path().join("precious");
        fs::write(&precious, "precious").unwrap();
        let root = dir.path().join("diff");
        fs::create_dir(&root).unwrap();
        let storage = DirStorage::open(&Root::open(&root).unwrap()).unwrap();
        let traps: [fn(&Path, &Path); 3] = [
            |at, to| symlink(to, at).unwrap(),
            |at, _| symlink("/dev/zero", at).unwrap(),
            |at, _| mkfifo(at, Mode::S_IRWXU).unwrap(),
        ];
        let at = root.join("data/7");
        for make in traps {
            make(&at, &precious);
            let error = storage.open(7).map(|_| ()).unwrap_err();
            assert!(matches!(refused(&error), Some(Refused::Is(_))), "{error}");
            let error = storage.check([6, 7].into_iter()).unwrap_err();
            assert!(matches!(error, DiffError::Foreign { .. }), "{error}");
            assert!(error.to_string().contains("data/7"), "{error}");
            // A new file replaces it.
            storage.create(7).unwrap().write_all_at(b"new", 0).unwrap();
            storage.check([6, 7].into_iter()).unwrap();
            storage.remove(7).unwrap();
        }
        fs::hard_link(&precious, &at).unwrap();
        let error = storage.check([7].into_iter()).unwrap_err();
        assert!(matches!(error, DiffError::Linked { .. }), "{error}");
        assert_eq!(fs::read(&precious).unwrap(), b"precious");
    }

    #[test]
    fn the_directory_of_the_data_is_no_link() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        symlink("/", dir.path().join("data")).unwrap();
        let error = DirStorage::open(&root).unwrap_err();
        assert!(matches!(error, DiffError::Foreign { .. }), "{error}");
    }
}
