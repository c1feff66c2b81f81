//! Parses one line of the content list.

use super::{FileEntry, LineError};
use crate::catalog::CompressAlg;

/// The length of the longest path that the kernel accepts.
const PATH_MAX: usize = 4096;

/// The length of the longest file name.
const NAME_MAX: usize = 255;

/// Parses one line, without its line feed.
pub(super) fn parse(line: &[u8]) -> Result<FileEntry<'_>, LineError> {
    let mut entry = FileEntry::default();
    let (mut path, mut bytes, mut mode, mut is_datafile, mut crc) = (None, None, None, None, None);
    let mut pairs = Pairs::new(line)?;
    while let Some((key, value)) = pairs.next()? {
        match key {
            b"path" => path = Some(plain_path(value)?),
            b"size" => bytes = Some(size(value)?),
            b"mode" => mode = Some(number("mode", value)?),
            b"is_datafile" => is_datafile = Some(flag("is_datafile", value)?),
            b"crc" => crc = Some(number("crc", value)?),
            b"is_cfs" => entry.is_cfs = flag("is_cfs", value)?,
            b"compress_alg" => entry.compress_alg = codec(value)?,
            b"external_dir_num" => entry.external_dir_num = number("external_dir_num", value)?,
            b"dbOid" => entry.db_oid = number("dbOid", value)?,
            b"full_size" => entry.full_size = number("full_size", value)?,
            b"segno" => entry.segno = number("segno", value)?,
            b"n_blocks" => entry.n_blocks = count("n_blocks", value)?,
            b"n_headers" => entry.n_headers = count("n_headers", value)?,
            b"hdr_crc" => entry.hdr_crc = number("hdr_crc", value)?,
            b"hdr_off" => entry.hdr_off = number("hdr_off", value)?,
            b"hdr_size" => entry.hdr_size = count("hdr_size", value)?,
            // Keys of other versions, which pg_probackup ignores, too.
            _ => {}
        }
    }
    entry.path = required("path", path)?;
    entry.size = required("size", bytes)?;
    entry.mode = required("mode", mode)?;
    entry.is_datafile = required("is_datafile", is_datafile)?;
    entry.crc = required("crc", crc)?;
    Ok(entry)
}

/// Refuses a line without a key that pg_probackup's reader requires.
fn required<T>(key: &'static str, value: Option<T>) -> Result<T, LineError> {
    value.ok_or(LineError::Missing(key))
}

/// The `"key":"value"` pairs between a line's braces.
struct Pairs<'a> {
    rest: &'a [u8],
    first: bool,
}

/// A key and its value, as they appear between their quotes.
type Pair<'a> = (&'a [u8], &'a [u8]);

impl<'a> Pairs<'a> {
    fn new(line: &'a [u8]) -> Result<Self, LineError> {
        let rest = line.trim_ascii().strip_prefix(b"{");
        let rest = rest.and_then(|rest| rest.strip_suffix(b"}"));
        Ok(Self {
            rest: rest.ok_or_else(form)?.trim_ascii(),
            first: true,
        })
    }

    fn next(&mut self) -> Result<Option<Pair<'a>>, LineError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        if !self.first {
            self.punctuation(b',')?;
        }
        self.first = false;
        let key = self.quoted()?;
        self.punctuation(b':')?;
        let value = self.quoted()?;
        self.rest = self.rest.trim_ascii_start();
        Ok(Some((key, value)))
    }

    fn punctuation(&mut self, mark: u8) -> Result<(), LineError> {
        let rest = self.rest.trim_ascii_start();
        let rest = rest.strip_prefix(&[mark]).ok_or_else(form)?;
        self.rest = rest.trim_ascii_start();
        Ok(())
    }

    fn quoted(&mut self) -> Result<&'a [u8], LineError> {
        let rest = self.rest.strip_prefix(b"\"").ok_or_else(form)?;
        let end = rest.iter().position(|&byte| byte == b'"');
        let (value, rest) = rest.split_at(end.ok_or_else(form)?);
        self.rest = rest.get(1..).unwrap_or_default();
        Ok(value)
    }
}

/// Creates the error only when it is needed: a `LineError` has to be dropped, and a line
/// has thirty places where one could occur.
#[cold]
fn form() -> LineError {
    LineError::Form
}

fn number<T: TryFrom<i64>>(key: &'static str, value: &[u8]) -> Result<T, LineError> {
    let parsed = integer(value).and_then(|number| T::try_from(number).ok());
    parsed.ok_or_else(|| LineError::Number {
        key,
        value: String::from_utf8_lossy(value).into_owned(),
    })
}

fn integer(text: &[u8]) -> Option<i64> {
    let (digits, sign) = match text.strip_prefix(b"-") {
        Some(digits) => (digits, -1),
        None => (text, 1),
    };
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0, |number: i64, &byte| {
        let digit = byte.wrapping_sub(b'0');
        let ten_times = number.checked_mul(10).filter(|_| digit < 10)?;
        ten_times.checked_add(sign * i64::from(digit))
    })
}

/// Parses a size in bytes, or -1; pg_probackup writes no other negative number.
fn size(value: &[u8]) -> Result<i64, LineError> {
    match number("size", value)? {
        size if size >= -1 => Ok(size),
        size => Err(LineError::Number {
            key: "size",
            value: size.to_string(),
        }),
    }
}

/// Parses a count, for which some versions write -1 to mean "not known".
fn count(key: &'static str, value: &[u8]) -> Result<u32, LineError> {
    match value {
        b"-1" => Ok(0),
        _ => number(key, value),
    }
}

fn flag(key: &'static str, value: &[u8]) -> Result<bool, LineError> {
    number(key, value).map(|flag: i64| flag != 0)
}

fn codec(value: &[u8]) -> Result<CompressAlg, LineError> {
    let text = String::from_utf8_lossy(value);
    text.parse()
        .map_err(|_| LineError::Codec(text.into_owned()))
}

/// Checks that a path cannot lead out of the directory that it is joined to.
fn plain_path(path: &[u8]) -> Result<&[u8], LineError> {
    let plain = path.len() < PATH_MAX
        && !path.contains(&0)
        && path
            .split(|&byte| byte == b'/')
            .all(|part| part.len() <= NAME_MAX && !matches!(part, b"" | b"." | b".."));
    match plain {
        true => Ok(path),
        false => Err(LineError::Path(String::from_utf8_lossy(path).into_owned())),
    }
}
