//! Where `meta.redb` lives: in a file, or in what a test puts in its place.

use std::io;
use std::path::{Path, PathBuf};

use redb::{Database, StorageBackend};

use super::reserved::ReservedFile;

/// The overlay keeps the records that it uses in memory (a clone that rewrote
/// 1 TB has 16 MB of bitmaps), and small blocks are read once each before the
/// kernel caches them, so a small cache is enough.
const CACHE_BYTES: usize = 8 << 20;

/// Where the store lives.
pub enum StoreBackend {
    /// In a file.
    File(PathBuf),
    /// In whatever this makes each time the store is opened.
    Custom(Box<dyn Fn() -> Box<dyn StorageBackend> + Send + Sync>),
}

impl StoreBackend {
    pub(super) fn open(&self) -> Result<Database, redb::Error> {
        let mut builder = Database::builder();
        builder.set_cache_size(CACHE_BYTES);
        Ok(match self {
            Self::File(path) => {
                let file = ReservedFile::open(path).map_err(redb::Error::Io)?;
                builder.create_with_backend(file)?
            }
            Self::Custom(make) => builder.create_with_backend(Boxed(make()))?,
        })
    }

    pub(super) fn path(&self) -> &Path {
        match self {
            Self::File(path) => path,
            Self::Custom(_) => Path::new("(in memory)"),
        }
    }
}

/// redb takes a backend by type, not by box.
#[derive(Debug)]
struct Boxed(Box<dyn StorageBackend>);

impl StorageBackend for Boxed {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset, data)
    }
    fn close(&self) -> io::Result<()> {
        self.0.close()
    }
}
