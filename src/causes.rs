//! Errors as sentences for people.

use std::error::Error;
use std::fmt::Write as _;

use crate::escape;

/// Formats an error as one sentence on one line: what happened, and each cause that the
/// sentence does not already contain.
#[must_use]
pub fn sentence(error: &dyn Error) -> String {
    escape::line(&told(error)).into_owned()
}

/// Like [`sentence`], for an error that quotes a text of several lines, such as a
/// program's messages: each quoted line becomes a line of its own, below the line that
/// introduces them. All other line breaks are escaped.
#[must_use]
pub fn lines(error: &dyn Error, quoted: Option<&str>) -> Vec<String> {
    let told = told(error);
    let quoted = quoted.map(str::trim).filter(|text| text.contains('\n'));
    let parts = quoted.and_then(|text| Some((told.split_once(text)?, text)));
    let Some(((before, after), text)) = parts else {
        return vec![escape::line(&told).into_owned()];
    };
    let own = |text: &str| escape::line(text.trim()).into_owned();
    let quoted = text
        .lines()
        .map(|line| format!("    {}", escape::line(line)));
    let mut lines = vec![own(before)];
    lines.extend(quoted);
    lines.extend([own(after)].into_iter().filter(|text| !text.is_empty()));
    lines
}

fn told(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let part = error.to_string();
        if !text.contains(&part) {
            let _ = write!(text, ": {part}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot read the list")]
    struct Silent(#[source] io::Error);

    #[derive(Debug, thiserror::Error)]
    #[error("cannot read the list: {0}")]
    struct Telling(#[source] io::Error);

    #[test]
    fn a_cause_is_told_once() {
        let inner = || io::Error::other("disk gone");
        let told = "cannot read the list: disk gone";
        assert_eq!(sentence(&Silent(inner())), told);
        assert_eq!(sentence(&Telling(inner())), told);
    }

    #[test]
    fn a_sentence_is_one_line_whatever_is_in_it() {
        let error = Silent(io::Error::other("disk\x1b[2J\ngone\u{202e}"));
        let told = r"cannot read the list: disk\x1b[2J\ngone\u202e";
        assert_eq!(sentence(&error), told);
        assert_eq!(lines(&error, None), [told]);
        assert_eq!(lines(&error, Some("not in it\nat all")), [told]);
    }

    #[test]
    fn only_what_is_quoted_has_lines() {
        let error = Telling(io::Error::other("/a\nb said:\none\ntwo\x07\n(and ended)"));
        let expected = [
            r"cannot read the list: /a\nb said:",
            "    one",
            r"    two\x07",
            "(and ended)",
        ];
        assert_eq!(lines(&error, Some("one\ntwo\x07\n")), expected);
    }
}
