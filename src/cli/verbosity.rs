//! The options of every command that say what is logged, and where.

use std::convert::Infallible;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{ArgAction, Args};

use crate::profile::LogFormat;

/// What is logged, and where. Counts more than the section `log` of the profile.
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
    /// How a log line looks
    #[arg(long, value_name = "FORMAT", global = true, display_order = 992)]
    pub log_format: Option<LogFormat>,
    /// Where to log: "stderr", "journald" or a file's path
    #[arg(long, value_name = "WHERE", global = true, display_order = 993)]
    pub log: Option<Where>,
    /// Whether a terminal may get colours
    #[arg(skip = true)]
    pub colour: bool,
    /// Whether standard error gets errors only
    #[arg(skip)]
    pub is_job: bool,
}

impl Verbosity {
    /// Whether more is to be told than usual.
    pub fn is_verbose(&self) -> bool {
        self.verbose > 0
    }

    /// The same, for a one-shot job: what comes to standard error is mailed by
    /// cron, so that is errors only, unless more was asked for.
    pub fn for_job(mut self) -> Self {
        self.is_job = true;
        self
    }

    /// The same, for an output that will not stay a terminal.
    pub fn without_colour(mut self) -> Self {
        self.colour = false;
        self
    }
}

/// What `--log` takes.
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
