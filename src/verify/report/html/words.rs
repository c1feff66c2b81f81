//! Values in the form in which the page shows them.

use crate::escape;

/// Formats a time for people, without its fraction.
pub fn moment(text: &str) -> String {
    let (date, rest) = text.split_once(['T', ' ']).unwrap_or((text, ""));
    let time = rest.get(..8).unwrap_or(rest);
    escaped(format!("{date} {time} UTC").as_str())
}

pub fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 120.0 => format!("{s:.1} s"),
        s if s < 7200.0 => format!("{:.1} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}

/// Escapes a value for a place of one line.
pub fn escaped(text: &str) -> String {
    marked_up(&escape::line(text))
}

/// Escapes a text, keeping its lines.
pub fn escaped_lines(text: &str) -> String {
    marked_up(&escape::lines(text))
}

/// Escapes what HTML would take for markup.
pub fn marked_up(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}
