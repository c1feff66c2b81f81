//! Prometheus' text exposition format: one prefix, each family together below
//! its HELP and TYPE.

use std::fmt::{Display, Write as _};

use crate::escape;

const PREFIX: &str = "pbkfs_";

/// A label's name and value.
pub type Label<'a> = (&'a str, &'a str);

/// How a number behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It only grows, until it is reset.
    Counter,
    /// It is as it is now.
    Gauge,
}

/// A text in the making; it begins with this program's version.
#[derive(Debug)]
pub struct Text(String);

impl Default for Text {
    fn default() -> Self {
        Self::new()
    }
}

impl Text {
    /// The text with the version only.
    #[must_use]
    pub fn new() -> Self {
        let mut text = Self(String::new());
        text.family("build_info", Kind::Gauge, "Always 1.");
        text.sample("build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1);
        text
    }

    /// Begins a family.
    pub fn family(&mut self, name: &str, kind: Kind, help: &str) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        let _ = writeln!(self.0, "# HELP {PREFIX}{name} {help}");
        let _ = writeln!(self.0, "# TYPE {PREFIX}{name} {kind}");
    }

    /// Adds a number to the family that was begun last.
    pub fn sample(&mut self, name: &str, labels: &[Label<'_>], value: impl Display) {
        let labels: Vec<String> = labels
            .iter()
            .map(|(name, value)| format!("{name}=\"{}\"", escaped(value)))
            .collect();
        let _ = writeln!(self.0, "{PREFIX}{name}{{{}}} {value}", labels.join(","));
    }

    /// The text, with a newline at its end.
    #[must_use]
    pub fn finish(self) -> String {
        self.0
    }
}

/// The format knows three escapes; what else is odd is shown as everywhere.
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
