//! The file of the metadata store, with its space reserved.
//!
//! redb makes its file larger than it needs at the moment, as a hole, and fills the
//! hole later. If the disk became full meanwhile, redb could write nothing at all, not
//! even that files were removed. Their bytes are deleted only after that commit, so
//! removing files would never free space.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use redb::StorageBackend;

/// Limits on the holes in a file that redb wrote, in bytes: a larger hole means that
/// redb did not write the file. `ROOM` is always allowed, because a file system may
/// report the space of a new file late. `RATIO` times the space on disk is allowed as
/// well, because a file system may compress. redb's memory grows with the file size,
/// and a large size costs whoever created the file nothing.
const ROOM: u64 = 256 << 20;
const RATIO: u64 = 64;

/// The most bytes of holes that are filled; an older version or a copy may have left
/// them.
const FILL_LIMIT: u64 = 64 << 20;

/// The most that redb reads at once, in bytes. Its own tables have pages of about 100
/// KB; ours have smaller ones.
const READ_LIMIT: usize = 16 << 20;

/// See the module's documentation. The diff's own lock keeps others away, so the file
/// is not locked.
#[derive(Debug)]
pub struct ReservedFile(File);

impl ReservedFile {
    /// Wraps an open file.
    ///
    /// # Errors
    /// Returns `InvalidData` for a file that is almost all hole, and the system's
    /// errors.
    pub fn new(file: File) -> io::Result<Self> {
        let meta = file.metadata()?;
        let on_disk = meta.blocks().saturating_mul(512);
        if meta.len() > ROOM.saturating_add(on_disk.saturating_mul(RATIO)) {
            return Err(damage("almost all of it is a hole"));
        }
        let reserved = Self(file);
        if meta.len().saturating_sub(on_disk) <= on_disk.max(FILL_LIMIT)
            // A full disk is no reason not to open an existing file.
            && let Err(error) = reserved.reserve(0, meta.len())
        {
            tracing::debug!(%error, "no space to reserve for the metadata");
        }
        Ok(reserved)
    }

    fn reserve(&self, from: u64, to: u64) -> io::Result<()> {
        if to <= from {
            return Ok(());
        }
        let too_big = |_| io::Error::from_raw_os_error(nix::libc::EFBIG);
        let offset = i64::try_from(from).map_err(too_big)?;
        let len = i64::try_from(to - from).map_err(too_big)?;
        match fallocate(&self.0, FallocateFlags::empty(), offset, len) {
            // The writes themselves will then report a full disk.
            Err(Errno::EOPNOTSUPP) => Ok(()),
            other => Ok(other?),
        }
    }
}

impl StorageBackend for ReservedFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        // Allocate nothing for a page that claims to be larger.
        match out.len() > READ_LIMIT {
            true => Err(damage("it has a page of an impossible size")),
            false => self.0.read_exact_at(out, offset),
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let before = self.len()?;
        if let Err(e) = self.reserve(before, len) {
            self.0.set_len(before)?;
            return Err(e);
        }
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_all_at(data, offset)
    }
}

fn damage(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn open(path: &Path) -> io::Result<ReservedFile> {
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false);
        ReservedFile::new(options.open(path)?)
    }

    #[test]
    fn a_file_of_holes_is_neither_filled_nor_believed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("meta");
        let file = File::create(&path).unwrap();
        file.set_len(200 << 20).unwrap();
        let opened = open(&path).unwrap();
        assert_eq!(path.metadata().unwrap().blocks(), 0);
        let mut page = vec![0; READ_LIMIT + 1];
        let error = opened.read(0, &mut page).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        file.set_len(1 << 42).unwrap();
        let error = open(&path).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn the_whole_length_has_space() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("meta");
        let all_there = || {
            let meta = path.metadata().unwrap();
            meta.len() == 1 << 20 && meta.blocks() * 512 >= meta.len()
        };
        let file = open(&path).unwrap();
        file.set_len(2 << 20).unwrap();
        file.set_len(1 << 20).unwrap();
        assert!(all_there());

        // An older version left such a file.
        file.set_len(0).unwrap();
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(1 << 20)
            .unwrap();
        assert!(!all_there());
        drop(file);
        let file = open(&path).unwrap();
        assert!(all_there());
        file.write(5, b"bytes").unwrap();
        let mut read = [0; 5];
        file.read(5, &mut read).unwrap();
        assert_eq!(&read, b"bytes");
    }
}
