//! PostgreSQL's on-disk formats: sizes, page layout, file names, `pg_control`.
//!
//! Nothing in here does I/O; every function takes bytes or names and returns typed
//! values.

pub mod control;
pub mod page;
pub mod relation;
pub mod wal;

use std::fmt;
use std::str::FromStr;

/// Page size in bytes, PostgreSQL's `BLCKSZ`. When a backup of a cluster with another
/// block size is read, the error names that size.
pub const BLOCK_SIZE: usize = 8192;

/// Blocks in one full segment file, PostgreSQL's `RELSEG_SIZE` (1 GiB).
pub const SEGMENT_BLOCKS: u32 = 131_072;

/// The oldest major version whose backups are accepted.
pub const OLDEST_MAJOR: u32 = 14;

/// The newest major version whose backups are accepted.
pub const NEWEST_MAJOR: u32 = 18;

/// A block's number within its segment file, counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockNumber(pub u32);

/// A block's number within its relation fork: `segno * 131072 + block`. Page checksums
/// are seeded with this number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AbsoluteBlock(pub u32);

impl BlockNumber {
    /// Returns the block's number in the whole fork, given its segment's number.
    #[must_use]
    pub fn absolute(self, segno: u32) -> AbsoluteBlock {
        AbsoluteBlock(segno.wrapping_mul(SEGMENT_BLOCKS).wrapping_add(self.0))
    }

    /// Returns the byte offset of the block in its segment file.
    #[must_use]
    pub fn offset(self) -> u64 {
        u64::from(self.0) * BLOCK_SIZE as u64
    }
}

impl fmt::Display for BlockNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A position in the write-ahead log, in bytes. Written `hi/lo` in hex, as
/// PostgreSQL's `pg_lsn` type prints it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

/// Text that is not an LSN of the form `hi/lo`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not an LSN (hexadecimal/hexadecimal)")]
pub struct LsnParseError(pub String);

impl FromStr for Lsn {
    type Err = LsnParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (hi, lo) = text.split_once('/')?;
            let hi = u32::from_str_radix(hi, 16).ok()?;
            let lo = u32::from_str_radix(lo, 16).ok()?;
            Some(Lsn(u64::from(hi) << 32 | u64::from(lo)))
        };
        parse().ok_or_else(|| LsnParseError(text.to_owned()))
    }
}

/// Returns the bytes of the field at an offset, unless they end before it does.
fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}
