//! What every job begins with.

use std::path::Path;

use tracing::span::EnteredSpan;

use crate::cli::clone::stay::raise_file_limit;
use crate::cli::log;
use crate::cli::verbosity::Verbosity;
use crate::profile::Plan;
use crate::session::{SessionError, Signals};

/// Starts the log of a job, takes the signals that interrupt it, and raises the limit of
/// open files. Returns the span of the job's log lines, and the signals.
pub fn begin(
    command: &'static str,
    verbosity: Verbosity,
    plan: &Plan,
) -> Result<(EnteredSpan, Signals), SessionError> {
    log::init(verbosity, Some(plan));
    let span = log::span(command, Some(&plan.target));
    let signals = Signals::install()
        .map_err(|e| SessionError::io("install signal handlers for", Path::new("pbkfs"), e))?;
    raise_file_limit();
    Ok((span, signals))
}
