//! One line of a content list: a file or a directory.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::{S_IFDIR, S_IFMT};
use crate::catalog::store::Place;
use crate::catalog::{Backup, CompressAlg};

/// One file or directory of a backup, as its line has it. The default is that
/// of a line in which no key has a value yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
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
