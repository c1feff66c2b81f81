//! The options of every command that control what is logged, and where.

use std::convert::Infallible;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{ArgAction, Args};

use crate::profile::LogFormat;

/// Logging options, which override the section `log` of the profile.
#[derive(Debug, Clone, Args)]
pub struct Verbosity {
    /// Log more detail (-v debug, -vv trace)
    #[arg(short, long, action = ArgAction::Count, global = true, display_order = 990)]
    pub verbose: u8,
    /// Log errors only
    #[arg(
        short,
        long,
        global = true,
        conflicts_with = "verbose",
        display_order = 991
    )]
    pub quiet: bool,
    /// Format of a log line
    #[arg(long, value_name = "FORMAT", global = true, display_order = 992)]
    pub log_format: Option<LogFormat>,
    /// Where to log: "stderr", "journald" or a file's path
    #[arg(long, value_name = "WHERE", global = true, display_order = 993)]
    pub log: Option<Where>,
    /// Whether a terminal may get colours
    #[arg(skip = true)]
    pub colour: bool,
    /// Whether standard error gets only errors
    #[arg(skip)]
    pub is_job: bool,
}

impl Verbosity {
    /// Returns whether more detail than usual is requested.
    pub fn is_verbose(&self) -> bool {
        self.verbose > 0
    }

    /// Adapts the options to a one-shot job: cron mails whatever is on standard
    /// error, so only errors go there unless more is requested.
    pub fn for_job(mut self) -> Self {
        self.is_job = true;
        self
    }

    /// Turns colour off, for an output that will not remain a terminal.
    pub fn without_colour(mut self) -> Self {
        self.colour = false;
        self
    }
}

/// The value of `--log`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Where {
    /// Standard error.
    Stderr,
    /// The systemd journal.
    Journald,
    /// A file.
    File(PathBuf),
}

impl FromStr for Where {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match text {
            "stderr" => Self::Stderr,
            "journald" => Self::Journald,
            file => Self::File(file.into()),
        })
    }
}
