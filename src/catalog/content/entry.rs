//! A line of a content list: a file or a directory.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::{S_IFDIR, S_IFMT};
use crate::catalog::store::StorePath;
use crate::catalog::{Backup, CompressAlg};

/// A file or directory of a backup, as described by its line. The default corresponds to
/// a line in which no key has a value yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FileEntry<'a> {
    /// The path, relative to PGDATA or to its external directory. It is a plain path:
    /// relative, without empty, `.` or `..` components, and without NUL.
    pub path: &'a [u8],
    /// Size of the stored bytes; 0 means empty, -1 that the file existed unchanged and is
    /// not stored.
    pub size: i64,
    /// `st_mode`, with the file type.
    pub mode: u32,
    /// Whether the file is stored as pages, rather than as it is.
    pub is_datafile: bool,
    /// Whether it is a file of a compressed tablespace (Enterprise).
    pub is_cfs: bool,
    /// Checksum of the stored bytes; see the format's rules before use.
    pub crc: u32,
    /// The codec of its pages.
    pub compress_alg: CompressAlg,
    /// 0 for PGDATA, otherwise the external directory's number.
    pub external_dir_num: u32,
    /// The database's OID, or 0 if there is none.
    pub db_oid: u32,
    /// Size of the content in bytes if recorded, otherwise 0. For a data file, this is
    /// not the file length.
    pub full_size: i64,
    /// The segment's number within its fork.
    pub segno: u32,
    /// The source file's length in blocks if recorded, otherwise 0.
    pub n_blocks: u32,
    /// Number of pages stored if recorded, otherwise 0.
    pub n_headers: u32,
    /// CRC-32C of the file's part of the page header map, after decompression.
    pub hdr_crc: u32,
    /// Byte offset of that part.
    pub hdr_off: u64,
    /// Size in bytes of that part, compressed.
    pub hdr_size: u32,
}

impl FileEntry<'_> {
    /// Whether this is a directory.
    #[must_use]
    pub fn is_directory(&self) -> bool {
        self.mode & S_IFMT == S_IFDIR
    }

    /// Returns the path of its stored bytes, provided that the backup stores them.
    #[must_use]
    pub fn stored_in(&self, backup: &Backup) -> PathBuf {
        self.place_in(backup).name()
    }

    /// Returns where its page headers are in the backup's header map.
    #[must_use]
    pub fn in_header_map(&self) -> std::ops::Range<u64> {
        self.hdr_off..self.hdr_off.saturating_add(u64::from(self.hdr_size))
    }

    /// Returns the same location, for reading.
    #[must_use]
    pub fn place_in(&self, backup: &Backup) -> StorePath {
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
