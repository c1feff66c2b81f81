//! The descriptors of data files. As many as the system permits are kept open, the most
//! recently used first. A file whose descriptor was closed is reopened at the next use,
//! as PostgreSQL does with its own files: if the kernel fails to write its bytes back
//! meanwhile, the next descriptor gets the error when it syncs.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use nix::errno::Errno;
use nix::fcntl::FallocateFlags;

use super::FILE_MODE;
use super::file::{DataFile, DataStat};
use super::time::system_time;
use super::unmade::Unmade;
use crate::cache::Cache;
use crate::descriptors;
use crate::untrusted::Dir;

/// The directory of the data files, the files in it that are open, and those whose
/// creation was deferred.
#[derive(Debug)]
pub struct Files {
    dir: Dir,
    open: Cache<u64, File>,
    unmade: Unmade,
}

impl Files {
    pub fn new(dir: Dir) -> Self {
        // The catalog's files get the rest.
        let capacity = descriptors::share() / 3 * 2;
        Self::with_capacity(dir, capacity)
    }

    fn with_capacity(dir: Dir, capacity: usize) -> Self {
        Self {
            dir,
            open: Cache::new(capacity),
            unmade: Unmade::default(),
        }
    }

    pub fn dir(&self) -> &Dir {
        &self.dir
    }

    /// Starts the file of `ino` afresh, empty.
    pub fn create(&self, ino: u64) -> io::Result<()> {
        self.forget(ino);
        if !self.unmade.put_off(ino, &self.dir)? {
            let file = self.make(ino)?;
            self.keep(ino, file);
        }
        Ok(())
    }

    fn make(&self, ino: u64) -> io::Result<File> {
        let name = ino.to_string();
        let created = self.with_descriptors(|| self.dir.create(&name, FILE_MODE));
        match created {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.forget(ino);
                // A leftover is removed by its name. If it is a link, its target stays
                // as it is.
                self.dir.remove_file(&name)?;
                self.with_descriptors(|| self.dir.create(&name, FILE_MODE))
            }
            created => created,
        }
    }

    /// Creates the file of `ino` if that was deferred.
    fn make_now(&self, ino: u64) -> io::Result<Option<File>> {
        self.unmade.made(ino, |time| {
            let file = self.make(ino)?;
            file.set_modified(system_time(time))?;
            Ok(file)
        })
    }

    /// Creates all deferred files, and keeps none of them open.
    pub fn make_all(&self) -> io::Result<()> {
        let unmade = self.unmade.all();
        unmade
            .into_iter()
            .try_for_each(|ino| self.make_now(ino).map(drop))
    }

    /// Returns the open file of `ino`.
    pub fn open(&self, ino: u64) -> io::Result<Arc<File>> {
        if let Some(file) = self.open.get(&ino) {
            return Ok(file);
        }
        let file = match self.make_now(ino)? {
            Some(file) => file,
            None => self.with_descriptors(|| self.dir.file_to_write(ino.to_string()))?,
        };
        Ok(self.keep(ino, file))
    }

    /// Checks that `ino` has a file, deferred or not.
    pub fn check(&self, ino: u64) -> io::Result<()> {
        match self.unmade.stat(ino) {
            Some(_) => Ok(()),
            None => self.open(ino).map(drop),
        }
    }

    /// Removes the file of `ino`, if there is one.
    pub fn remove(&self, ino: u64) -> io::Result<()> {
        self.unmade.forget(ino);
        self.forget(ino);
        self.dir.remove_file(ino.to_string())
    }

    /// Closes the file of `ino` once it is no longer in use.
    pub fn forget(&self, ino: u64) {
        self.open.remove(&ino);
    }

    fn keep(&self, ino: u64, file: File) -> Arc<File> {
        let file = Arc::new(file);
        self.open.insert(ino, Arc::clone(&file), 1);
        file
    }

    /// Opens something. If the system is out of descriptors, closes those that are kept
    /// and tries once more.
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

/// The state of a data file.
enum Found {
    File(Arc<File>),
    /// No file yet, hence no bytes.
    Unmade(DataStat),
}

/// A data file in use, whether its descriptor is kept or not.
#[derive(Debug)]
pub struct KeptFile {
    files: Arc<Files>,
    ino: u64,
    /// The file used last; it saves a lookup in the shared table.
    last: Mutex<Weak<File>>,
}

impl KeptFile {
    pub fn new(files: &Arc<Files>, ino: u64) -> Self {
        Self {
            files: Arc::clone(files),
            ino,
            last: Mutex::new(Weak::new()),
        }
    }

    /// Returns the file, creating it if that was deferred.
    fn file(&self) -> io::Result<Arc<File>> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = last.upgrade() {
            return Ok(file);
        }
        let file = self.files.open(self.ino)?;
        *last = Arc::downgrade(&file);
        Ok(file)
    }

    /// Returns the file, or the attributes of one that was deferred.
    fn found(&self) -> io::Result<Found> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = last.upgrade() {
            return Ok(Found::File(file));
        }
        drop(last);
        match self.files.unmade.stat(self.ino) {
            Some(stat) => Ok(Found::Unmade(stat)),
            None => self.file().map(Found::File),
        }
    }
}

impl Drop for KeptFile {
    fn drop(&mut self) {
        self.files.forget(self.ino);
    }
}

impl DataFile for KeptFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let Found::File(file) = self.found()? else {
            return Ok(0);
        };
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
        match self.found()? {
            Found::File(file) => File::sync_data(&file),
            Found::Unmade(_) => Ok(()),
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        File::set_len(&*self.file()?, len)
    }

    fn stat(&self) -> io::Result<DataStat> {
        let meta = match self.found()? {
            Found::File(file) => file.metadata()?,
            Found::Unmade(stat) => return Ok(stat),
        };
        let seconds_ns = meta.mtime().saturating_mul(1_000_000_000);
        Ok(DataStat {
            len: meta.len(),
            mtime_ns: seconds_ns.saturating_add(meta.mtime_nsec()),
            blocks: meta.blocks(),
        })
    }

    fn set_mtime(&self, mtime_ns: i64) -> io::Result<()> {
        match self.files.unmade.set_mtime(self.ino, mtime_ns) {
            true => Ok(()),
            false => self.file()?.set_modified(system_time(mtime_ns)),
        }
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
        files.create(ino).unwrap();
        KeptFile::new(files, ino)
    }

    /// Counts the descriptors of this process for files in `dir`.
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

    /// Lists the names in `dir`.
    fn names_in(dir: &Path) -> Vec<String> {
        let all = fs::read_dir(dir).unwrap();
        let names = all.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }

    #[test]
    fn an_empty_file_is_made_when_it_must_be() {
        let dir = tempfile::tempdir().unwrap();
        let files = files(dir.path(), 3);
        let [empty, written, cut, timed, gone] = [1, 2, 3, 4, 5].map(|ino| make(&files, ino));
        for file in [&empty, &written, &cut, &timed, &gone] {
            assert_eq!(file.stat().unwrap().len, 0);
            assert_eq!(file.read_at(&mut [0], 0).unwrap(), 0);
            file.sync_data().unwrap();
        }
        assert_eq!(names_in(dir.path()), [""; 0]);
        written.write_all_at(b"bytes", 0).unwrap();
        cut.set_len(7).unwrap();
        timed.set_mtime(1_000_000_007).unwrap();
        files.remove(5).unwrap();
        assert_eq!(names_in(dir.path()), ["2", "3"]);

        let before = empty.stat().unwrap();
        // A second handle, after the first was closed.
        drop(empty);
        files.check(1).unwrap();
        let empty = KeptFile::new(&files, 1);
        files.make_all().unwrap();
        assert_eq!(names_in(dir.path()), ["1", "2", "3", "4"]);
        assert_eq!(empty.stat().unwrap().mtime_ns, before.mtime_ns);
        assert_eq!(timed.stat().unwrap().mtime_ns, 1_000_000_007);
        assert_eq!(written.stat().unwrap().len, 5);
        assert_eq!(cut.stat().unwrap().len, 7);
        assert_eq!(files.check(6).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_file_that_cannot_be_made_stays_to_be_made() {
        let dir = tempfile::tempdir().unwrap();
        let files = files(dir.path(), 3);
        let file = make(&files, 1);
        // A directory is no data file, and is not removed as one.
        fs::create_dir(dir.path().join("1")).unwrap();
        assert!(file.write_all_at(b"bytes", 0).is_err());
        assert!(files.make_all().is_err());
        assert_eq!(file.stat().unwrap().len, 0);
        fs::remove_dir(dir.path().join("1")).unwrap();
        file.write_all_at(b"bytes", 0).unwrap();
        assert_eq!(fs::read(dir.path().join("1")).unwrap(), b"bytes");
    }

    #[test]
    fn a_file_that_went_while_it_was_closed_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let files = files(dir.path(), 1);
        let [one, two] = [1, 2].map(|ino| make(&files, ino));
        for file in [&one, &two] {
            file.write_all_at(b"bytes", 0).unwrap();
        }
        fs::remove_file(dir.path().join("1")).unwrap();
        let error = one.stat().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        symlink("/dev/zero", dir.path().join("1")).unwrap();
        assert!(one.read_at(&mut [0], 0).is_err());
    }
}
