//! Why `pg_probackup` could not be asked.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use crate::catalog::ProgramVersion;

/// `pg_probackup` could not be used.
#[derive(Debug, thiserror::Error)]
pub enum ProbackupError {
    /// No program was found, and the profile insists on one.
    #[error(
        "pg_probackup was not found on PATH; set pg_probackup = \"/path/to/it\" in the profile, \
         or read the catalog without it: metadata = \"native\""
    )]
    NotInstalled,

    /// The program that was asked for by path is not there.
    #[error("there is no program to run at {}", path.display())]
    NotFound {
        /// The path as given.
        path: PathBuf,
        /// Why it cannot be run.
        #[source]
        source: which::Error,
    },

    /// The program's version is outside what is supported.
    #[error(
        "{} is pg_probackup {version}; 2.5.0 or a later 2.x is needed \
         (or read the catalog without it: metadata = \"native\")",
        path.display()
    )]
    UnsupportedVersion {
        /// The program.
        path: PathBuf,
        /// Its version.
        version: ProgramVersion,
    },

    /// The program did not say its version.
    #[error("{} does not look like pg_probackup: asked for its version it said \"{answer}\"", path.display())]
    UnknownVersion {
        /// The program.
        path: PathBuf,
        /// The first line that it printed.
        answer: String,
    },

    /// The program could not be started, or its output not read.
    #[error("cannot run `{command}`")]
    Run {
        /// The command line.
        command: CommandLine,
        /// What the system said.
        #[source]
        source: io::Error,
    },

    /// The program did not end in time and was killed.
    #[error(
        "`{command}` did not finish within {} s and was stopped{}",
        limit.as_secs_f32(),
        messages(stderr)
    )]
    Timeout {
        /// The command line.
        command: CommandLine,
        /// How long it was given.
        limit: Duration,
        /// What it had written to stderr, if that was to be had.
        stderr: String,
    },

    /// The program failed.
    #[error("`{command}` failed ({status}){}", messages(stderr))]
    Failed {
        /// The command line.
        command: CommandLine,
        /// How it ended.
        status: ExitStatus,
        /// The end of what it wrote to stderr.
        stderr: String,
    },

    /// The program printed something else than the expected JSON.
    #[error(
        "`{command}` printed something that is not the expected JSON{}",
        messages(stderr)
    )]
    BadJson {
        /// The command line.
        command: CommandLine,
        /// The end of what it wrote to stderr.
        stderr: String,
        /// Where the JSON goes wrong.
        #[source]
        source: serde_json::Error,
    },
}

/// A command line, shown as one would type it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandLine {
    pub(super) program: PathBuf,
    pub(super) arguments: Vec<OsString>,
}

impl fmt::Display for CommandLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.program.display())?;
        let mut words = self.arguments.iter();
        words.try_for_each(|word| write!(f, " {}", word.to_string_lossy()))
    }
}

fn messages(stderr: &str) -> String {
    match stderr.trim() {
        "" => String::new(),
        text => format!("; it said:\n{text}"),
    }
}
