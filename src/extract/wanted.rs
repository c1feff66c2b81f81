//! What is extracted, and where it is written to.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use crate::profile::Plan;
use crate::session::{SessionError, Signals};

/// The format of the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// SQL.
    Plain,
    /// pg_dump's custom format, for pg_restore.
    Custom,
    /// pg_dump's directory format.
    Directory,
}

impl Format {
    /// Returns pg_dump's option for it.
    pub(super) fn option(self) -> &'static str {
        match self {
            Self::Plain => "--format=plain",
            Self::Custom => "--format=custom",
            Self::Directory => "--format=directory",
        }
    }
}

/// What is extracted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// The output of pg_dump with these options.
    Dump {
        /// Its table patterns; none means the whole database.
        tables: Vec<String>,
        /// Other options.
        options: Vec<String>,
        /// Its format.
        format: Format,
    },
    /// The result of a query.
    Query {
        /// The query.
        sql: String,
        /// Whether it is written as CSV, or else as psql shows it.
        csv: bool,
    },
}

impl What {
    /// Returns whether the result is a directory.
    pub(super) fn is_directory(&self) -> bool {
        let directory = Format::Directory;
        matches!(self, Self::Dump { format, .. } if *format == directory)
    }
}

/// The destination of a result.
#[derive(Debug)]
pub enum Destination {
    /// A file or directory that is there completely or not at all, by absolute path.
    Path(PathBuf),
    /// Standard output, or another file that is already open, written to as output arrives.
    Opened(File),
}

/// One extraction.
pub struct Extract<'a> {
    /// The checked profile.
    pub plan: &'a Plan,
    /// The profile's path.
    pub profile: Option<&'a Path>,
    /// The signals that interrupt it.
    pub signals: &'a Signals,
    /// The database; `None` stands for the one that has the tables.
    pub database: Option<String>,
    /// What is extracted from it.
    pub what: What,
    /// The destination of the result.
    pub output: Destination,
    /// Whether an existing file may be replaced.
    pub replace: bool,
    /// Called with what is being done and the number of bytes written so far.
    pub progress: &'a dyn Fn(&str, u64),
}

/// The outcome of an extraction.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Extracted {
    /// The backup.
    pub backup: String,
    /// The time up to which the clone was recovered, if its log shows that.
    pub recovered: Option<String>,
    /// The size of the result in bytes.
    pub bytes: u64,
    /// Number of bytes read from the backup.
    pub read_bytes: u64,
    /// The size of the clone's diff on disk in bytes.
    pub diff_bytes: u64,
}

impl Extract<'_> {
    /// Creates an error about writing the result.
    pub(super) fn write_error(&self, error: io::Error) -> SessionError {
        let output = match &self.output {
            Destination::Path(output) => output,
            Destination::Opened(_) => Path::new("-"),
        };
        SessionError::io("write", output, error)
    }
}
