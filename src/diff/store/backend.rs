//! The location of `meta.redb`: a file, or a test's substitute.

#[cfg(test)]
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use redb::Database;
#[cfg(test)]
use redb::StorageBackend;

use super::reserved::ReservedFile;
use crate::diff::directory::Root;
use crate::diff::error::DiffError;
use crate::diff::layout::{META_FILE, NOT_THERE};

/// A small cache is enough. The overlay keeps the records that it uses in memory (16 MB
/// of bitmaps for a clone that rewrote 1 TB), and small blocks are read once each
/// before the kernel caches them.
const CACHE_BYTES: usize = 8 << 20;

/// The location of the store.
pub enum StoreBackend {
    /// In a diff's directory; it must exist there.
    In(Arc<Root>),
    /// In a directory that is to become a diff; created if it does not exist.
    New(Arc<Root>),
    /// In whatever this function returns; it is called each time the store is opened.
    #[cfg(test)]
    Custom(Box<dyn Fn() -> Box<dyn StorageBackend> + Send + Sync>),
}

impl StoreBackend {
    /// Opens the store. The outer error is about the file in the directory, the inner
    /// one is redb's.
    pub(super) fn open(&self) -> Result<Result<Database, redb::Error>, DiffError> {
        let mut builder = Database::builder();
        builder.set_cache_size(CACHE_BYTES);
        let file = match self {
            // redb would turn an empty file into a new store.
            Self::In(root) => match root.open_file(META_FILE)? {
                None => return Ok(Err(redb::Error::Corrupted(NOT_THERE.to_owned()))),
                Some((_, 0)) => return Ok(Err(redb::Error::Corrupted("it is empty".to_owned()))),
                Some((file, _)) => file,
            },
            Self::New(root) => root.open_or_create(META_FILE)?,
            #[cfg(test)]
            Self::Custom(make) => {
                let opened = builder.create_with_backend(Boxed(make()));
                return Ok(opened.map_err(redb::Error::from));
            }
        };
        let opened = ReservedFile::new(file).map(|file| builder.create_with_backend(file));
        Ok(opened
            .map_err(redb::Error::Io)
            .and_then(|opened| Ok(opened?)))
    }

    /// Returns the store's path, for messages.
    pub(super) fn path(&self) -> PathBuf {
        match self {
            Self::In(root) | Self::New(root) => root.join(META_FILE),
            #[cfg(test)]
            Self::Custom(_) => "(in memory)".into(),
        }
    }
}

/// redb takes a backend by type, not by box.
#[cfg(test)]
#[derive(Debug)]
struct Boxed(Box<dyn StorageBackend>);

#[cfg(test)]
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
