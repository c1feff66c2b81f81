//! Text from outside, made safe for a terminal, a table, a log and a page.
//!
//! Text from a catalog, a server, a file name or a log may contain characters that change
//! the terminal, start a new line, or reorder the text around them: all control
//! characters, and Unicode's invisible formatting characters. There are two safety nets:
//!
//! - a **value** is escaped where it becomes text ([`value`]). A value without odd
//!   characters is shown unchanged. Any other is quoted the way `bash` reads it, so that
//!   it can be copied and is unambiguous: `$'a\nb'`, in which `\` and `'` are preceded by
//!   `\`;
//! - a **line** is escaped where it leaves the program ([`line()`], [`lines`],
//!   [`coloured`], [`json`]), in the same notation but without quotes, because it is no
//!   longer known where the value began. There a `\` stands for itself.
//!
//! | odd | shown as |
//! |---|---|
//! | line feed, carriage return, tab | `\n`, `\r`, `\t` |
//! | another byte below 0x80, or one that is not valid UTF-8 | `\x1b`, `\xff` |
//! | another character | `\u202e`, `\U000e0001` |
//!
//! JSON keeps exact values; there the same characters are written as JSON's own `\u001b`.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;

/// Whether a character changes how the text around it is shown, or is itself invisible.
fn is_odd(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            // Writing direction, and characters that join or separate words.
            '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}'
        )
}

/// Escapes a value for display: a path, a name, an id, a setting.
#[must_use]
pub fn value<T: AsRef<OsStr> + ?Sized>(value: &T) -> Cow<'_, str> {
    /// The start of a quoted value.
    const QUOTE: &str = "$'";
    let bytes = value.as_ref().as_bytes();
    match str::from_utf8(bytes) {
        Ok(text) if !text.contains(is_odd) && !text.starts_with(QUOTE) => return text.into(),
        _ => {}
    }
    let mut shown = QUOTE.to_owned();
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' | '\'' => shown.extend(['\\', c]),
                c if is_odd(c) => push(&mut shown, c),
                c => shown.push(c),
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(shown, "\\x{byte:02x}");
        }
    }
    shown.push('\'');
    shown.into()
}

/// Escapes one line, in which a line break is odd as well.
#[must_use]
pub fn line(text: &str) -> Cow<'_, str> {
    replaced(text, is_odd, push)
}

/// Escapes a text of several lines, whose line breaks are kept.
#[must_use]
pub fn lines(text: &str) -> Cow<'_, str> {
    replaced(text, |c| c != '\n' && is_odd(c), push)
}

/// Escapes one line but keeps its colours (`ESC [ .. m`): this program sets them in text
/// whose values are already escaped.
#[must_use]
pub fn coloured(text: &str) -> Cow<'_, str> {
    if !text.contains(is_odd) {
        return text.into();
    }
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("\x1b[") {
        let (before, sequence) = rest.split_at(at);
        clean.push_str(&line(before));
        let is_part = |c: char| c.is_ascii_digit() || c == ';';
        let parameters = sequence.get(2..).unwrap_or_default();
        let end = sequence.len() - parameters.trim_start_matches(is_part).len();
        // Not a colour if anything but "m" ends it.
        let (colour, after) = match sequence.split_at(end) {
            (_, after) if after.starts_with('m') => sequence.split_at(end + 1),
            _ => ("", sequence),
        };
        clean.push_str(colour);
        rest = after;
        if colour.is_empty() {
            push(&mut clean, '\x1b');
            rest = after.strip_prefix('\x1b').unwrap_or(after);
        }
    }
    clean.push_str(&line(rest));
    clean.into()
}

/// Escapes a JSON text: its strings keep their values, in a notation that is safe for a
/// terminal. Line breaks between its tokens are kept.
#[must_use]
pub fn json(text: &str) -> Cow<'_, str> {
    // Characters below a space are escaped already.
    let odd = |c: char| c >= ' ' && is_odd(c);
    replaced(text, odd, |json, c| {
        for unit in c.encode_utf16(&mut [0; 2]) {
            let _ = write!(json, "\\u{unit:04x}");
        }
    })
}

fn replaced(
    text: &str,
    is_odd: impl Fn(char) -> bool,
    push: impl Fn(&mut String, char),
) -> Cow<'_, str> {
    if !text.contains(&is_odd) {
        return text.into();
    }
    let mut clean = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match is_odd(c) {
            true => push(&mut clean, c),
            false => clean.push(c),
        }
    }
    clean.into()
}

/// Appends an odd character in its escaped form.
fn push(text: &mut String, c: char) {
    let _ = match c {
        '\n' => text.write_str("\\n"),
        '\r' => text.write_str("\\r"),
        '\t' => text.write_str("\\t"),
        c if c.is_ascii() => write!(text, "\\x{:02x}", u32::from(c)),
        c if u32::from(c) <= 0xffff => write!(text, "\\u{:04x}", u32::from(c)),
        c => write!(text, "\\U{:08x}", u32::from(c)),
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;
    use std::process::Command;

    /// C0, DEL, C1, and the Unicode characters that reorder, hide or join text.
    fn odd() -> Vec<char> {
        let controls = ('\0'..='\u{1f}').chain('\u{7f}'..='\u{9f}');
        let bidi = ['\u{61c}', '\u{200e}', '\u{200f}'].into_iter();
        let bidi = bidi.chain('\u{202a}'..='\u{202e}');
        let bidi = bidi.chain('\u{2066}'..='\u{2069}');
        let hidden = ['\u{200b}', '\u{200c}', '\u{200d}', '\u{2028}', '\u{2029}'];
        let hidden = hidden
            .into_iter()
            .chain(['\u{2060}', '\u{feff}', '\u{e0041}']);
        controls.chain(bidi).chain(hidden).collect()
    }

    #[test]
    fn no_odd_character_gets_through() {
        for c in odd() {
            let text = format!("a{c}b");
            for clean in [value(&text), line(&text), coloured(&text)] {
                assert!(!clean.contains(c), "{c:?}: {clean:?}");
                assert!(!clean.contains(is_odd), "{c:?}: {clean:?}");
                assert_eq!(line(&clean), clean, "once is enough");
            }
            assert_eq!(lines(&text).contains(c), c == '\n', "{c:?}");
        }
    }

    #[test]
    fn what_is_not_odd_stays_as_it_is() {
        for text in [
            "",
            "/srv/clone",
            "a b",
            "C:\\x",
            "it's",
            "Zürich",
            "数据",
            "└ →",
            "'$",
            "\u{fffd}",
        ] {
            assert!(matches!(value(text), Cow::Borrowed(same) if same == text));
            assert!(matches!(line(text), Cow::Borrowed(_)));
            assert!(matches!(lines(text), Cow::Borrowed(_)));
            assert!(matches!(coloured(text), Cow::Borrowed(_)));
            assert!(matches!(json(text), Cow::Borrowed(_)));
        }
        assert!(matches!(lines("a\nb\n"), Cow::Borrowed(_)));
    }

    #[test]
    fn each_kind_has_its_form() {
        assert_eq!(value("a\nb"), r"$'a\nb'");
        assert_eq!(value("a\\n\x1bb'"), r"$'a\\n\x1bb\''");
        assert_eq!(value("$'a'"), r"$'$\'a\''");
        assert_eq!(value(OsStr::from_bytes(b"a\xffb")), r"$'a\xffb'");
        assert_eq!(value(Path::new("/x\u{202e}y")), r"$'/x\u202ey'");
        assert_eq!(
            line("\r\t\x07\u{9b}\u{e0041}\n"),
            r"\r\t\x07\u009b\U000e0041\n"
        );
        assert_eq!(lines("a\u{85}\nb"), "a\\u0085\nb");
    }

    /// A shell reads each value back exactly: nothing is lost, and no two values look the
    /// same.
    #[test]
    fn a_shell_takes_a_value_back() {
        let mut values: Vec<Vec<u8>> = odd()
            .into_iter()
            .filter(|&c| c != '\0')
            .map(|c| format!("/a'{c}9\\n").into_bytes())
            .collect();
        values.push(b"/bad\xff\xfe\x9b".to_vec());
        values.push(b"$'x'".to_vec());
        let words: Vec<_> = values
            .iter()
            .map(|bytes| value(OsStr::from_bytes(bytes)).into_owned())
            .collect();
        let script = format!("printf '%s\\0' {}", words.join(" "));
        let mut bash = Command::new("bash");
        let said = bash.env("LC_ALL", "C.UTF-8").args(["-c", &script]).output();
        let said = said.unwrap().stdout;
        let back: Vec<&[u8]> = said.split(|&b| b == 0).collect();
        assert_eq!(back.len(), values.len() + 1);
        for (value, back) in values.iter().zip(back) {
            assert_eq!(value, back, "{}", String::from_utf8_lossy(value));
        }
    }

    #[test]
    fn only_colours_stay_among_the_sequences() {
        let ours = "\x1b[32m INFO\x1b[0m \x1b[1;3mready\x1b[m";
        assert_eq!(coloured(ours), ours);
        for (text, clean) in [
            ("\x1b[2Ja", r"\x1b[2Ja"),
            ("a\x1b[31mb\x1b[", "a\x1b[31mb\\x1b["),
            ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
            ("\x1b\x1b[1m\x1b[?25l\n", "\\x1b\x1b[1m\\x1b[?25l\\n"),
        ] {
            assert_eq!(coloured(text), clean);
        }
    }

    #[test]
    fn json_keeps_its_values() {
        for c in odd() {
            let value = serde_json::json!({ "a": format!("x\\{c}\"y"), "b": [1] });
            let pretty = serde_json::to_string_pretty(&value).unwrap();
            let clean = json(&pretty);
            assert!(!clean.contains(|c| c != '\n' && is_odd(c)), "{clean:?}");
            assert_eq!(clean.lines().count(), pretty.split('\n').count());
            let back: serde_json::Value = serde_json::from_str(&clean).unwrap();
            assert_eq!(back, value);
        }
    }
}
