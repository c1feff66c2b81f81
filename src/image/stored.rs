//! Access to the catalog's files, and to files of the image that are stored whole.

use std::ffi::OsStr;
use std::io;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

use super::error::ImageError;
use super::tree::NodeId;
use super::view::{Image, StoredFile};
use crate::catalog::Backup;
use crate::catalog::content::FileEntry;
use crate::catalog::store::StoreFile;
use crate::untrusted::refused;

/// Number of stored bytes read at a time.
pub(super) const CHUNK: u64 = 1 << 20;

/// Returns the path of an entry, for messages.
pub(super) fn display_path(entry: &FileEntry<'_>) -> PathBuf {
    OsStr::from_bytes(entry.path).into()
}

impl Image {
    /// Opens the stored bytes of an entry, of which those in `wanted` are going to be read
    /// first, and checks that they are no shorter than recorded.
    pub(super) fn open_entry(
        &self,
        layer: usize,
        entry: usize,
        wanted: Range<u64>,
    ) -> Result<Arc<dyn StoreFile>, ImageError> {
        let key = StoredFile::Entry { layer, entry };
        if let Some(file) = self.files.get(&key) {
            return Ok(file);
        }
        let stored_error = |source| self.stored_error(layer, entry, source);
        let Layered { backup, entry } = self.layered(layer, entry);
        let file = entry
            .place_in(backup)
            .open_at(wanted)
            .map_err(stored_error)?;
        let found = file.length().map_err(stored_error)?;
        let expected = u64::try_from(entry.size).unwrap_or(0);
        if found < expected {
            return Err(self.short_error(layer, &entry, found));
        }
        let file = Arc::from(file);
        self.files.insert(key, Arc::clone(&file), 1);
        Ok(file)
    }

    /// Opens a backup's header map; `entry` is the one that needs it.
    pub(super) fn open_header_map(
        &self,
        layer: usize,
        entry: &FileEntry<'_>,
    ) -> Result<Arc<dyn StoreFile>, ImageError> {
        let key = StoredFile::HeaderMap { layer };
        if let Some(file) = self.files.get(&key) {
            return Ok(file);
        }
        let place = self.layers[layer].backup.header_map();
        let opened = place.open_at(entry.in_header_map()).map(Arc::from);
        let file = opened.map_err(|e| self.unreadable(layer, entry, place.name(), e))?;
        self.files.insert(key, Arc::clone(&file), 1);
        Ok(file)
    }

    /// Returns the length of a file that is stored whole: the length of its stored bytes,
    /// all of which restore copies whatever the list says.
    pub(super) fn whole_length(&self, node: NodeId) -> Result<u64, ImageError> {
        let Some((layer, entry)) = self.whole_source(node)? else {
            return Ok(0);
        };
        let file = self.open_entry(layer, entry, 0..CHUNK)?;
        let length = file.length();
        length.map_err(|source| self.stored_error(layer, entry, source))
    }

    /// Fills `buf` from an entry's stored bytes.
    pub(super) fn read_stored(
        &self,
        layer: usize,
        entry: usize,
        file: &dyn StoreFile,
        offset: u64,
        buf: &mut [u8],
    ) -> Result<(), ImageError> {
        file.fill_at(buf, offset).map_err(|source| {
            if source.kind() != io::ErrorKind::UnexpectedEof {
                return self.stored_error(layer, entry, source);
            }
            let length = file.length().unwrap_or(0);
            self.short_error(layer, &self.layered(layer, entry).entry, length)
        })
    }

    /// Returns the layer that holds a file that is stored whole; `None` if the file is
    /// empty.
    ///
    /// The target's line decides. If it says "unchanged", the newest older line that has
    /// bytes or is empty decides; every layer up to there must have a line.
    pub(super) fn whole_source(&self, node: NodeId) -> Result<Option<(usize, usize)>, ImageError> {
        self.whole_source_of(&self.file_entry(node)?)
    }

    pub(super) fn whole_source_of(
        &self,
        wanted: &FileEntry<'_>,
    ) -> Result<Option<(usize, usize)>, ImageError> {
        for (number, layer) in self.layers.iter().enumerate().rev() {
            let Some(index) = layer.list.find(wanted.path, wanted.external_dir_num) else {
                return Err(self.not_in_parent(number, wanted));
            };
            let entry = layer.list.entry(index);
            self.check_kind(number, &entry, false)?;
            match entry.size {
                -1 => {}
                0 => return Ok(None),
                _ => return Ok(Some((number, index))),
            }
        }
        Err(self.not_in_parent(0, wanted))
    }

    /// Refuses an entry of a different kind from the target's, and CFS files.
    pub(super) fn check_kind(
        &self,
        layer: usize,
        entry: &FileEntry<'_>,
        paged: bool,
    ) -> Result<(), ImageError> {
        let (path, backup) = (display_path(entry), self.layers[layer].backup.id.clone());
        if entry.is_cfs {
            return Err(ImageError::Cfs { path, backup });
        }
        if entry.is_directory() || entry.is_datafile != paged {
            return Err(ImageError::KindChanged {
                path,
                backup,
                target: self.target().backup.id.clone(),
            });
        }
        Ok(())
    }

    pub(super) fn layered(&self, layer: usize, entry: usize) -> Layered<'_> {
        let layer = &self.layers[layer];
        Layered {
            backup: &layer.backup,
            entry: layer.list.entry(entry),
        }
    }

    fn not_in_parent(&self, layer: usize, entry: &FileEntry<'_>) -> ImageError {
        ImageError::NotInParent {
            path: display_path(entry),
            backup: self.layers[layer].backup.id.clone(),
        }
    }

    /// Returns the error of the stored bytes of an entry that cannot be read.
    pub(super) fn stored_error(&self, layer: usize, entry: usize, source: io::Error) -> ImageError {
        let Layered { backup, entry } = self.layered(layer, entry);
        self.unreadable(layer, &entry, entry.stored_in(backup), source)
    }

    fn unreadable(
        &self,
        layer: usize,
        entry: &FileEntry<'_>,
        file: PathBuf,
        source: io::Error,
    ) -> ImageError {
        let (path, backup) = (display_path(entry), self.layers[layer].backup.id.clone());
        match refused(&source) {
            Some(reason) => ImageError::Refused {
                path,
                backup,
                file,
                reason,
            },
            None => ImageError::Stored {
                path,
                backup,
                file,
                source,
            },
        }
    }

    fn short_error(&self, layer: usize, entry: &FileEntry<'_>, found: u64) -> ImageError {
        ImageError::Short {
            path: display_path(entry),
            backup: self.layers[layer].backup.id.clone(),
            expected: u64::try_from(entry.size).unwrap_or(0),
            found,
        }
    }
}

/// An entry and the backup it belongs to.
pub(super) struct Layered<'a> {
    pub(super) backup: &'a Backup,
    pub(super) entry: FileEntry<'a>,
}
