//! Where log lines go: standard error, which is the session's log file once
//! pbkfs has gone into the background.

use std::io;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use super::Verbosity;
use crate::profile::LogLevel;

/// Begins logging. The command line's word counts more than the profile's.
pub fn init(verbosity: Verbosity, profile: Option<LogLevel>) {
    let level = match (verbosity.quiet, verbosity.verbose, profile) {
        (true, _, _) => "error",
        (_, 0, level) => level.map_or("info", LogLevel::as_str),
        (_, 1, _) => "debug",
        _ => "trace",
    };
    let level = level.parse().unwrap_or(LevelFilter::INFO);
    let filter = EnvFilter::builder()
        .with_default_directive(level.into())
        .parse_lossy("")
        .add_directive_lossily("fuser=error")
        .add_directive_lossily("tokio_postgres=warn");
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_ansi(false)
        .with_writer(io::stderr);
    // Set already only if a test runs several commands in one process.
    let _ = subscriber.try_init();
}

trait AddDirective {
    fn add_directive_lossily(self, directive: &str) -> Self;
}

impl AddDirective for EnvFilter {
    /// What other crates log in passing is of no use to a DBA.
    fn add_directive_lossily(self, directive: &str) -> Self {
        match directive.parse() {
            Ok(directive) => self.add_directive(directive),
            Err(_) => self,
        }
    }
}
