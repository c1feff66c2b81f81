//! What can be wrong with a WAL archive.

use std::fmt;
use std::io;
use std::path::PathBuf;
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
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file cannot be read.
    #[error("cannot read {} from the WAL archive", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A compressed segment that cannot be decompressed to its end.
    #[error("the WAL segment {} is damaged: it cannot be decompressed", path.display())]
    Gzip {
        /// The file.
        path: PathBuf,
        /// Where it failed.
        #[source]
        source: io::Error,
    },
    /// More or fewer bytes than a segment has.
    #[error(
        "the WAL segment {} is damaged: it has {} bytes, and a segment has {expected}",
        path.display(), found.map_or("more".to_owned(), |n| n.to_string())
    )]
    Length {
        /// The file.
        path: PathBuf,
        /// Its length without compression, in bytes; `None` if it is more
        /// than a segment's.
        found: Option<u64>,
        /// A segment's length.
        expected: u64,
    },
    /// The content belongs elsewhere.
    #[error("{} does not hold the WAL segment that its name says", path.display())]
    NotTheSegment {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        #[source]
        problem: PageProblem,
    },
    /// A record in the middle of the archive's WAL is broken.
    #[error("the WAL segment {} is damaged at {at}", path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// Where.
        at: Lsn,
        /// What is wrong there.
        #[source]
        problem: RecordProblem,
    },
    /// A segment that is missing though the WAL goes on behind it.
    #[error(
        "the WAL segment {segment} is missing in {}, though the archive goes on with {later}; \
         recovery cannot get past the gap",
        dir.display()
    )]
    Gap {
        /// The archive.
        dir: PathBuf,
        /// The missing segment.
        segment: String,
        /// What shows that there was one: a later segment, or a history.
        later: String,
    },
    /// The fetched file cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The destination, or its temporary name.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A timeline's history that makes no sense.
    #[error("the timeline history {} is damaged", path.display())]
    History {
        /// The file.
        path: PathBuf,
        /// Where.
        #[source]
        source: HistoryError,
    },
    /// No segment has that size.
    #[error("WAL segments in {} would have {bytes} bytes, which PostgreSQL does not allow", dir.display())]
    SegmentSize {
        /// The archive.
        dir: PathBuf,
        /// The size that is configured or found.
        bytes: u64,
    },
    /// A name that is none of a WAL archive's files.
    #[error("\"{name}\" is not the name of a file in a WAL archive")]
    Name {
        /// The name.
        name: String,
    },
}

/// What an error says of the WAL that was asked for. `pbkfs wal-get` begins its
/// complaint with it, by which a session knows what its recovery ended of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WalFault {
    /// What is there is not what was archived.
    Damaged,
    /// It is not there.
    Missing,
    /// It cannot be had here and now, whatever there is.
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
    /// What it says of the WAL.
    #[must_use]
    pub fn fault(&self) -> WalFault {
        match self {
            Self::Gzip { .. }
            | Self::Length { .. }
            | Self::NotTheSegment { .. }
            | Self::Record { .. }
            | Self::History { .. } => WalFault::Damaged,
            // Something else stands in its place.
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
