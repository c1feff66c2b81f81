//! The whole list: reading, checking, and lookup by path.

use std::hash::{BuildHasher, RandomState};
use std::path::Path;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use super::packed::{Packed, PackedEntry, PackedPages};
use super::reader::{self, Cut, Parsed};
use super::{ContentError, FileEntry, LineError};
use crate::catalog::Backup;
use crate::catalog::store::with_fresh;

/// A backup's content list, in line order.
#[derive(Debug, Default)]
pub struct ContentList {
    packed: Packed,
    /// Entries by [`Packed::key`].
    by_key: HashTable<u32>,
    hasher: RandomState,
}

impl ContentList {
    /// Reads the list of a backup and checks it against the checksum in `backup.control`,
    /// if one is recorded.
    ///
    /// # Errors
    /// If the file cannot be read, does not have the recorded checksum, or has an invalid
    /// line.
    pub fn read(backup: &Backup) -> Result<Self, ContentError> {
        let path = backup.content().name();
        let read_error = |source| ContentError::Read {
            path: path.clone(),
            source,
        };
        let file = backup.content().open().map_err(read_error)?;
        let length = file.length().map_err(read_error)?;
        let read = |buf: &mut [u8], offset| file.read_at(buf, offset);
        with_fresh(&*file, 0..length, || {
            let parsed = reader::parse(&read, length, Cut::default()).map_err(read_error)?;
            if !parsed.given_up {
                compare(backup, parsed.crc)?;
            }
            Self::from_parsed(parsed, &path)
        })
    }

    /// Reads a list from memory, for the fuzzer.
    pub(crate) fn from_bytes(bytes: &[u8], path: &Path) -> Result<Self, ContentError> {
        let read = |buf: &mut [u8], offset| {
            let at = usize::try_from(offset).unwrap_or(usize::MAX);
            let rest = bytes.get(at..).unwrap_or_default();
            let count = rest.len().min(buf.len());
            let (head, _) = buf.split_at_mut(count);
            head.copy_from_slice(rest.get(..count).unwrap_or_default());
            Ok(count)
        };
        // The pieces are so small that the list is split, as otherwise only a long one
        // is.
        let cut = Cut {
            threads: 2,
            piece: 1 << 10,
        };
        let parsed = reader::parse(&read, bytes.len() as u64, cut).map_err(|source| {
            let path = path.to_owned();
            ContentError::Read { path, source }
        })?;
        Self::from_parsed(parsed, path)
    }

    /// Checks that the list of a backup can be read and has the recorded checksum. This
    /// costs a fraction of reading it.
    ///
    /// # Errors
    /// As for [`ContentList::read`], except for invalid lines.
    pub fn check(backup: &Backup) -> Result<(), ContentError> {
        let read_error = |source| ContentError::Read {
            path: backup.content().name(),
            source,
        };
        let file = backup.content().open().map_err(read_error)?;
        file.length().map_err(read_error)?;
        if backup.content_crc.is_none() {
            return Ok(());
        }
        let read = |buf: &mut [u8], offset| file.read_at(buf, offset);
        with_fresh(&*file, 0..u64::MAX, || {
            match reader::checksum(&read).map_err(read_error)? {
                Some(computed) => compare(backup, computed),
                None => Err(ContentError::Line {
                    path: backup.content().name(),
                    line: 1,
                    what: LineError::TooLong,
                }),
            }
        })
    }

    /// Builds the list; `path` is for messages.
    fn from_parsed(parsed: Parsed, path: &Path) -> Result<Self, ContentError> {
        if let Some((at, what)) = parsed.wrong {
            return Err(ContentError::Line {
                path: path.to_owned(),
                line: at + 1,
                what,
            });
        }
        let mut list = Self {
            packed: parsed.packed,
            ..Self::default()
        };
        list.index(path)?;
        list.packed.entries.shrink_to_fit();
        list.packed.pages.shrink_to_fit();
        list.packed.paths.shrink_to_fit();
        Ok(list)
    }

    /// Fills `by_key`, and removes identical duplicate lines.
    fn index(&mut self, path: &Path) -> Result<(), ContentError> {
        let (packed, hasher) = (&self.packed, &self.hasher);
        let hash_of = |index: u32| hasher.hash_one(packed.key(index));
        // Each entry has its own path within what 32 bits can index.
        let count = packed.entries.len() as u32;
        let mut by_key = HashTable::with_capacity(packed.entries.len());
        let mut again = Vec::new();
        for this in 0..count {
            let same_key = |&other: &u32| packed.key(other) == packed.key(this);
            match by_key.entry(hash_of(this), same_key, |&other| hash_of(other)) {
                Entry::Vacant(place) => {
                    place.insert(this);
                }
                Entry::Occupied(place) => {
                    let (first, this) = (*place.get() as usize, this as usize);
                    if packed.entry(first) != packed.entry(this) {
                        return Err(ContentError::Duplicate {
                            path: path.to_owned(),
                            name: String::from_utf8_lossy(packed.entry(this).path).into_owned(),
                        });
                    }
                    again.push(this);
                }
            }
        }
        self.by_key = by_key;
        if again.is_empty() {
            return Ok(());
        }
        let mut at = 0..;
        let entries = &mut self.packed.entries;
        entries.retain(|_| at.next().is_none_or(|at| again.binary_search(&at).is_err()));
        self.index(path)
    }

    /// Returns the number of files and directories listed.
    #[must_use]
    pub fn len(&self) -> usize {
        self.packed.entries.len()
    }

    /// Whether nothing is listed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.packed.entries.is_empty()
    }

    /// Returns the entry at an index below [`len`](Self::len).
    ///
    /// # Panics
    /// If the index is not below the length.
    #[must_use]
    pub fn entry(&self, index: usize) -> FileEntry<'_> {
        self.packed.entry(index)
    }

    /// Returns all entries.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = FileEntry<'_>> {
        (0..self.len()).map(|index| self.entry(index))
    }

    /// Returns the index of the entry with this key, if it exists.
    #[must_use]
    pub fn find(&self, path: &[u8], external_dir_num: u32) -> Option<usize> {
        let key = (path, external_dir_num);
        let found = self.by_key.find(self.hasher.hash_one(key), |&index| {
            self.packed.key(index) == key
        });
        found.map(|&index| index as usize)
    }

    /// Returns the memory used by the list, in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.packed.entries.capacity() * size_of::<PackedEntry>()
            + self.packed.pages.capacity() * size_of::<PackedPages>()
            + self.packed.paths.capacity()
            + self.by_key.allocation_size()
    }
}

/// Compares a list's checksum with the recorded one, if any.
fn compare(backup: &Backup, computed: u32) -> Result<(), ContentError> {
    match backup
        .content_crc
        .filter(|&crc| crc != 0 && crc != computed)
    {
        Some(recorded) => Err(ContentError::Checksum {
            path: backup.content().name(),
            recorded,
            computed,
        }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
