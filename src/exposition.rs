//! Prometheus' text exposition format: one prefix, and each family together below its
//! HELP and TYPE.

use std::fmt::{Display, Write as _};

use crate::escape;

const PREFIX: &str = "pbkfs_";

/// A label's name and value.
pub type Label<'a> = (&'a str, &'a str);

/// How a metric behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It only increases, until it is reset.
    Counter,
    /// It shows the current value.
    Gauge,
}

/// A text under construction; it starts with this program's version.
#[derive(Debug)]
pub struct Text(String);

impl Text {
    /// Creates a text that contains only the version.
    #[must_use]
    pub fn new() -> Self {
        let mut text = Self(String::new());
        text.family("build_info", Kind::Gauge, "Always 1.");
        text.sample("build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1);
        text
    }

    /// Starts a family.
    pub fn family(&mut self, name: &str, kind: Kind, help: &str) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        let _ = writeln!(self.0, "# HELP {PREFIX}{name} {help}");
        let _ = writeln!(self.0, "# TYPE {PREFIX}{name} {kind}");
    }

    /// Adds a sample to the family started last.
    pub fn sample(&mut self, name: &str, labels: &[Label<'_>], value: impl Display) {
        let labels: Vec<String> = labels
            .iter()
            .map(|(name, value)| format!("{name}=\"{}\"", escaped(value)))
            .collect();
        let _ = writeln!(self.0, "{PREFIX}{name}{{{}}} {value}", labels.join(","));
    }

    /// Returns the text, with a newline at its end.
    #[must_use]
    pub fn finish(self) -> String {
        self.0
    }
}

/// Escapes a label value. The format defines three escapes; other odd characters are
/// escaped as everywhere else.
fn escaped(value: &str) -> String {
    escape::lines(value)
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_values_are_escaped() {
        let mut text = Text::new();
        text.sample("x", &[("target", "/a\"b\\c\nd")], 5);
        let text = text.finish();
        assert!(
            text.ends_with("\npbkfs_x{target=\"/a\\\"b\\\\c\\nd\"} 5\n"),
            "{text}"
        );
        let mut text = Text::new();
        text.sample("x", &[("target", "/a\x1b\r\u{202e}")], 5);
        let text = text.finish();
        assert!(
            text.ends_with("{target=\"/a\\\\x1b\\\\r\\\\u202e\"} 5\n"),
            "{text}"
        );
    }
}
