//! Formats the fields of events and spans, and escapes each value: a colour in a
//! value is not ours, and a line break in it must not start a new line.

use std::error::Error;
use std::fmt;

use tracing::field::{Field, Visit};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::Writer;

use super::redact::redact;
use crate::causes::sentence;
use crate::escape;

/// Formats fields as `tracing_subscriber` does: the message alone, any other field as
/// `name=value`.
pub struct Fields;

impl<'w> FormatFields<'w> for Fields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'w>, fields: R) -> fmt::Result {
        let mut visitor = Visitor {
            writer,
            is_first: true,
            result: Ok(()),
        };
        fields.record(&mut visitor);
        visitor.result
    }
}

struct Visitor<'w> {
    writer: Writer<'w>,
    is_first: bool,
    result: fmt::Result,
}

impl Visitor<'_> {
    fn add(&mut self, name: &str, value: &str) -> fmt::Result {
        if !std::mem::take(&mut self.is_first) {
            self.writer.write_char(' ')?;
        }
        if name != "message" {
            let name = name.strip_prefix("r#").unwrap_or(name);
            match self.writer.has_ansi_escapes() {
                true => write!(self.writer, "\x1b[3m{name}\x1b[0m\x1b[2m=\x1b[0m")?,
                false => write!(self.writer, "{name}=")?,
            }
        }
        // Mask secrets before escaping, which would make their ends harder to find.
        self.writer.write_str(&escape::line(&redact(value)))
    }
}

impl Visit for Visitor<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.record_debug(field, &format_args!("{value}")),
            _ => self.record_debug(field, &value),
        }
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        self.record_debug(field, &format_args!("{}", sentence(value)));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Omit the fields that say where an event of the `log` crate came from.
        if self.result.is_ok() && !field.name().starts_with("log.") {
            self.result = self.add(field.name(), &format!("{value:?}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};

    use super::*;
    use tracing_subscriber::fmt::MakeWriter;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Written {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    /// Returns what is logged by `log`, with or without colours.
    fn logged(colour: bool, log: impl FnOnce()) -> String {
        let written = Written::default();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(colour)
            .without_time()
            .with_target(false)
            .fmt_fields(Fields)
            .with_writer(written.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, log);
        let bytes = written.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn values_forge_neither_lines_nor_colours() {
        let hostile = "a\x1b[31m\nERROR all is lost\u{9b}\u{202e}";
        let clean = r"a\x1b[31m\nERROR all is lost\u009b\u202e";
        let log = || {
            let _span = tracing::error_span!("s", target = %hostile).entered();
            let error = io::Error::other(hostile);
            let error = &error as &(dyn Error + 'static);
            tracing::warn!(file = %hostile, error, n = 5, "about {hostile}");
        };
        let expected =
            format!(" WARN s{{target={clean}}}: about {clean} file={clean} error={clean} n=5\n");
        assert_eq!(logged(false, log), expected);
        let coloured = logged(true, log);
        assert_eq!(coloured.matches(clean).count(), 4, "{coloured:?}");
        assert_eq!(coloured.lines().count(), 1, "{coloured:?}");
        assert_eq!(escape::coloured(coloured.trim_end()), coloured.trim_end());
    }

    #[test]
    fn a_secret_behind_a_tab_is_masked() {
        let log = || tracing::warn!("password =\t secret on");
        assert_eq!(logged(false, log), " WARN password =\\t *** on\n");
    }
}
