//! What is extracted, and where to.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use crate::profile::Plan;
use crate::session::{SessionError, Signals};

/// How the result is written.
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
    /// The option of pg_dump for it.
    pub(super) fn option(self) -> &'static str {
        match self {
            Self::Plain => "--format=plain",
            Self::Custom => "--format=custom",
            Self::Directory => "--format=directory",
        }
    }
}

/// What is got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// What pg_dump gives with these options.
    Dump {
        /// Its patterns of tables; none is all of the database.
        tables: Vec<String>,
        /// Besides.
        options: Vec<String>,
        /// How it is written.
        format: Format,
    },
    /// The answer to a query.
    Query {
        /// The query.
        sql: String,
        /// Whether it is written as CSV; else as psql shows it.
        csv: bool,
    },
}

impl What {
    /// Whether the result is a directory.
    pub(super) fn is_directory(&self) -> bool {
        let directory = Format::Directory;
        matches!(self, Self::Dump { format, .. } if *format == directory)
    }
}

/// Where a result goes.
#[derive(Debug)]
pub enum Destination {
    /// A file or a directory that is there whole or not at all; absolute.
    Path(PathBuf),
    /// Standard output, or what else is open already, as it comes.
    Opened(File),
}

/// One extraction.
pub struct Extract<'a> {
    /// The checked profile.
    pub plan: &'a Plan,
    /// Its path.
    pub profile: Option<&'a Path>,
    /// The signals that break it off.
    pub signals: &'a Signals,
    /// The database; `None` is the one that has the tables.
    pub database: Option<String>,
    /// What is got from it.
    pub what: What,
    /// Where it goes.
    pub output: Destination,
    /// Whether something that is there may be replaced.
    pub replace: bool,
    /// Told what is being done, and how many bytes there are so far.
    pub progress: &'a dyn Fn(&str, u64),
}

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Extracted {
    /// The backup.
    pub backup: String,
    /// Up to when the clone was recovered, if its log told.
    pub recovered: Option<String>,
    /// Bytes that the result has.
    pub bytes: u64,
    /// Bytes that the backup gave.
    pub read_bytes: u64,
    /// Bytes that the clone wrote.
    pub diff_bytes: u64,
}

impl Extract<'_> {
    /// An error of writing the result.
    pub(super) fn write_error(&self, error: io::Error) -> SessionError {
        let output = match &self.output {
            Destination::Path(output) => output,
            Destination::Opened(_) => Path::new("-"),
        };
        SessionError::io("write", output, error)
    }
}
