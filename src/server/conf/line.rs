//! One line of a configuration file, as PostgreSQL's guc-file.l reads it.

/// The content of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// Nothing, or a comment.
    Empty,
    /// `name value` or `name = value`; the name in lower case.
    Setting(String, Vec<u8>),
    /// A syntax error to PostgreSQL.
    Wrong,
}

/// Parses one line, without its line end.
#[must_use]
pub fn parse(line: &[u8]) -> Line {
    let line = line.trim_ascii();
    if line.is_empty() || line.starts_with(b"#") {
        return Line::Empty;
    }
    setting(line).map_or(Line::Wrong, |(name, value)| Line::Setting(name, value))
}

fn setting(line: &[u8]) -> Option<(String, Vec<u8>)> {
    let end = line.iter().position(|byte| !is_of_name(*byte));
    let (name, rest) = line.split_at(end.unwrap_or(line.len()));
    let name = str::from_utf8(name).ok().filter(|name| is_name(name))?;
    let rest = rest.trim_ascii_start();
    let rest = rest
        .strip_prefix(b"=")
        .map_or(rest, <[u8]>::trim_ascii_start);
    let (value, rest) = match rest.strip_prefix(b"'") {
        Some(quoted) => unquote(quoted)?,
        None => plain(rest)?,
    };
    let rest = rest.trim_ascii_start();
    (rest.is_empty() || rest.starts_with(b"#")).then(|| (name.to_ascii_lowercase(), value))
}

fn is_of_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.') || !byte.is_ascii()
}

/// Returns whether this is a name, possibly an extension's with a dot in it.
fn is_name(name: &str) -> bool {
    let starts = |part: &str| part.starts_with(|c: char| !c.is_ascii_digit());
    name.split('.').all(starts) && name.matches('.').count() <= 1
}

/// Returns a value without quotes, and what follows it.
fn plain(rest: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let is_part = |byte: &u8| is_of_name(*byte) || matches!(byte, b'-' | b'+' | b':' | b'/');
    let end = rest.iter().position(|byte| !is_part(byte));
    let (value, rest) = rest.split_at(end.unwrap_or(rest.len()));
    (!value.is_empty()).then(|| (value.to_vec(), rest))
}

/// Returns the text up to the closing quote, and what follows the quote; `''` and a
/// backslash escape as in PostgreSQL's `DeescapeQuotedString`. `None` if the quote is
/// never closed.
fn unquote(quoted: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut value = Vec::new();
    let mut rest = quoted;
    loop {
        let (&byte, behind) = rest.split_first()?;
        rest = behind;
        match byte {
            b'\'' => match rest.strip_prefix(b"'") {
                Some(behind) => {
                    value.push(b'\'');
                    rest = behind;
                }
                None => return Some((value, rest)),
            },
            b'\\' => {
                let (byte, behind) = escaped(rest)?;
                value.push(byte);
                rest = behind;
            }
            byte => value.push(byte),
        }
    }
}

/// Returns the byte that an escape stands for, and what follows it.
fn escaped(rest: &[u8]) -> Option<(u8, &[u8])> {
    let is_octal = |byte: &&u8| matches!(byte, b'0'..=b'7');
    let digits = rest.iter().take(3).take_while(is_octal).count();
    if digits > 0 {
        let (octal, behind) = rest.split_at(digits);
        let code = octal
            .iter()
            .fold(0_u8, |code, digit| (code << 3) | (digit - b'0'));
        return Some((code, behind));
    }
    let (&byte, behind) = rest.split_first()?;
    let meant = match byte {
        b'b' => 8,
        b'f' => 12,
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        other => other,
    };
    Some((meant, behind))
}

/// Returns a line that [`parse`] reads as that setting.
#[must_use]
pub fn write(name: &str, value: &[u8]) -> Vec<u8> {
    let mut line = format!("{name} = '").into_bytes();
    // In PostgreSQL, a value ends at a zero byte, too.
    for &byte in value.iter().take_while(|byte| **byte != 0) {
        match byte {
            b'\'' => line.extend(b"''"),
            b'\\' => line.extend(b"\\\\"),
            b'\n' => line.extend(b"\\n"),
            b'\r' => line.extend(b"\\r"),
            byte => line.push(byte),
        }
    }
    line.extend(b"'\n");
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_postgresql_reads_them() {
        for (line, name, value) in [
            ("port = 5432", "port", "5432"),
            ("  Port 5432 # comment", "port", "5432"),
            ("port=5432#x", "port", "5432"),
            ("a = 'it''s # here' # there", "a", "it's # here"),
            (r"a = 'tab\t\047 \\ \q'", "a", "tab\t' \\ q"),
            ("a = ''", "a", ""),
            ("a = -1.5", "a", "-1.5"),
            ("a 'x'\r", "a", "x"),
            (
                "pg_stat_statements.max = 100",
                "pg_stat_statements.max",
                "100",
            ),
        ] {
            let expected = Line::Setting(name.into(), value.into());
            assert_eq!(parse(line.as_bytes()), expected, "{line}");
        }
        for line in [
            "port",
            "port =",
            "a = 'open",
            "= 5",
            "a = # c",
            "a = 1 2",
            "a = b,c",
            "a.b.c = 1",
            "1a = 1",
            "a = 'x' y",
        ] {
            assert_eq!(parse(line.as_bytes()), Line::Wrong, "{line}");
        }
        for line in ["", "   ", "# port = 1"] {
            assert_eq!(parse(line.as_bytes()), Line::Empty, "{line}");
        }
    }

    #[test]
    fn every_byte_of_a_value_is_read_as_it_was_written() {
        let all: Vec<u8> = (1..=255).collect();
        let line = write("a.b", &all);
        let line = line.strip_suffix(b"\n").unwrap();
        assert!(!line.contains(&b'\n'));
        assert_eq!(parse(line), Line::Setting("a.b".into(), all));
        let octal: Vec<u8> = (0..=255_u8)
            .flat_map(|byte| format!("\\{byte:03o}").into_bytes())
            .collect();
        let line = [b"a = '", &*octal, b"'"].concat();
        assert_eq!(parse(&line), Line::Setting("a".into(), (0..=255).collect()));
    }
}
