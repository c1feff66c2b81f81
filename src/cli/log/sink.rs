//! The destinations of log lines, and the only path to them.

use std::borrow::Cow;
use std::io::{self, Write};

use serde_json::Value;
use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

use super::daily::Daily;
use super::journal::Journal;
use super::redact::{MASK, is_secret_name, redact};
use crate::escape;

/// A destination of log lines.
pub enum Sink {
    /// Standard error.
    Stderr,
    /// One file per day.
    File(Daily),
    /// The systemd journal.
    Journal(Journal),
}

impl Sink {
    fn send(&self, level: Level, line: &[u8]) -> io::Result<()> {
        match self {
            Self::Stderr => io::stderr().lock().write_all(line),
            Self::File(file) => file.write(line),
            Self::Journal(journal) => journal.send(level, line),
        }
    }
}

/// The format of the lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// For people.
    Plain,
    /// For people, with colours.
    Coloured,
    /// JSON objects.
    Json,
}

/// Writes formatted lines, masking secrets and escaping characters that must not
/// reach a terminal.
pub struct Lines {
    sink: Sink,
    look: Look,
}

impl Lines {
    /// Creates a writer of lines to `sink`.
    pub fn new(sink: Sink, look: Look) -> Self {
        Self { sink, look }
    }

    /// Returns an event as one line, redacted and escaped.
    fn clean(&self, event: &str) -> String {
        let event = event.strip_suffix('\n').unwrap_or(event);
        let redacted = self.redacted(event);
        let line = match self.look {
            Look::Plain => escape::line(&redacted),
            Look::Coloured => escape::coloured(&redacted),
            Look::Json => escape::json(&redacted),
        };
        format!("{line}\n")
    }

    fn redacted<'a>(&self, line: &'a str) -> Cow<'a, str> {
        let redacted = redact(line);
        if self.look != Look::Json || matches!(redacted, Cow::Borrowed(_)) {
            return redacted;
        }
        // In the text of an object, the end of a secret can be mistaken for the end
        // of its string, so each string is redacted separately.
        let Ok(mut object) = serde_json::from_str::<Value>(line) else {
            return redacted;
        };
        redact_strings(&mut object);
        object.to_string().into()
    }
}

fn redact_strings(value: &mut Value) {
    match value {
        Value::String(text) => *text = redact(text).into_owned(),
        Value::Array(values) => values.iter_mut().for_each(redact_strings),
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::String(text) if is_secret_name(name) => *text = MASK.to_owned(),
                    other => redact_strings(other),
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// A line being written; the formatter writes all of it in one call.
pub struct Line<'a> {
    lines: &'a Lines,
    level: Level,
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line {
            lines: self,
            level: Level::INFO,
        }
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> Line<'a> {
        Line {
            lines: self,
            level: *meta.level(),
        }
    }
}

impl Write for Line<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(buf);
        let clean = self.lines.clean(&text);
        self.lines.sink.send(self.level, clean.as_bytes())?;
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn json_stays_json_without_its_secrets() {
        let lines = Lines::new(Sink::Stderr, Look::Json);
        let plain = "{\"level\":\"INFO\",\"message\":\"ready\"}\n";
        assert_eq!(lines.clean(plain), plain);
        for line in [
            r#"{"message":"connect to host=h password='se\\'cret dbname=x"}"#,
            r#"{"message":"ok","password":"secret"}"#,
            r#"{"span":{"url":"postgres://u:secret@h/db"},"n":1}"#,
        ] {
            let clean = lines.clean(line);
            assert!(!clean.contains("cret"), "{clean}");
            let object: Value = serde_json::from_str(&clean).unwrap();
            assert!(object.is_object() && clean.ends_with('\n'));
        }
    }

    #[test]
    fn an_event_is_one_line_that_changes_no_terminal() {
        let event = "\x1b[32m INFO\x1b[0m a\nERROR b\x1b[2J\u{9b}\u{202e}\n";
        let clean = |look| Lines::new(Sink::Stderr, look).clean(event);
        assert_eq!(
            clean(Look::Plain),
            "\\x1b[32m INFO\\x1b[0m a\\nERROR b\\x1b[2J\\u009b\\u202e\n"
        );
        assert_eq!(
            clean(Look::Coloured),
            "\x1b[32m INFO\x1b[0m a\\nERROR b\\x1b[2J\\u009b\\u202e\n"
        );
        let lines = Lines::new(Sink::Stderr, Look::Json);
        let json = lines.clean("{\"a\":\"\u{9b}\\n\u{202e}\"}\n");
        assert_eq!(json, "{\"a\":\"\\u009b\\n\\u202e\"}\n");
    }

    #[test]
    fn a_file_of_the_day_is_made_and_linked() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("main.log");
        for old in 1..=5 {
            fs::write(dir.path().join(format!("main.log.2020-01-0{old}")), b"").unwrap();
        }
        let lines = Lines::new(Sink::File(Daily::open(&file, 3, &[]).unwrap()), Look::Plain);
        lines.make_writer().write_all(b"password=secret\n").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "password=***\n");
        let days = fs::read_dir(dir.path()).unwrap().flatten();
        let days = days.filter(|entry| entry.file_type().unwrap().is_file());
        assert_eq!(days.count(), 3);
    }

    #[test]
    fn what_is_there_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("main.log");
        fs::write(&file, b"precious").unwrap();
        assert!(Daily::open(&file, 1, &[]).is_err());
        assert!(Daily::open(dir.path(), 1, &[]).is_err());
        assert_eq!(fs::read(&file).unwrap(), b"precious");
    }

    #[test]
    fn a_directory_of_others_is_no_place_for_a_log() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(Daily::open(&dir.path().join("main.log"), 1, &[]).is_err());
    }
}
