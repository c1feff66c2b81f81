//! The lines of a content list in compact form: a list may have a million of them.

use std::ops::Range;

use super::{FileEntry, LineError, S_IFDIR, S_IFMT, S_IFREG};
use crate::catalog::CompressAlg;

/// One line. `PackedPages` has the fields that only data files have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PackedEntry {
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
pub(super) struct PackedPages {
    hdr_off: u64,
    segno: u32,
    n_blocks: u32,
    n_headers: u32,
    hdr_crc: u32,
    hdr_size: u32,
}

/// Lines in compact form.
#[derive(Debug, Default)]
pub(super) struct Packed {
    pub(super) entries: Vec<PackedEntry>,
    pub(super) pages: Vec<PackedPages>,
    /// All paths, concatenated.
    pub(super) paths: Vec<u8>,
}

impl Packed {
    pub(super) fn push(&mut self, entry: &FileEntry<'_>) -> Result<(), LineError> {
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

    /// Appends the lines of another part of the list.
    pub(super) fn append(&mut self, other: &Self) -> Result<(), LineError> {
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

    /// Returns an entry's unique key: the path and the external directory.
    pub(super) fn key(&self, index: u32) -> (&[u8], u32) {
        let entry = &self.entries[index as usize];
        (&self.paths[entry.path_range()], entry.external_dir_num)
    }

    pub(super) fn entry(&self, index: usize) -> FileEntry<'_> {
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

impl PackedEntry {
    /// Returns the position of the path; both ends were checked when it was pushed.
    fn path_range(&self) -> Range<usize> {
        let start = self.path_offset as usize;
        start..start + usize::from(self.path_length)
    }
}
