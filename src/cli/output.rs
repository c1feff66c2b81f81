//! The only path to standard output and standard error: apart from the log, nothing
//! else in `cli` prints. It lets through no character that changes a terminal, and no
//! line break that is not ours. [`crate::escape`] defines how a value looks.
//!
//! Standard output carries the result of a command. If a reader such as `head` closes
//! it early, that is not an error and does not keep the command from its work; any
//! other failure to write it ends the command. Standard error carries messages for
//! people; failure to write them is ignored, because it could not be reported.

use std::fmt;
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;

use clap::builder::StyledStr;
use clap::error::ContextValue;
use serde::Serialize;

use crate::cli::exit::Code;
use crate::cli::log::redact;
use crate::escape;

/// Prints one line to standard output.
pub fn line(line: fmt::Arguments<'_>) {
    put(&escape::line(&line.to_string()));
}

/// Prints lines to standard output. Their values have to be escaped already.
pub fn lines(text: &str) {
    put(&escape::lines(text.trim_end()));
}

/// Prints one JSON document to standard output.
pub fn json<T: Serialize + ?Sized>(document: &T) {
    match serde_json::to_string_pretty(document) {
        Ok(text) => put(&escape::json(&text)),
        Err(error) => lost(&error.into()),
    }
}

/// Prints a document as JSON, or for people with `print`.
pub fn document<T: Serialize>(is_json: bool, document: &T, print: impl FnOnce(&T)) {
    match is_json {
        true => json(document),
        false => print(document),
    }
}

/// Prints the line that announces a session as ready. Failure to write it is ignored,
/// because the session is ready all the same.
pub fn ready(line: &str) {
    // JSON is unchanged by this, because its odd characters are escaped already.
    let _ = write_out(format!("{}\n", escape::line(line.trim_end())).as_bytes());
}

/// Prints a text of our own unchanged.
pub fn verbatim(bytes: &[u8]) {
    end_if_lost(write_out(bytes));
}

/// Returns standard output for a result that another program writes. Its bytes are
/// the result, and are not escaped.
pub fn standard() -> io::Result<File> {
    Ok(io::stdout().as_fd().try_clone_to_owned()?.into())
}

/// Prints one line to standard error.
pub fn complain(line: fmt::Arguments<'_>) {
    write_err(&escape::line(&redact(&line.to_string())));
}

/// Prints lines to standard error. Their values have to be escaped already.
pub fn complain_lines(text: &str) {
    let lines = text.trim_end().lines();
    // Redact each line separately, so that a secret that seems not to end masks one
    // line at most.
    let lines = lines.map(|line| escape::line(&redact(line)).into_owned());
    write_err(&lines.collect::<Vec<_>>().join("\n"));
}

/// Prints clap's output: help, the version, or an error that quotes arguments, which
/// may contain anything.
pub fn usage(mut error: clap::Error) {
    if !error.use_stderr() {
        let _ = error.print();
        return;
    }
    let shown = |text: &String| escape::value(text).into_owned();
    let one_line = |tip: &StyledStr| StyledStr::from(escape::line(&tip.to_string()).into_owned());
    let escaped = error.context().filter_map(|(kind, value)| {
        let value = match value {
            ContextValue::String(text) => ContextValue::String(shown(text)),
            ContextValue::Strings(texts) => {
                ContextValue::Strings(texts.iter().map(shown).collect())
            }
            // Tips quote words of the command line unescaped.
            ContextValue::StyledStr(tip) => ContextValue::StyledStr(one_line(tip)),
            ContextValue::StyledStrs(tips) => {
                ContextValue::StyledStrs(tips.iter().map(one_line).collect())
            }
            _ => return None,
        };
        Some((kind, value))
    });
    for (kind, value) in escaped.collect::<Vec<_>>() {
        error.insert(kind, value);
    }
    // Plain text would drop whatever looks like a colour in a value.
    let text = error.render().ansi().to_string();
    // The message of a value's parser.
    let reason = std::error::Error::source(&error).map(ToString::to_string);
    let text = match reason {
        Some(reason) => text.replace(&reason, &escape::line(&reason)),
        None => text,
    };
    let lines = text.trim_end().lines().map(|line| {
        let line = escape::coloured(line);
        match wants_colour() {
            true => line.into_owned(),
            false => without_colours(&line),
        }
    });
    write_err(&lines.collect::<Vec<_>>().join("\n"));
}

fn without_colours(text: &str) -> String {
    let mut parts = text.split("\x1b[");
    let first = parts.next().unwrap_or_default();
    let others = parts.map(|part| part.split_once('m').map_or(part, |(_, text)| text));
    [first].into_iter().chain(others).collect()
}

/// Returns whether standard output is a terminal.
pub fn is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Returns whether standard error is a terminal.
pub fn has_spectators() -> bool {
    io::stderr().is_terminal()
}

/// Returns whether standard error is a terminal, and plain text is not asked for
/// (<https://no-color.org>).
pub fn wants_colour() -> bool {
    let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    has_spectators() && !is_set("NO_COLOR") && !dumb
}

fn put(text: &str) {
    end_if_lost(write_out(format!("{text}\n").as_bytes()));
}

fn write_out(bytes: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes)?;
    stdout.flush()
}

fn end_if_lost(written: io::Result<()>) {
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => lost(&error),
        _ => {}
    }
}

fn lost(error: &io::Error) {
    complain(format_args!(
        "pbkfs: cannot write to standard output: {error}"
    ));
    std::process::exit(Code::Failed as i32);
}

fn write_err(text: &str) {
    let _ = io::stderr()
        .lock()
        .write_all(format!("{text}\n").as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_taken_away() {
        let text = "\x1b[1m\x1b[31merror:\x1b[0m bad, m\x1b[0m";
        assert_eq!(without_colours(text), "error: bad, m");
        assert_eq!(without_colours("form"), "form");
    }
}
