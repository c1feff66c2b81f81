//! A backup as described by its metadata, from whichever source that was read.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use time::OffsetDateTime;

use crate::catalog::store::StorePath;
use crate::pg::Lsn;

/// A backup's id: its start time in base36, in upper case. It is also the name of the
/// backup's directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackupId(pub String);

impl fmt::Display for BackupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl BackupId {
    /// Returns the id that pg_probackup gives to a backup started at that time: the
    /// seconds since 1970 in base36, in upper case. A time before 1970, which no clock of
    /// a backup host can show, results in the id `0`.
    #[must_use]
    pub fn from_start_time(start: OffsetDateTime) -> Self {
        const DIGITS: &[u8; 36] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ";
        let mut seconds = u64::try_from(start.unix_timestamp()).unwrap_or(0);
        let mut digits = Vec::new();
        loop {
            digits.push(char::from(DIGITS[(seconds % 36) as usize]));
            seconds /= 36;
            if seconds == 0 {
                return Self(digits.into_iter().rev().collect());
            }
        }
    }

    /// Returns the start time that the id encodes; `None` if it is not base36 or is out
    /// of the range of [`OffsetDateTime`].
    #[must_use]
    pub fn start_time(&self) -> Option<OffsetDateTime> {
        let seconds = i64::from_str_radix(&self.0, 36).ok()?;
        OffsetDateTime::from_unix_timestamp(seconds).ok()
    }
}

/// How a backup was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BackupMode {
    /// Every file; the first layer of a chain.
    Full,
    /// Changed pages, found through the WAL.
    Page,
    /// Changed pages, found through the ptrack extension.
    Ptrack,
    /// Changed pages, found by reading every page's LSN.
    Delta,
}

/// A backup's status, as pg_probackup's `backup.control` spells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BackupStatus {
    /// A directory without a readable `backup.control`.
    Unknown,
    /// Complete and validated.
    Ok,
    /// Complete, but not yet validated.
    Done,
    /// Being taken, or its process has died.
    Running,
    /// Failed.
    Error,
    /// Being merged into its FULL.
    Merging,
    /// Merged into its FULL, with the rename pending.
    Merged,
    /// Being deleted.
    Deleting,
    /// Deleted.
    Deleted,
    /// A parent is missing or bad.
    Orphan,
    /// Validation found damage.
    Corrupt,
}

impl BackupStatus {
    /// Whether pg_probackup restores a backup in this status without further steps.
    #[must_use]
    pub fn is_restorable(self) -> bool {
        matches!(self, Self::Ok | Self::Done)
    }
}

/// The codec with which a file's pages are stored. The per-file value in the content list
/// decides, never the backup's. It is parsed from any case-insensitive prefix of its name,
/// as pg_probackup does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CompressAlg {
    /// Raw pages.
    #[default]
    None,
    /// RFC 1950, one stream per page.
    Zlib,
    /// PostgreSQL's own LZ, one bare stream per page.
    Pglz,
    /// One raw LZ4 block per page (Enterprise; verified only against our encoder).
    Lz4,
    /// One Zstandard frame per page (Enterprise; verified only against our encoder).
    Zstd,
}

/// A word that is in none of pg_probackup's vocabularies (modes, statuses, codecs,
/// versions).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{word}\" is not a known {what}")]
pub struct UnknownWord {
    /// The vocabulary: "backup mode", "status", ..
    pub what: &'static str,
    /// The word as found.
    pub word: String,
}

impl UnknownWord {
    fn new(what: &'static str, word: &str) -> Self {
        Self {
            what,
            word: word.to_owned(),
        }
    }
}

/// Implements `Display` and `FromStr` by one table of words; `$is` tells whether a text
/// stands for a word.
macro_rules! words {
    ($type:ident, $what:literal, $is:path; $($variant:ident => $word:literal,)+) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self {
                    $(Self::$variant => $word,)+
                })
            }
        }

        impl FromStr for $type {
            type Err = UnknownWord;

            fn from_str(text: &str) -> Result<Self, UnknownWord> {
                $(if $is($word, text) {
                    return Ok(Self::$variant);
                })+
                Err(UnknownWord::new($what, text))
            }
        }
    };
}

words! {
    BackupMode, "backup mode", str::eq;
    Full => "FULL",
    Page => "PAGE",
    Ptrack => "PTRACK",
    Delta => "DELTA",
}

words! {
    BackupStatus, "backup status", str::eq;
    Unknown => "UNKNOWN",
    Ok => "OK",
    Done => "DONE",
    Running => "RUNNING",
    Error => "ERROR",
    Merging => "MERGING",
    Merged => "MERGED",
    Deleting => "DELETING",
    Deleted => "DELETED",
    Orphan => "ORPHAN",
    Corrupt => "CORRUPT",
}

words! {
    CompressAlg, "compression algorithm", is_start_of_word;
    None => "none",
    Zlib => "zlib",
    Pglz => "pglz",
    Lz4 => "lz4",
    Zstd => "zstd",
}

fn is_start_of_word(word: &str, text: &str) -> bool {
    let start = word.get(..text.len()).filter(|start| !start.is_empty());
    start.is_some_and(|start| start.eq_ignore_ascii_case(text))
}

/// The version of the pg_probackup that wrote a backup, `a.b.c`; it determines format
/// rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProgramVersion {
    /// `a * 10000 + b * 100 + c`, which is how pg_probackup compares versions.
    number: u32,
}

impl ProgramVersion {
    /// Creates the version `a.b.c`.
    #[must_use]
    pub const fn new(a: u32, b: u32, c: u32) -> Self {
        Self {
            number: a * 10_000 + b * 100 + c,
        }
    }
}

impl fmt::Display for ProgramVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = self.number;
        write!(f, "{}.{}.{}", n / 10_000, n / 100 % 100, n % 100)
    }
}

impl FromStr for ProgramVersion {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        let parts: Vec<Option<u32>> = text.split('.').map(|p| p.parse().ok()).collect();
        match parts.as_slice() {
            [Some(a), Some(b), Some(c)] if *a < 1000 && *b < 100 && *c < 100 => {
                Ok(Self::new(*a, *b, *c))
            }
            _ => Err(UnknownWord::new("pg_probackup version", text)),
        }
    }
}

/// One line of a backup's `tablespace_map`: the original location of a tablespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TablespaceMapping {
    /// The tablespace's oid, the name under `pg_tblspc`.
    pub oid: u32,
    /// Its absolute directory on the host that was backed up.
    pub path: PathBuf,
}

/// One backup's metadata. `pg_probackup show` and the control files yield the same
/// values, which a test verifies.
///
/// ```
/// use pbkfs::catalog::Catalog;
/// use pbkfs::catalog::content::ContentList;
///
/// # let unpacked = include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc_catalog.rs"));
/// # let root = unpacked.path().join("catalog");
/// let newest = Catalog::open(&root)?.instance("main")?.backups()?.remove(0);
/// assert!(newest.status.is_restorable());
/// println!("{} of PostgreSQL {}", newest.id, newest.server_version);
///
/// // Which files it has, and how each is stored.
/// let list = ContentList::read(&newest)?;
/// let found = list.find(b"global/pg_control", 0).ok_or("no pg_control")?;
/// assert!(!list.entry(found).is_datafile);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Backup {
    /// The backup's directory, `CATALOG/backups/INSTANCE/ID`.
    pub dir: PathBuf,
    /// The same directory, for reading.
    pub place: StorePath,
    /// Its id.
    pub id: BackupId,
    /// The direct parent's id; `None` for a FULL.
    pub parent: Option<BackupId>,
    /// The backup mode.
    pub mode: BackupMode,
    /// Its status at the time it was read.
    pub status: BackupStatus,
    /// Whether the WAL it needs is inside the backup (STREAM) or in the
    /// archive (ARCHIVE).
    pub stream: bool,
    /// The backup's default codec; the content list's per-file value decides.
    pub compress_alg: CompressAlg,
    /// The codec's level.
    pub compress_level: i32,
    /// Whether it was taken from a standby.
    pub from_replica: bool,
    /// Page size in bytes; anything but 8192 is refused.
    pub block_size: u32,
    /// WAL page size in bytes.
    pub xlog_block_size: u32,
    /// Whether the cluster has page checksums.
    pub checksums: bool,
    /// The version of the pg_probackup that wrote it.
    pub program_version: ProgramVersion,
    /// PostgreSQL's version as recorded: `15`, `9.6`.
    pub server_version: String,
    /// The timeline it was taken on.
    pub timeline: u32,
    /// Position at which recovery starts.
    pub start_lsn: Lsn,
    /// Position at which the backup becomes consistent.
    pub stop_lsn: Lsn,
    /// Time at which it started.
    pub start_time: OffsetDateTime,
    /// Time at which it ended.
    pub end_time: Option<OffsetDateTime>,
    /// The time of the last transaction in it.
    pub recovery_time: Option<OffsetDateTime>,
    /// The last transaction in it.
    pub recovery_xid: u64,
    /// Size of the stored data in bytes.
    pub data_bytes: Option<u64>,
    /// Size of the stored WAL in bytes.
    pub wal_bytes: Option<u64>,
    /// Size of the data in bytes before compression.
    pub uncompressed_bytes: Option<u64>,
    /// Size of the cluster in bytes when the backup was taken.
    pub pgdata_bytes: Option<u64>,
    /// CRC-32C of `backup_content.control`; `None` if not recorded.
    pub content_crc: Option<u32>,
    /// The user's note.
    pub note: Option<String>,
    /// The tablespaces that were outside PGDATA.
    pub tablespaces: Vec<TablespaceMapping>,
}

impl Backup {
    /// Returns the content list.
    #[must_use]
    pub fn content(&self) -> StorePath {
        self.place.join("backup_content.control")
    }

    /// Returns the page header map.
    #[must_use]
    pub fn header_map(&self) -> StorePath {
        self.place.join("page_header_map")
    }

    /// Returns a stored file, given its path inside PGDATA.
    #[must_use]
    pub fn file(&self, path: impl AsRef<Path>) -> StorePath {
        self.place.join("database").join(path)
    }

    /// Returns the server's major version, if the recorded text starts with a number.
    #[must_use]
    pub fn server_major(&self) -> Option<u32> {
        self.server_version.split('.').next()?.parse().ok()
    }

    /// Whether its `backup.control` could be read. If not, only its id is known, and the
    /// time that the id encodes.
    #[must_use]
    pub fn is_readable(&self) -> bool {
        // Reading it requires a version, whatever the status.
        self.status != BackupStatus::Unknown || !self.server_version.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    #[test]
    fn an_id_is_the_start_time_in_base36() {
        let start = datetime!(2026-11-22 07:28:58 UTC);
        let id = BackupId::from_start_time(start);
        assert_eq!(id, BackupId("TOW7GA".to_owned()));
        assert_eq!(id.start_time(), Some(start));
        assert_eq!(BackupId::from_start_time(OffsetDateTime::UNIX_EPOCH).0, "0");
    }

    #[test]
    fn names_that_are_no_id_have_no_start_time() {
        for name in ["", "lost+found", "ZZZZZZZZZZZZ", "ZZZZZZZZZZZZZZZZZZZZ"] {
            assert_eq!(BackupId(name.to_owned()).start_time(), None, "{name}");
        }
    }
}
