//! The section `[log]`: what is logged, and where.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::profile::error::ProfileError;

section! {
    /// The keys of the section `[log]`.
    pub struct LogPlan {
        /// Level of detail of the log.
        #[schemars(example = LogLevel::Debug)]
        pub level: LogLevel = LogLevel::Info,

        /// Format of a log line: "human", or "json" for one JSON object per line.
        #[schemars(example = LogFormat::Json)]
        pub format: LogFormat = LogFormat::Human,

        /// Destination of the log. After up --detach, "stderr" is the session's own
        /// pbkfs.log.
        ///
        /// Default: "file" if log.file is set, else "stderr"
        #[schemars(example = LogDestination::Journald)]
        destination: Option<LogDestination>,

        /// Log file. pbkfs writes FILE.YYYY-MM-DD and keeps FILE as a link to today's file.
        /// Any file named FILE.YYYY-MM-DD in that directory counts as an old log and may be
        /// DELETED.
        ///
        /// Default: none
        #[schemars(extend("format" = "path"), example = "/var/log/pbkfs/main.log")]
        file: Option<PathBuf>,

        /// Number of days whose log files are kept.
        #[schemars(title = "1 or more", example = 30)]
        pub keep: NonZeroUsize = const { NonZeroUsize::new(7).unwrap() },
    }
}

/// The destination of log lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogTarget {
    /// Standard error.
    Stderr,
    /// The systemd journal.
    Journald,
    /// A file with this name followed by the date; absolute.
    File(PathBuf),
}

impl LogPlan {
    /// Returns the destination of log lines.
    #[must_use]
    pub fn target(&self) -> LogTarget {
        match (self.destination, &self.file) {
            (Some(LogDestination::Journald), _) => LogTarget::Journald,
            (None | Some(LogDestination::File), Some(file)) => LogTarget::File(file.clone()),
            (_, None) | (Some(LogDestination::Stderr), _) => LogTarget::Stderr,
        }
    }

    pub(in crate::profile) fn check(&self) -> Result<(), ProfileError> {
        match (self.destination, &self.file) {
            (Some(LogDestination::File), None) => Err(ProfileError::wrong(
                "log.destination",
                "\"file\" needs log.file, the file to log to",
            )),
            _ => Ok(()),
        }
    }
}

/// The level of detail of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Problems that need attention.
    Error,
    /// Unusual events that were handled.
    Warn,
    /// Changes of state.
    Info,
    /// Individual requests.
    Debug,
    /// Individual blocks.
    Trace,
}

impl LogLevel {
    /// Returns the level as written in a profile.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// The format of a log line.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// A line for people.
    Human,
    /// One JSON object per line.
    Json,
}

/// The destinations of log lines, as named in a profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogDestination {
    /// Standard error; in the background, the session's log file.
    Stderr,
    /// The systemd journal.
    Journald,
    /// One file per day.
    File,
}
