//! The destination and the format of log lines.
//!
//! Results go to standard output, log lines to standard error unless the profile or
//! the command line says otherwise. Whatever the destination, every event passes
//! through [`redact::redact`] and becomes a single line: [`fields`] escapes odd
//! characters in its values, and [`sink`] those anywhere else.

mod daily;
mod fields;
mod journal;
mod redact;
mod short;
mod sink;

use std::path::{self, Path};

use tracing::span::EnteredSpan;
use tracing_subscriber::filter::{Directive, LevelFilter};
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

/// Starts logging. The command line overrides the profile. If the destination cannot
/// be used, the log goes to standard error, with a warning.
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
    // It is already set only if a test runs several commands in one process.
    let _ = subscriber.try_init();
    if let Some(problem) = problem {
        tracing::warn!("logging to standard error, because {problem}");
    }
    if plan.is_some() {
        // A command that reads a profile also reads the environment.
        for variable in crate::profile::unknown_variables() {
            tracing::warn!("{variable}");
        }
    }
}

/// Enters the span of all log lines of a command. Its field `backup` is recorded once
/// the backup is known.
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
    // Anyone watching a job wants to know what it is waiting for.
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
    // An event that is logged only once per user is worth an email.
    let once = match verbosity.quiet {
        true => "pbkfs::once=error",
        false => "pbkfs::once=warn",
    };
    // The passing remarks of other crates are of no use to a DBA.
    let filter = EnvFilter::builder()
        .with_default_directive(LevelFilter::ERROR.into())
        .parse_lossy("");
    let ours = format!("pbkfs={level}");
    let directives = [&*ours, once, "tokio_postgres=warn"];
    let valid = directives.into_iter().flat_map(str::parse::<Directive>);
    valid.fold(filter, EnvFilter::add_directive)
}

fn open(target: &LogTarget, keep: usize, plan: Option<&Plan>) -> Result<Sink, String> {
    match target {
        LogTarget::Stderr => Ok(Sink::Stderr),
        LogTarget::Journald => Journal::open()
            .map(Sink::Journal)
            .map_err(|e| format!("the systemd journal is not available ({e})")),
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
        // The journal records the time and the level itself.
        LogFormat::Human if to_journal => layer
            .fmt_fields(Fields)
            .without_time()
            .with_level(false)
            .boxed(),
        // On a terminal, the user knows which command was run. A file has lines of
        // several.
        LogFormat::Human if is_stderr => layer.fmt_fields(Fields).event_format(Short).boxed(),
        LogFormat::Human => layer.fmt_fields(Fields).boxed(),
    }
}

/// The subscriber below the layer that formats lines.
type Filtered = tracing_subscriber::layer::Layered<EnvFilter, Registry>;
