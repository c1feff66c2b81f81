//! The descriptors of data files: as many are kept as the system permits, those
//! that were used last. A file whose descriptor was closed is opened again when
//! it is needed, as PostgreSQL does with its own: should the kernel fail to write
//! its bytes back meanwhile, who opens it next is told when it syncs.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use nix::errno::Errno;
use nix::fcntl::FallocateFlags;

use super::{DataFile, DataStat, FILE_MODE, system_time};
use crate::cache::Cache;
use crate::descriptors;
use crate::untrusted::Dir;

/// The directory of the data files, and those of them that are open.
#[derive(Debug)]
pub struct Files {
    dir: Dir,
    open: Cache<u64, File>,
}

impl Files {
    pub fn new(dir: Dir) -> Self {
        // The catalog's files have the rest.
        let capacity = descriptors::share() / 3 * 2;
        Self::with_capacity(dir, capacity)
    }

    fn with_capacity(dir: Dir, capacity: usize) -> Self {
        Self {
            dir,
            open: Cache::new(capacity),
        }
    }

    pub fn dir(&self) -> &Dir {
        &self.dir
    }

    /// Makes the file of `ino` anew.
    pub fn create(&self, ino: u64) -> io::Result<Arc<File>> {
        let name = ino.to_string();
        let created = self.with_descriptors(|| self.dir.create(&name, FILE_MODE));
        let file = match created {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.forget(ino);
                // A leftover goes by its name: what it is, and leads to, stays
                // as it is.
                self.dir.remove_file(&name)?;
                self.with_descriptors(|| self.dir.create(&name, FILE_MODE))?
            }
            created => created?,
        };
        Ok(self.keep(ino, file))
    }

    /// The opened file of `ino`.
    pub fn open(&self, ino: u64) -> io::Result<Arc<File>> {
        if let Some(file) = self.open.get(&ino) {
            return Ok(file);
        }
        let file = self.with_descriptors(|| self.dir.file_to_write(ino.to_string()))?;
        Ok(self.keep(ino, file))
    }

    /// Closes the file of `ino`, once nobody is using it.
    pub fn forget(&self, ino: u64) {
        self.open.remove(&ino);
    }

    fn keep(&self, ino: u64, file: File) -> Arc<File> {
        let file = Arc::new(file);
        self.open.insert(ino, Arc::clone(&file), 1);
        file
    }

    /// Opens something. Should the system have no descriptor left, those that
    /// are kept are let go, and it is tried once more.
    fn with_descriptors(&self, open: impl Fn() -> io::Result<File>) -> io::Result<File> {
        match open() {
            Err(error) if is_short_of_descriptors(&error) => {
                self.open.clear();
                open()
            }
            opened => opened,
        }
    }
}

fn is_short_of_descriptors(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::EMFILE | Errno::ENFILE))
}

/// A data file in use, whether its descriptor is kept or not.
#[derive(Debug)]
pub struct KeptFile {
    files: Arc<Files>,
    ino: u64,
    /// What it was used by last; a way around the table of all of them.
    last: Mutex<Weak<File>>,
}

impl KeptFile {
    pub fn new(files: &Arc<Files>, ino: u64, file: &Arc<File>) -> Self {
        Self {
            files: Arc::clone(files),
            ino,
            last: Mutex::new(Arc::downgrade(file)),
        }
    }

    fn file(&self) -> io::Result<Arc<File>> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = last.upgrade() {
            return Ok(file);
        }
        let file = self.files.open(self.ino)?;
        *last = Arc::downgrade(&file);
        Ok(file)
    }
}

impl Drop for KeptFile {
    fn drop(&mut self) {
        self.files.forget(self.ino);
    }
}

impl DataFile for KeptFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let file = self.file()?;
        let mut done = 0;
        while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match FileExt::read_at(&*file, rest, offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        FileExt::write_all_at(&*self.file()?, buf, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        File::sync_data(&*self.file()?)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        File::set_len(&*self.file()?, len)
    }

    fn stat(&self) -> io::Result<DataStat> {
        let meta = self.file()?.metadata()?;
        Ok(DataStat {
            len: meta.len(),
            mtime_ns: nanoseconds(meta.mtime(), meta.mtime_nsec()),
            ctime_ns: nanoseconds(meta.ctime(), meta.ctime_nsec()),
            blocks: meta.blocks(),
        })
    }

    fn set_mtime(&self, mtime_ns: i64) -> io::Result<()> {
        self.file()?.set_modified(system_time(mtime_ns))
    }

    fn allocate(&self, flags: FallocateFlags, offset: u64, len: u64) -> io::Result<()> {
        let too_big = |_| io::Error::from_raw_os_error(nix::libc::EFBIG);
        let offset = i64::try_from(offset).map_err(too_big)?;
        let len = i64::try_from(len).map_err(too_big)?;
        Ok(nix::fcntl::fallocate(&*self.file()?, flags, offset, len)?)
    }

    fn seek(&self, offset: u64, whence: nix::unistd::Whence) -> io::Result<u64> {
        let offset =
            i64::try_from(offset).map_err(|_| io::Error::from_raw_os_error(nix::libc::ENXIO))?;
        let found = nix::unistd::lseek(&*self.file()?, offset, whence)?;
        u64::try_from(found).map_err(io::Error::other)
    }

    fn opened(&self) -> io::Result<Option<Arc<File>>> {
        self.file().map(Some)
    }
}

fn nanoseconds(seconds: i64, nanoseconds: i64) -> i64 {
    seconds
        .saturating_mul(1_000_000_000)
        .saturating_add(nanoseconds)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::*;

    fn files(dir: &Path, capacity: usize) -> Arc<Files> {
        Arc::new(Files::with_capacity(Dir::open(dir).unwrap(), capacity))
    }

    fn make(files: &Arc<Files>, ino: u64) -> KeptFile {
        KeptFile::new(files, ino, &files.create(ino).unwrap())
    }

    /// How many descriptors this process has of files in `dir`.
    fn descriptors_in(dir: &Path) -> usize {
        let all = fs::read_dir("/proc/self/fd").unwrap();
        let targets = all.filter_map(|fd| fs::read_link(fd.unwrap().path()).ok());
        let is_file = |path: &std::path::PathBuf| path.parent() == Some(dir);
        targets.filter(is_file).count()
    }

    #[test]
    fn more_files_are_in_use_than_descriptors() {
        let dir = tempfile::tempdir().unwrap();
        let dir_path = dir.path().canonicalize().unwrap();
        let files = files(&dir_path, 3);
        let used: Vec<KeptFile> = (1..=10).map(|ino| make(&files, ino)).collect();
        for round in 1..=2_u64 {
            for file in &used {
                let bytes = (file.ino * round).to_le_bytes();
                file.write_all_at(&bytes, 0).unwrap();
                file.sync_data().unwrap();
                assert!(descriptors_in(&dir_path) <= 3);
            }
            for file in &used {
                let mut bytes = [0; 8];
                assert_eq!(file.read_at(&mut bytes, 0).unwrap(), 8);
                assert_eq!(u64::from_le_bytes(bytes), file.ino * round);
                assert_eq!(file.stat().unwrap().len, 8);
            }
        }
        drop(used);
        assert_eq!(descriptors_in(&dir_path), 0);
    }

    #[test]
    fn a_name_that_is_used_again_leads_to_the_new_file() {
        let dir = tempfile::tempdir().unwrap();
        let files = files(dir.path(), 3);
        make(&files, 7).write_all_at(b"old", 0).unwrap();
        let old = files.open(7).unwrap();
        let new = make(&files, 7);
        assert_eq!(new.stat().unwrap().len, 0);
        assert_eq!(files.open(7).unwrap().metadata().unwrap().len(), 0);
        assert_eq!(old.metadata().unwrap().len(), 3);
    }

    #[test]
    fn a_file_that_went_while_it_was_closed_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let files = files(dir.path(), 1);
        let [one, _two] = [1, 2].map(|ino| make(&files, ino));
        fs::remove_file(dir.path().join("1")).unwrap();
        let error = one.stat().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        symlink("/dev/zero", dir.path().join("1")).unwrap();
        assert!(one.read_at(&mut [0], 0).is_err());
    }
}
