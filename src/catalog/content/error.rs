//! Errors in a content list.

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
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// The file is not the one that pg_probackup wrote.
    #[error(
        "the content list {path} is damaged: its checksum is {computed:08X}, but backup.control \
         records {recorded:08X}"
    )]
    Checksum {
        /// The list's path.
        path: PathBuf,
        /// The checksum in `backup.control`.
        recorded: u32,
        /// The checksum computed from the file.
        computed: u32,
    },
    /// A line is invalid.
    #[error("line {line} of the content list {path} {what}")]
    Line {
        /// The list's path.
        path: PathBuf,
        /// The line number, counted from 1.
        line: usize,
        /// What is wrong with it.
        what: LineError,
    },
    /// A path is listed twice, with different content.
    #[error("the content list {path} describes {name} twice, in different ways")]
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
    /// The line is not of the form `{"key":"value", ..}`.
    #[error("is not of the form {{\"key\":\"value\", ..}}")]
    Form,
    /// A key that every line must have is missing.
    #[error("has no {0}")]
    Missing(&'static str),
    /// A value is not a number in the valid range.
    #[error("has \"{value}\" as {key}, which is not a valid number")]
    Number {
        /// The key.
        key: &'static str,
        /// The value found.
        value: String,
    },
    /// A path would leave PGDATA, or is not a path.
    #[error("has \"{0}\" as path, which is not a plain relative path")]
    Path(String),
    /// The codec is unknown.
    #[error("has \"{0}\" as compress_alg, which is not known")]
    Codec(String),
    /// The entry is neither a file nor a directory.
    #[error("has mode {0:o}, which is neither a file nor a directory")]
    Mode(u32),
    /// The line is longer than any that pg_probackup reads.
    #[error("is longer than {} KiB, which is the maximum", super::LINE_MAX >> 10)]
    TooLong,
    /// The list is larger than our own format can index.
    #[error("exceeds what can be indexed: the paths of one backup may take up to 4 GiB")]
    TooMuch,
}
