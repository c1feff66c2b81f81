//! `backup_content.control`: what a backup holds, one object a line.
//!
//! ```text
//! {"path":"base/5/2619", "size":"1740", "mode":"33152", "is_datafile":"1", .. ,"segno":"0"}
//! ```
//! It looks like JSON and is not (`write_backup_filelist` in pg_probackup's
//! backup.c, `get_control_value_str` in util.c): nothing is escaped, a
//! backslash is a backslash, the first `"` ends a value, and every number is
//! a quoted string. The lines are in no order.

use std::ffi::OsStr;
use std::hash::{BuildHasher, RandomState};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use super::backup::{Backup, CompressAlg};
use super::store::Place;

mod error;
mod line;
mod reader;

pub use error::{ContentError, LineError};
use reader::{Cut, Parsed};

/// The file type bits of `st_mode`, and the two types that are listed.
const S_IFMT: u32 = 0o170_000;
const S_IFDIR: u32 = 0o040_000;
const S_IFREG: u32 = 0o100_000;

/// One file or directory of a backup, as its line has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileEntry<'a> {
    /// The path, relative to PGDATA or to its external directory. Plain:
    /// relative, no empty, `.` or `..` component, no NUL.
    pub path: &'a [u8],
    /// Stored bytes; 0 = empty, -1 = existed and unchanged, so not stored.
    pub size: i64,
    /// `st_mode`, with the file type.
    pub mode: u32,
    /// Whether pages are stored, rather than the file as it is.
    pub is_datafile: bool,
    /// A file of a compressed tablespace (Enterprise).
    pub is_cfs: bool,
    /// Of the stored bytes; see the format's rules before use.
    pub crc: u32,
    /// The codec of its pages.
    pub compress_alg: CompressAlg,
    /// 0 for PGDATA, else the external directory's number.
    pub external_dir_num: u32,
    /// The database's oid, 0 if none.
    pub db_oid: u32,
    /// The content's bytes, where recorded; 0 otherwise. Not the file length
    /// of a data file.
    pub full_size: i64,
    /// The segment's number in its fork.
    pub segno: u32,
    /// The source file's length in blocks, where recorded; 0 otherwise.
    pub n_blocks: u32,
    /// Pages stored, where recorded; 0 otherwise.
    pub n_headers: u32,
    /// CRC-32C of the inflated part of the page header map.
    pub hdr_crc: u32,
    /// Where that part begins, in bytes.
    pub hdr_off: u64,
    /// How many bytes it has, deflated.
    pub hdr_size: u32,
}

impl FileEntry<'_> {
    /// Whether this is a directory.
    #[must_use]
    pub fn is_directory(&self) -> bool {
        self.mode & S_IFMT == S_IFDIR
    }

    /// Where its bytes are stored, if the backup stores them.
    #[must_use]
    pub fn stored_in(&self, backup: &Backup) -> PathBuf {
        self.place_in(backup).name()
    }

    /// The same, to be read.
    #[must_use]
    pub fn place_in(&self, backup: &Backup) -> Place {
        let path = OsStr::from_bytes(self.path);
        match self.external_dir_num {
            0 => backup.file(path),
            number => backup
                .place
                .join(format!("external_directories/externaldir{number}"))
                .join(path),
        }
    }
}

/// One line, packed: a list may have a million of them. `PackedPages` holds
/// what only data files have.
#[derive(Debug, Clone, PartialEq, Eq)]
struct PackedEntry {
    size: i64,
    full_size: i64,
    path_offset: u32,
    path_length: u16,
    mode: u16,
    crc: u32,
    db_oid: u32,
    external_dir_num: u32,
    /// Index into the list's `pages`, or [`NO_PAGES`].
    pages: u32,
    compress_alg: CompressAlg,
    is_datafile: bool,
    is_cfs: bool,
}

const NO_PAGES: u32 = u32::MAX;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct PackedPages {
    hdr_off: u64,
    segno: u32,
    n_blocks: u32,
    n_headers: u32,
    hdr_crc: u32,
    hdr_size: u32,
}

/// Lines, packed.
#[derive(Debug, Default)]
struct Packed {
    entries: Vec<PackedEntry>,
    pages: Vec<PackedPages>,
    /// All paths, end to end.
    paths: Vec<u8>,
}

/// A backup's content list, in the order of its lines.
#[derive(Debug, Default)]
pub struct ContentList {
    packed: Packed,
    /// The entries by [`Packed::key`].
    by_key: HashTable<u32>,
    hasher: RandomState,
}

impl Packed {
    fn push(&mut self, entry: &FileEntry<'_>) -> Result<(), LineError> {
        let too_much = |_| LineError::TooMuch;
        let kind = entry.mode & S_IFMT;
        if kind != S_IFDIR && kind != S_IFREG {
            return Err(LineError::Mode(entry.mode));
        }
        let pages = PackedPages {
            hdr_off: entry.hdr_off,
            segno: entry.segno,
            n_blocks: entry.n_blocks,
            n_headers: entry.n_headers,
            hdr_crc: entry.hdr_crc,
            hdr_size: entry.hdr_size,
        };
        let has_pages = pages != PackedPages::default();
        self.entries.push(PackedEntry {
            size: entry.size,
            full_size: entry.full_size,
            path_offset: u32::try_from(self.paths.len()).map_err(too_much)?,
            path_length: u16::try_from(entry.path.len()).map_err(too_much)?,
            mode: u16::try_from(entry.mode).map_err(|_| LineError::Mode(entry.mode))?,
            crc: entry.crc,
            db_oid: entry.db_oid,
            external_dir_num: entry.external_dir_num,
            pages: match has_pages {
                true => u32::try_from(self.pages.len()).map_err(too_much)?,
                false => NO_PAGES,
            },
            compress_alg: entry.compress_alg,
            is_datafile: entry.is_datafile,
            is_cfs: entry.is_cfs,
        });
        if has_pages {
            self.pages.push(pages);
        }
        self.paths.extend_from_slice(entry.path);
        Ok(())
    }

    /// Adds the lines of another part of the list.
    fn append(&mut self, other: &Self) -> Result<(), LineError> {
        let first = |length| u32::try_from(length).map_err(|_| LineError::TooMuch);
        let (paths, pages) = (first(self.paths.len())?, first(self.pages.len())?);
        first(self.paths.len() + other.paths.len())?;
        self.entries.reserve_exact(other.entries.len());
        self.entries
            .extend(other.entries.iter().map(|entry| PackedEntry {
                path_offset: entry.path_offset + paths,
                pages: match entry.pages {
                    NO_PAGES => NO_PAGES,
                    at => at + pages,
                },
                ..entry.clone()
            }));
        self.pages.reserve_exact(other.pages.len());
        self.pages.extend_from_slice(&other.pages);
        self.paths.reserve_exact(other.paths.len());
        self.paths.extend_from_slice(&other.paths);
        Ok(())
    }

    /// What no two entries share: the path and the external directory.
    fn key(&self, index: u32) -> (&[u8], u32) {
        let entry = &self.entries[index as usize];
        (&self.paths[entry.path_range()], entry.external_dir_num)
    }

    fn entry(&self, index: usize) -> FileEntry<'_> {
        let packed = &self.entries[index];
        let none = PackedPages::default();
        let pages = self.pages.get(packed.pages as usize).unwrap_or(&none);
        FileEntry {
            path: &self.paths[packed.path_range()],
            size: packed.size,
            mode: u32::from(packed.mode),
            is_datafile: packed.is_datafile,
            is_cfs: packed.is_cfs,
            crc: packed.crc,
            compress_alg: packed.compress_alg,
            external_dir_num: packed.external_dir_num,
            db_oid: packed.db_oid,
            full_size: packed.full_size,
            segno: pages.segno,
            n_blocks: pages.n_blocks,
            n_headers: pages.n_headers,
            hdr_crc: pages.hdr_crc,
            hdr_off: pages.hdr_off,
            hdr_size: pages.hdr_size,
        }
    }
}

impl ContentList {
    /// Reads the list of a backup and checks it against the checksum in
    /// `backup.control`, where one is recorded.
    ///
    /// # Errors
    /// If the file cannot be read, is not the one whose checksum was
    /// recorded, or has a line that makes no sense.
    pub fn read(backup: &Backup) -> Result<Self, ContentError> {
        let path = backup.content_path();
        let read_error = |source| ContentError::Read {
            path: path.clone(),
            source,
        };
        let file = backup.content().open().map_err(read_error)?;
        let length = file.length().map_err(read_error)?;
        let read = |buf: &mut [u8], offset| file.read_at(buf, offset);
        let parsed = reader::parse(&read, length, Cut::default()).map_err(read_error)?;
        if !parsed.given_up {
            compare(backup, parsed.crc)?;
        }
        Self::from_parsed(parsed, &path)
    }

    /// Whether the list of a backup can be read and is the one whose checksum
    /// was recorded. Costs a fraction of reading it.
    ///
    /// # Errors
    /// As [`ContentList::read`], but for lines that make no sense.
    pub fn check(backup: &Backup) -> Result<(), ContentError> {
        let read_error = |source| ContentError::Read {
            path: backup.content_path(),
            source,
        };
        let file = backup.content().open().map_err(read_error)?;
        file.length().map_err(read_error)?;
        if backup.content_crc.is_none() {
            return Ok(());
        }
        let read = |buf: &mut [u8], offset| file.read_at(buf, offset);
        match reader::checksum(&read).map_err(read_error)? {
            Some(computed) => compare(backup, computed),
            None => Err(ContentError::Line {
                path: backup.content_path(),
                line: 1,
                what: LineError::TooLong,
            }),
        }
    }

    /// `path` is for messages.
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

    /// Fills `by_key`, and drops lines that say the same again.
    fn index(&mut self, path: &Path) -> Result<(), ContentError> {
        let (packed, hasher) = (&self.packed, &self.hasher);
        let hash_of = |index: u32| hasher.hash_one(packed.key(index));
        // Each has a path of its own in what 32 bits can index.
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

    /// How many files and directories are listed.
    #[must_use]
    pub fn len(&self) -> usize {
        self.packed.entries.len()
    }

    /// Whether nothing is listed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.packed.entries.is_empty()
    }

    /// The entry at an index below [`len`](Self::len).
    ///
    /// # Panics
    /// If the index is not below the length.
    #[must_use]
    pub fn entry(&self, index: usize) -> FileEntry<'_> {
        self.packed.entry(index)
    }

    /// All entries.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = FileEntry<'_>> {
        (0..self.len()).map(|index| self.entry(index))
    }

    /// The index of the entry with this key, if there is one.
    #[must_use]
    pub fn find(&self, path: &[u8], external_dir_num: u32) -> Option<usize> {
        let key = (path, external_dir_num);
        let found = self.by_key.find(self.hasher.hash_one(key), |&index| {
            self.packed.key(index) == key
        });
        found.map(|&index| index as usize)
    }

    /// The bytes of memory that the list takes.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.packed.entries.capacity() * size_of::<PackedEntry>()
            + self.packed.pages.capacity() * size_of::<PackedPages>()
            + self.packed.paths.capacity()
            + self.by_key.allocation_size()
    }
}

/// Compares a list's checksum with the recorded one, if there is one.
fn compare(backup: &Backup, computed: u32) -> Result<(), ContentError> {
    match backup
        .content_crc
        .filter(|&crc| crc != 0 && crc != computed)
    {
        Some(recorded) => Err(ContentError::Checksum {
            path: backup.content_path(),
            recorded,
            computed,
        }),
        None => Ok(()),
    }
}

impl PackedEntry {
    /// Where the path stands; both ends were checked when it was pushed.
    fn path_range(&self) -> Range<usize> {
        let start = self.path_offset as usize;
        start..start + usize::from(self.path_length)
    }
}

#[cfg(test)]
mod tests;
