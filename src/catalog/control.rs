//! The `key = value` form of `backup.control` and `pg_probackup.conf`.
//!
//! One pair a line. A key is compared without regard to case, `-` and `_` are
//! the same. A value is bare, and then ends at a `#`, or single-quoted, with
//! `''` for a quote and C's backslash escapes. `#` begins a comment. A key given
//! twice keeps its last value. Source: pg_probackup's
//! `src/utils/configuration.c` (`parse_pair`, `get_next_token`, `key_equals`).

use std::error::Error;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use time::{OffsetDateTime, UtcOffset};

use super::error::ControlError;
use super::store::Place;

/// The most that is read of such a file, in bytes. pg_probackup's own have one
/// or two kilobytes; a note has at most one, and a list of external directories
/// some paths.
const LIMIT: u64 = 256 << 10;

/// One parsed file: its pairs in the order of their lines.
#[derive(Debug)]
pub struct ControlFile {
    path: PathBuf,
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    line: usize,
    key: String,
    /// Bytes, not text: a note or a path may be in any encoding.
    value: Vec<u8>,
}

impl ControlFile {
    /// Reads and splits a file of the catalog.
    ///
    /// # Errors
    /// If it cannot be read, is larger than such a file is, or a line is not
    /// `key = value`.
    pub fn read(place: &Place) -> Result<Self, ControlError> {
        let path = place.name();
        match place.read(LIMIT) {
            Ok(bytes) => Self::parse(&path, &bytes),
            Err(source) => Err(ControlError::Read { path, source }),
        }
    }

    /// Splits a file's bytes; `path` is for messages only.
    ///
    /// # Errors
    /// If a line is not `key = value`.
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Self, ControlError> {
        let mut entries = Vec::new();
        for (index, text) in bytes.split(|&b| b == b'\n').enumerate() {
            let line = index + 1;
            let pair = split_pair(text).map_err(|problem| ControlError::Syntax {
                path: path.to_owned(),
                line,
                problem,
            })?;
            if let Some((key, value)) = pair {
                entries.push(Entry { line, key, value });
            }
        }
        Ok(Self {
            path: path.to_owned(),
            entries,
        })
    }

    /// The value of `key` (in lower case, with `-`) as `T`; `None` if the key
    /// is not there.
    ///
    /// # Errors
    /// If the value is not a `T`.
    pub fn get<T>(&self, key: &str) -> Result<Option<T>, ControlError>
    where
        T: FromStr,
        T::Err: Error + Send + Sync + 'static,
    {
        self.get_with(key, str::parse)
    }

    /// As [`get`](Self::get), with a parser of the caller's.
    ///
    /// # Errors
    /// If the parser refuses the value.
    pub fn get_with<T, E>(
        &self,
        key: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<Option<T>, ControlError>
    where
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        let Some(entry) = self.entry(key) else {
            return Ok(None);
        };
        let text = String::from_utf8_lossy(&entry.value);
        match parse(&text) {
            Ok(value) => Ok(Some(value)),
            Err(source) => Err(ControlError::Value {
                path: self.path.clone(),
                line: entry.line,
                key: entry.key.clone(),
                value: text.into_owned(),
                source: source.into(),
            }),
        }
    }

    /// The value of a key as a path, byte for byte.
    #[must_use]
    pub fn path_value(&self, key: &str) -> Option<PathBuf> {
        let entry = self.entry(key)?;
        Some(PathBuf::from(OsString::from_vec(entry.value.clone())))
    }

    /// Turns a key's absence into an error.
    ///
    /// # Errors
    /// If `value` is `None`.
    pub fn require<T>(&self, key: &'static str, value: Option<T>) -> Result<T, ControlError> {
        value.ok_or_else(|| ControlError::Missing {
            path: self.path.clone(),
            key,
        })
    }

    /// Logs the keys that are none of `known`: a newer pg_probackup may write
    /// some, and they do not make a file unusable.
    pub fn note_unknown_keys(&self, known: &[&str]) {
        for entry in &self.entries {
            if !known.contains(&entry.key.as_str()) {
                tracing::debug!(
                    path = %self.path.display(), line = entry.line, key = %entry.key,
                    "unknown key in a control file"
                );
            }
        }
    }

    fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries.iter().rev().find(|entry| entry.key == key)
    }
}

/// A word that is neither true nor false.
#[derive(Debug, thiserror::Error)]
#[error("it must be true or false")]
pub struct NotABoolean;

/// Parses a boolean as the writer spells it (`true`, `false`) and as a person
/// might (`on`, `no`, `1`).
///
/// # Errors
/// If the word is none of these.
pub fn parse_bool(text: &str) -> Result<bool, NotABoolean> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "on" | "yes" | "1" => Ok(true),
        "false" | "off" | "no" | "0" => Ok(false),
        _ => Err(NotABoolean),
    }
}

/// pg_probackup's form of a moment: `2026-11-22 07:28:43+00`, `..+05:30`.
const TIME_FORMAT: &[BorrowedFormatItem<'_>] = format_description!(
    version = 2,
    "[year]-[month]-[day] [hour]:[minute]:[second][offset_hour sign:mandatory][optional [:[offset_minute]]]"
);

/// Text that is no moment.
#[derive(Debug, thiserror::Error)]
pub enum NotAMoment {
    /// It is of another form.
    #[error(transparent)]
    Form(#[from] time::error::Parse),
    /// Its offset leads out of the years that can be told.
    #[error("it is beyond the year 9999 in UTC")]
    TooFar,
}

/// Parses a moment with its offset and gives it in UTC.
///
/// # Errors
/// If the text is not of that form; an offset is needed.
pub fn parse_time(text: &str) -> Result<OffsetDateTime, NotAMoment> {
    let local = OffsetDateTime::parse(text, TIME_FORMAT)?;
    local
        .checked_to_offset(UtcOffset::UTC)
        .ok_or(NotAMoment::TooFar)
}

type Pair = Option<(String, Vec<u8>)>;

fn split_pair(line: &[u8]) -> Result<Pair, &'static str> {
    let line = line.trim_ascii();
    if line.is_empty() || line.starts_with(b"#") {
        return Ok(None);
    }
    let end = line
        .iter()
        .position(|b| b"=# \t".contains(b))
        .ok_or("there is no \"=\" after the key")?;
    let (key, rest) = line.split_at(end);
    if key.is_empty() {
        return Err("there is no key before the \"=\"");
    }
    let value = rest
        .trim_ascii_start()
        .strip_prefix(b"=")
        .ok_or("there is no \"=\" after the key")?
        .trim_ascii_start();
    let value = match value.strip_prefix(b"'") {
        Some(quoted) => unquote(quoted)?,
        None => {
            let bare = value.split(|&b| b == b'#').next().unwrap_or_default();
            bare.trim_ascii_end().to_vec()
        }
    };
    let key = String::from_utf8_lossy(key)
        .to_ascii_lowercase()
        .replace('_', "-");
    Ok(Some((key, value)))
}

/// The value that `text`, all after an opening quote, holds.
fn unquote(text: &[u8]) -> Result<Vec<u8>, &'static str> {
    const OPEN: &str = "the quoted value has no closing quote";
    let mut value = Vec::with_capacity(text.len());
    let mut rest = text;
    loop {
        match rest {
            [] => return Err(OPEN),
            [b'\'', b'\'', tail @ ..] => {
                value.push(b'\'');
                rest = tail;
            }
            [b'\'', tail @ ..] => {
                let after = tail.trim_ascii_start();
                return if after.is_empty() || after.starts_with(b"#") {
                    Ok(value)
                } else {
                    Err("there is more text after the closing quote \
                         (pg_probackup cannot read a quote inside a value that is not doubled)")
                };
            }
            [b'\\', tail @ ..] => {
                let (byte, used) = unescape(tail).ok_or(OPEN)?;
                value.push(byte);
                rest = tail.get(used..).unwrap_or_default();
            }
            [byte, tail @ ..] => {
                value.push(*byte);
                rest = tail;
            }
        }
    }
}

/// The byte that stands for what follows a backslash, and how many bytes that
/// took: `b f n r t`, one to three octal digits, or the byte itself.
fn unescape(text: &[u8]) -> Option<(u8, usize)> {
    let first = *text.first()?;
    Some(match first {
        b'b' => (0x08, 1),
        b'f' => (0x0C, 1),
        b'n' => (b'\n', 1),
        b'r' => (b'\r', 1),
        b't' => (b'\t', 1),
        b'0'..=b'7' => {
            let digits = text
                .iter()
                .take(3)
                .take_while(|b| (b'0'..=b'7').contains(b));
            let used = digits.clone().count();
            // As in C, a value above 0377 keeps its low eight bits.
            let byte = digits.fold(0_u8, |sum, d| sum.wrapping_mul(8).wrapping_add(d - b'0'));
            (byte, used)
        }
        other => (other, 1),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use time::macros::datetime;

    fn parse(text: &str) -> Result<ControlFile, ControlError> {
        ControlFile::parse(Path::new("/c/backup.control"), text.as_bytes())
    }

    fn value(text: &str) -> String {
        let file = parse(text).unwrap();
        file.get::<String>("note").unwrap().unwrap()
    }

    #[test]
    fn values_are_bare_or_quoted() {
        assert_eq!(value("note = plain # said so"), "plain");
        assert_eq!(value("note=plain"), "plain");
        assert_eq!(value("  note\t= 'a # b'  # c"), "a # b");
        assert_eq!(value("note = 'it''s'"), "it's");
        assert_eq!(value("note = ''"), "");
        assert_eq!(value(r"note = 'a\'b\\c\n\101\7z'"), "a'b\\c\nA\u{7}z");
        assert_eq!(value("NOTE = one\nNote = two\n"), "two");
    }

    #[test]
    fn keys_ignore_case_and_kind_of_dash() {
        let file = parse("#Compatibility\n\nSystem_Identifier = 7\r\n").unwrap();
        assert_eq!(file.get::<u64>("system-identifier").unwrap(), Some(7));
        assert_eq!(file.get::<u64>("other").unwrap(), None);
    }

    #[test]
    fn a_bad_line_is_named_but_not_shown() {
        for (text, problem) in [
            ("a = 1\nsecret", "no \"=\""),
            ("a = 1\n= secret", "no key"),
            ("a = 1\na secret", "no \"=\""),
            ("a = 1\na = 'secret", "no closing quote"),
            ("a = 1\na = 'secret\\", "no closing quote"),
            ("a = 1\nnote = 'it's secret'", "more text after"),
        ] {
            let message = parse(text).unwrap_err().to_string();
            assert!(
                message.starts_with("/c/backup.control, line 2: "),
                "{message}"
            );
            assert!(message.contains(problem), "{message}");
            assert!(!message.contains("secret"), "{message}");
        }
    }

    #[test]
    fn a_bad_value_names_file_line_and_key() {
        let error = parse("\n\nblock-size = big")
            .unwrap()
            .get::<u32>("block-size");
        assert_eq!(
            error.unwrap_err().to_string(),
            "/c/backup.control, line 3: block-size cannot be \"big\""
        );
    }

    #[test]
    fn times_carry_their_offset() {
        let noon = datetime!(2026-11-22 12:00:00 UTC);
        for text in [
            "2026-11-22 12:00:00+00",
            "2026-11-22 17:30:00+05:30",
            "2026-11-22 09:00:00-03",
            "2026-11-22 08:30:00-03:30",
        ] {
            assert_eq!(parse_time(text).unwrap(), noon, "{text}");
        }
        for text in [
            "2026-11-22 12:00:00",
            "2026-11-22",
            "2026-13-22 12:00:00+00",
            "9999-12-31 23:59:59-23",
            "-9999-01-01 00:00:00+23",
            "",
        ] {
            assert!(parse_time(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_input_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = ControlFile::parse(Path::new("x"), &bytes);
        }

        #[test]
        fn doubling_quotes_and_escaping_backslashes_round_trips(note in "[^\n\r\0]*") {
            let quoted = note.replace('\\', r"\\").replace('\'', "''");
            prop_assert_eq!(value(&format!("note = '{quoted}'")), note);
        }
    }
}
