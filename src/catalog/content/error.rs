//! What can be wrong with a content list.

use std::io;
use std::path::PathBuf;

/// A content list that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    /// The file cannot be read at all.
    #[error("the content list {path} cannot be read")]
    Read {
        /// The list's path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file is not the one that pg_probackup wrote.
    #[error(
        "the content list {path} is damaged: backup.control records checksum {recorded:08X}, \
         the file has {computed:08X}"
    )]
    Checksum {
        /// The list's path.
        path: PathBuf,
        /// As `backup.control` has it.
        recorded: u32,
        /// As the file gives it.
        computed: u32,
    },
    /// A line that makes no sense.
    #[error("line {line} of the content list {path} {what}")]
    Line {
        /// The list's path.
        path: PathBuf,
        /// The line's number, counted from 1.
        line: usize,
        /// What is wrong with it.
        what: LineError,
    },
    /// One key twice, with different content.
    #[error("the content list {path} describes {name} twice, and differently")]
    Duplicate {
        /// The list's path.
        path: PathBuf,
        /// The path listed twice.
        name: String,
    },
}

/// What is wrong with a line of the list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// Not of the form `{"key":"value", ..}`.
    #[error("is not of the form {{\"key\":\"value\", ..}}")]
    Form,
    /// A key that every line must have.
    #[error("has no {0}")]
    Missing(&'static str),
    /// A value that is not a number of the right size.
    #[error("has \"{value}\" as {key}, which is not a number that fits")]
    Number {
        /// The key.
        key: &'static str,
        /// The value found.
        value: String,
    },
    /// A path that would leave PGDATA, or is no path.
    #[error("has \"{0}\" as path, which is not a plain relative path")]
    Path(String),
    /// An unknown codec.
    #[error("has \"{0}\" as compress_alg, which is not known")]
    Codec(String),
    /// Neither a file nor a directory.
    #[error("has mode {0:o}, which is neither a file nor a directory")]
    Mode(u32),
    /// More bytes than pg_probackup reads of a line.
    #[error("has more than {} KiB, more than a line has", super::LINE_MAX >> 10)]
    TooLong,
    /// More than this format of ours can index.
    #[error("goes past what can be indexed: the paths of one backup may take 4 GiB")]
    TooMuch,
}
