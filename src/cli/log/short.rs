//! The format of a log line on standard error: time, level and message, without the
//! span that names the command.

use std::fmt;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::clock::now;

/// See the module's documentation.
pub struct Short;

impl<S, N> FormatEvent<S, N> for Short
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        ctx: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let now = now();
        let level = *event.metadata().level();
        match writer.has_ansi_escapes() {
            true => write!(
                writer,
                "\x1b[2m{now}\x1b[0m \x1b[{}m{level:>5}\x1b[0m ",
                colour(level)
            )?,
            false => write!(writer, "{now} {level:>5} ")?,
        }
        ctx.format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}

/// Returns the terminal colour of a level, as in `tracing_subscriber`.
fn colour(level: Level) -> u8 {
    match level {
        Level::ERROR => 31,
        Level::WARN => 33,
        Level::INFO => 32,
        Level::DEBUG => 34,
        Level::TRACE => 35,
    }
}
