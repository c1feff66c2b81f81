//! The file of the metadata store, with its space reserved.
//!
//! redb makes its file longer than it needs for the moment, as a hole, and
//! fills that later. On a disk that has become full meanwhile it could then
//! write nothing at all, not even that files were removed; and as their bytes
//! go only after that is committed, removing files would never free the disk.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use redb::StorageBackend;

/// See the module's text. The diff's own lock keeps others away, so the file
/// has none.
#[derive(Debug)]
pub struct ReservedFile(File);

impl ReservedFile {
    /// Opens the file, making it if need be.
    ///
    /// # Errors
    /// The system's own.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            // A link in its place leads to what is not ours.
            .custom_flags(nix::libc::O_NOFOLLOW)
            .open(path)?;
        let reserved = Self(file);
        // A full disk is no reason not to open what is there.
        if let Err(error) = reserved.reserve(0, reserved.len()?) {
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
            // Then the writes themselves find out.
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
        self.0.read_exact_at(out, offset)
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn the_whole_length_has_space() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("meta");
        let all_there = || {
            let meta = path.metadata().unwrap();
            meta.len() == 1 << 20 && meta.blocks() * 512 >= meta.len()
        };
        let file = ReservedFile::open(&path).unwrap();
        file.set_len(2 << 20).unwrap();
        file.set_len(1 << 20).unwrap();
        assert!(all_there());

        // As an older version left it.
        file.set_len(0).unwrap();
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(1 << 20)
            .unwrap();
        assert!(!all_there());
        drop(file);
        let file = ReservedFile::open(&path).unwrap();
        assert!(all_there());
        file.write(5, b"bytes").unwrap();
        let mut read = [0; 5];
        file.read(5, &mut read).unwrap();
        assert_eq!(&read, b"bytes");
    }
}
