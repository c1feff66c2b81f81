//! Where log lines go, and how they look.
//!
//! Results go to standard output, log lines to standard error unless the
//! profile or the command line says otherwise. Every line passes through
//! [`redact::redact`] on its way out, wherever it goes, and is one line there:
//! what is odd in its values is escaped by [`fields`], what is odd in it
//! otherwise by [`sink`].

mod daily;
mod fields;
mod journal;
mod redact;
mod short;
mod sink;

use std::path::{self, Path};

use tracing::span::EnteredSpan;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry};

use super::output;
use super::verbosity::{Verbosity, Where};
use crate::profile::{LogFormat, LogPlan, LogTarget, Plan};
use crate::server::OsUser;
use daily::Daily;
use fields::Fields;
use journal::Journal;
pub use redact::{MASK, is_secret_name, redact};
use short::Short;
use sink::{Lines, Look, Sink};

/// Begins logging. The command line's word counts more than the profile's. A
/// place that cannot be logged to is no reason to fail: standard error takes
/// its part then, with a warning.
pub fn init(verbosity: Verbosity, plan: Option<&Plan>) {
    let log = plan.map_or_else(LogPlan::default, |plan| plan.log.clone());
    let format = verbosity.log_format.unwrap_or(log.format);
    let target = match &verbosity.log {
        Some(Where::Stderr) => LogTarget::Stderr,
        Some(Where::Journald) => LogTarget::Journald,
        // A session leaves the directory that it was started in.
        Some(Where::File(file)) => LogTarget::File(path::absolute(file).unwrap_or(file.clone())),
        None => log.target(),
    };
    let (sink, problem) = match open(&target, log.keep.get(), plan) {
        Ok(sink) => (sink, None),
        Err(problem) => (Sink::Stderr, Some(problem)),
    };
    let colour = verbosity.colour && matches!(sink, Sink::Stderr) && output::wants_colour();
    let subscriber = tracing_subscriber::registry()
        .with(filter(&verbosity, &log, &sink))
        .with(layer(sink, format, colour));
    // Set already only if a test runs several commands in one process.
    let _ = subscriber.try_init();
    if let Some(problem) = problem {
        tracing::warn!("logging to standard error, as {problem}");
    }
    if plan.is_some() {
        // What reads a profile reads the environment with it.
        for variable in crate::profile::unknown_variables() {
            tracing::warn!("{variable}");
        }
    }
}

/// The span that all of a command's log lines are in. What it is about is
/// recorded in the field `backup` once that is known.
pub fn span(command: &'static str, target: Option<&Path>) -> EnteredSpan {
    let span = tracing::error_span!(
        "pbkfs",
        command,
        target = tracing::field::Empty,
        backup = tracing::field::Empty
    );
    if let Some(target) = target {
        span.record("target", tracing::field::display(target.display()));
    }
    span.entered()
}

fn filter(verbosity: &Verbosity, log: &LogPlan, sink: &Sink) -> EnvFilter {
    let is_quiet = verbosity.quiet || verbosity.is_job && matches!(sink, Sink::Stderr);
    // Who watches a job wants to know what it waits for.
    let least = match !verbosity.quiet && output::has_spectators() {
        true => "warn",
        false => "error",
    };
    let level = match verbosity.verbose {
        0 if is_quiet => least,
        0 => log.level.as_str(),
        1 => "debug",
        _ => "trace",
    };
    let level = level.parse().unwrap_or(LevelFilter::INFO);
    // What is logged once in the life of a user is worth a mail.
    let once = match verbosity.quiet {
        true => "pbkfs::once=error",
        false => "pbkfs::once=warn",
    };
    EnvFilter::builder()
        .with_default_directive(level.into())
        .parse_lossy("")
        .add_directive_lossily(once)
        .add_directive_lossily("fuser=error")
        .add_directive_lossily("tokio_postgres=warn")
}

fn open(target: &LogTarget, keep: usize, plan: Option<&Plan>) -> Result<Sink, String> {
    match target {
        LogTarget::Stderr => Ok(Sink::Stderr),
        LogTarget::Journald => Journal::open()
            .map(Sink::Journal)
            .map_err(|e| format!("the systemd journal is not there ({e})")),
        LogTarget::File(file) => {
            let server = plan.and_then(|plan| OsUser::find(&plan.postgres.user).ok());
            let server = server.map(|user| (user.uid.as_raw(), user.gid.as_raw()));
            Daily::open(file, keep, server.as_slice())
                .map(Sink::File)
                .map_err(|e| format!("{} cannot be used: {e}", file.display()))
        }
    }
}

fn layer(sink: Sink, format: LogFormat, colour: bool) -> Box<dyn Layer<Filtered> + Send + Sync> {
    let to_journal = matches!(sink, Sink::Journal(_));
    let is_stderr = matches!(sink, Sink::Stderr);
    let look = match format {
        LogFormat::Json => Look::Json,
        LogFormat::Human if colour => Look::Coloured,
        LogFormat::Human => Look::Plain,
    };
    let lines = Lines::new(sink, look);
    let layer = tracing_subscriber::fmt::layer()
        .with_target(false)
        .with_ansi(colour)
        .with_writer(lines);
    match format {
        LogFormat::Json => layer.json().flatten_event(true).boxed(),
        // The journal has both for itself.
        LogFormat::Human if to_journal => layer
            .fmt_fields(Fields)
            .without_time()
            .with_level(false)
            .boxed(),
        // Who looks at a terminal knows what was run. A file has lines of several.
        LogFormat::Human if is_stderr => layer.fmt_fields(Fields).event_format(Short).boxed(),
        LogFormat::Human => layer.fmt_fields(Fields).boxed(),
    }
}

/// What a layer for lines lies on.
type Filtered = tracing_subscriber::layer::Layered<EnvFilter, Registry>;

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
