//! The `key = value` format of `backup.control` and `pg_probackup.conf`.
//!
//! There is one pair per line; whitespace at the end of the line is ignored. Keys are
//! compared without regard to case, and `-` and `_` are equivalent. A value is bare or
//! single-quoted. A bare value ends at a `#` or a tab, and keeps the spaces before it:
//! `status = OK # so` has the value `OK `, which is not a valid status. In a quoted
//! value, `''` represents a quote, and every other byte, including a backslash,
//! represents itself; without a closing quote, the value ends with the line. `#` starts a
//! comment. If a key is repeated, its last value counts. Source: pg_probackup's
//! `src/utils/configuration.c` (`config_read_opt`, `parse_pair`, `get_next_token`,
//! `key_equals`).

use std::error::Error;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use time::{OffsetDateTime, UtcOffset};

use crate::catalog::error::ControlError;
use crate::catalog::store::StorePath;

/// Maximum number of bytes read from such a file. pg_probackup's own files have one or
/// two kilobytes; a note has at most one, and a list of external directories a few paths.
const LIMIT: u64 = 256 << 10;

/// A parsed file: its pairs in line order.
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
    /// Reads a file of the catalog and splits it into pairs.
    ///
    /// # Errors
    /// If it cannot be read, is larger than such a file can be, or has a line that is not
    /// `key = value`.
    pub fn read(place: &StorePath) -> Result<Self, ControlError> {
        let path = place.name();
        match place.read(LIMIT) {
            Ok(bytes) => Self::parse(&path, &bytes),
            Err(source) => Err(ControlError::Read { path, source }),
        }
    }

    /// Splits a file's bytes into pairs; `path` is used only in messages.
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

    /// Returns the value of `key` (in lower case, with `-`) as a `T`; `None` if the key
    /// is absent.
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

    /// Like [`get`](Self::get), with a parser supplied by the caller.
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

    /// Returns the value of a key as a path, byte for byte.
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

    /// Logs the keys that are not in `known`: a newer pg_probackup may write such keys,
    /// and they do not make a file unusable.
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

/// Parses a boolean as pg_probackup writes it (`true`, `false`) or as a person might
/// (`on`, `no`, `1`).
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

/// pg_probackup's timestamp format: `2026-11-22 07:28:43+00`, `..+05:30`.
const TIME_FORMAT: &[BorrowedFormatItem<'_>] = format_description!(
    version = 2,
    "[year]-[month]-[day] [hour]:[minute]:[second][offset_hour sign:mandatory][optional [:[offset_minute]]]"
);

/// Text that is not a valid timestamp.
#[derive(Debug, thiserror::Error)]
pub enum NotAMoment {
    /// The format is wrong.
    #[error(transparent)]
    Form(#[from] time::error::Parse),
    /// The offset moves it outside the representable years.
    #[error("it is beyond the year 9999 in UTC")]
    TooFar,
}

/// Parses a timestamp with an offset and converts it to UTC.
///
/// # Errors
/// If the text is not in that format; the offset is required.
pub fn parse_time(text: &str) -> Result<OffsetDateTime, NotAMoment> {
    let local = OffsetDateTime::parse(text, TIME_FORMAT)?;
    local
        .checked_to_offset(UtcOffset::UTC)
        .ok_or(NotAMoment::TooFar)
}

type Pair = Option<(String, Vec<u8>)>;

/// The characters that C's `isspace` counts as whitespace.
const BLANKS: &[u8] = b" \t\n\x0B\x0C\r";

/// The characters that end a bare value.
const BARE_ENDS: &[u8] = b"#\n\r\t\x0B";

fn is_blank(byte: &u8) -> bool {
    BLANKS.contains(byte)
}

fn without_blanks_before(text: &[u8]) -> &[u8] {
    let start = text.iter().position(|byte| !is_blank(byte));
    text.get(start.unwrap_or(text.len())..).unwrap_or_default()
}

fn without_blanks_after(text: &[u8]) -> &[u8] {
    let last = text.iter().rposition(|byte| !is_blank(byte));
    let end = last.map_or(0, |last| last + 1);
    text.get(..end).unwrap_or_default()
}

fn split_pair(line: &[u8]) -> Result<Pair, &'static str> {
    let line = without_blanks_after(without_blanks_before(line));
    if line.is_empty() || line.starts_with(b"#") {
        return Ok(None);
    }
    let end = line.iter().position(|b| b"=# \t\r\x0B".contains(b));
    let (key, rest) = line.split_at(end.ok_or("there is no \"=\" after the key")?);
    if key.is_empty() {
        return Err("there is no key before the \"=\"");
    }
    let value = without_blanks_before(rest)
        .strip_prefix(b"=")
        .ok_or("there is no \"=\" after the key")?;
    let value = without_blanks_before(value);
    let (value, after) = match value.strip_prefix(b"'") {
        Some(quoted) => unquote(quoted),
        None => {
            let end = value.iter().position(|b| BARE_ENDS.contains(b));
            let (bare, after) = value.split_at(end.unwrap_or(value.len()));
            (bare.to_vec(), after)
        }
    };
    let after = without_blanks_before(after);
    if !after.is_empty() && !after.starts_with(b"#") {
        return Err(
            "there is more text after the value (a quote inside a quoted value must be doubled; \
             otherwise pg_probackup cannot read it either)",
        );
    }
    let key = String::from_utf8_lossy(key)
        .to_ascii_lowercase()
        .replace('_', "-");
    Ok(Some((key, value)))
}

/// Returns the value at the start of `text`, which follows an opening quote, and the text
/// after the closing quote.
fn unquote(text: &[u8]) -> (Vec<u8>, &[u8]) {
    let mut value = Vec::with_capacity(text.len());
    let mut rest = text;
    loop {
        match rest {
            [] => return (value, rest),
            [b'\'', b'\'', tail @ ..] => {
                value.push(b'\'');
                rest = tail;
            }
            [b'\'', tail @ ..] => return (value, tail),
            [byte, tail @ ..] => {
                value.push(*byte);
                rest = tail;
            }
        }
    }
}

/// Quotes a value, which may be any one-line text, so that [`ControlFile::parse`] and
/// pg_probackup can read it back. pg_probackup itself does not double quotes when
/// writing, so not every value that it accepted can be read.
#[cfg(feature = "encode")]
#[must_use]
pub fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\'', "''"))
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
        // As C's strcspn delimits it.
        assert_eq!(value("note = plain # said so"), "plain ");
        assert_eq!(value("note = plain# said so"), "plain");
        assert_eq!(value("note = plain\t# said so"), "plain");
        assert_eq!(value("note = two words \x0B"), "two words");
        assert_eq!(value("note=plain"), "plain");
        assert_eq!(value("  note\t= 'a # b'  # c"), "a # b");
        assert_eq!(value("note = 'it''s'"), "it's");
        assert_eq!(value("note = ''"), "");
        assert_eq!(value(r"note = 'a\\c\n\101\t'"), r"a\\c\n\101\t");
        assert_eq!(
            value(r"note = 'ends with a backslash\'"),
            r"ends with a backslash\"
        );
        // pg_probackup writes and reads a note that ends with a quote like this.
        assert_eq!(value("note = 'so called ''"), "so called '");
        assert_eq!(value("note = 'open"), "open");
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
            ("a = 1\nnote = 'it's secret'", "more text after"),
            ("a = 1\nnote = it\tsecret", "more text after"),
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
        fn what_is_written_is_read_back(note in "[^\n\0]*") {
            let line = format!("note = {}", quoted(&note));
            prop_assert_eq!(value(&line), note);
        }

        /// Every byte that a value can contain is read from between pg_probackup's quotes
        /// just as pg_probackup's own reader reads it.
        #[test]
        fn what_pg_probackup_writes_is_read_as_it_reads_it(
            note in proptest::collection::vec(
                prop_oneof![any::<u8>(), Just(b'\''), Just(b'\\'), Just(b'#'), Just(b' ')],
                1..40,
            )
        ) {
            let note: Vec<u8> = note.into_iter().filter(|b| !b"\n\0".contains(b)).collect();
            let line = [b"note = '", &note[..], b"'\n"].concat();
            let read = ControlFile::parse(Path::new("x"), &line);
            let read = read.ok().map(|file| file.entries[0].value.clone());
            prop_assert_eq!(read, as_pg_probackup_reads(&line));
        }
    }

    /// Does what `config_read_opt` does on one line with a quoted value, using indices
    /// into a zero-terminated string as in C; `None` for its syntax error.
    fn as_pg_probackup_reads(line: &[u8]) -> Option<Vec<u8>> {
        let mut line = line.to_vec();
        while line
            .last()
            .is_some_and(|b| b.is_ascii_whitespace() || *b == 0x0B)
        {
            line.pop();
        }
        let at = |index: usize| line.get(index).copied().unwrap_or(0);
        let mut value = Vec::new();
        let mut index = b"note = '".len();
        while at(index) != 0 {
            if at(index) == b'\'' {
                index += 1;
                if at(index) != b'\'' {
                    break;
                }
            }
            value.push(at(index));
            index += 1;
        }
        while at(index).is_ascii_whitespace() || at(index) == 0x0B {
            index += 1;
        }
        matches!(at(index), 0 | b'#').then_some(value)
    }
}
