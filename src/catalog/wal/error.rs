//! What can be wrong with a WAL archive.

use std::io;
use std::path::PathBuf;

use crate::pg::Lsn;
use crate::pg::wal::history::HistoryError;
use crate::pg::wal::page::PageProblem;
use crate::pg::wal::scan::RecordProblem;

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
    #[error("{} is not the WAL segment of its name", path.display())]
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
