//! Errors of a WAL archive.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::pg::Lsn;
use crate::pg::wal::history::HistoryError;
use crate::pg::wal::page::PageProblem;
use crate::pg::wal::scan::RecordProblem;
use crate::untrusted::refused;

/// A WAL archive, or a file of one, that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WalError {
    /// The archive's directory cannot be listed.
    #[error("cannot list the WAL archive {}", dir.display())]
    List {
        /// The archive.
        dir: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// A file cannot be read.
    #[error("cannot read {} from the WAL archive", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// A compressed segment cannot be decompressed completely.
    #[error("the WAL segment {} is damaged: it cannot be decompressed", path.display())]
    Gzip {
        /// The file.
        path: PathBuf,
        /// Where it failed.
        #[source]
        source: io::Error,
    },
    /// The file is larger or smaller than a segment.
    #[error(
        "the WAL segment {} is damaged: it has {} bytes, but a segment has {expected}",
        path.display(), found.map_or("too many".to_owned(), |n| n.to_string())
    )]
    Length {
        /// The file.
        path: PathBuf,
        /// Its uncompressed size in bytes; `None` if it is larger than a segment.
        found: Option<u64>,
        /// The size of a segment in bytes.
        expected: u64,
    },
    /// The content belongs to another segment.
    #[error("{} does not contain the WAL segment that its name indicates", path.display())]
    NotTheSegment {
        /// The file.
        path: PathBuf,
        /// The mismatch.
        #[source]
        problem: PageProblem,
    },
    /// A record in the middle of the archive's WAL is broken.
    #[error("the WAL segment {} is damaged at {at}", path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// The position.
        at: Lsn,
        /// The fault at that position.
        #[source]
        problem: RecordProblem,
    },
    /// A segment is missing, although later WAL exists.
    #[error(
        "the WAL segment {segment} is missing from {}, although the archive continues with {later}; \
         recovery cannot get past the gap",
        dir.display()
    )]
    Gap {
        /// The archive.
        dir: PathBuf,
        /// The missing segment.
        segment: String,
        /// The later segment or the history that shows that it existed.
        later: String,
    },
    /// The fetched file cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The destination, or its temporary name.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// A timeline's history is invalid.
    #[error("the timeline history {} is damaged", path.display())]
    History {
        /// The file.
        path: PathBuf,
        /// The invalid line.
        #[source]
        source: HistoryError,
    },
    /// The segment size is not a valid one.
    #[error("the WAL segment size in {} is {bytes} bytes, which PostgreSQL does not allow", dir.display())]
    SegmentSize {
        /// The archive.
        dir: PathBuf,
        /// The configured or detected size.
        bytes: u64,
    },
    /// The name is not that of a file in a WAL archive.
    #[error("\"{name}\" is not the name of a file in a WAL archive")]
    Name {
        /// The name.
        name: String,
    },
}

/// What an error means for the requested WAL. The error message of `pbkfs wal-get` starts
/// with it, which tells a session why its recovery ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WalFault {
    /// The file is not what was archived.
    Damaged,
    /// The file does not exist.
    Missing,
    /// The file cannot be obtained at the moment, whether it exists or not.
    Unavailable,
}

impl WalFault {
    const ALL: [Self; 3] = [Self::Damaged, Self::Missing, Self::Unavailable];

    fn as_str(self) -> &'static str {
        match self {
            Self::Damaged => "damaged",
            Self::Missing => "missing",
            Self::Unavailable => "unavailable",
        }
    }
}

impl fmt::Display for WalFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for WalFault {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut all = Self::ALL.into_iter();
        all.find(|fault| fault.as_str() == text).ok_or(())
    }
}

impl WalError {
    /// Turns a system's error into that of writing to `path`.
    pub(super) fn write(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Write {
            path: path.to_owned(),
            source,
        }
    }

    /// Returns what the error means for the WAL.
    #[must_use]
    pub fn fault(&self) -> WalFault {
        match self {
            Self::Gzip { .. }
            | Self::Length { .. }
            | Self::NotTheSegment { .. }
            | Self::Record { .. }
            | Self::History { .. } => WalFault::Damaged,
            // Something else is in its place.
            Self::Read { source, .. } if refused(source).is_some() => WalFault::Damaged,
            Self::Gap { .. } => WalFault::Missing,
            Self::List { .. }
            | Self::Read { .. }
            | Self::Write { .. }
            | Self::SegmentSize { .. }
            | Self::Name { .. } => WalFault::Unavailable,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_read_as_it_is_written() {
        for fault in WalFault::ALL {
            assert_eq!(fault.to_string().parse(), Ok(fault));
        }
        assert_eq!("the WAL segment is damaged".parse::<WalFault>(), Err(()));
    }
}
