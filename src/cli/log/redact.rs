//! Keeps secrets out of logs: passwords in connection strings, in settings and in
//! URLs, anywhere in a line.
//!
//! When in doubt, too much is masked rather than too little: an unquoted value ends
//! only at whitespace, and a value whose quotes never close extends to the end of the
//! text.

use std::borrow::Cow;
use std::ops::Range;

/// The replacement for a secret.
pub const MASK: &str = "***";

/// The endings of the names of secrets: libpq's `password` and `sslpassword`,
/// `PGPASSWORD`, and the like.
const NAMES: [&str; 3] = ["password", "passwd", "passphrase"];

/// Returns whether a field of that name contains a secret.
pub fn is_secret_name(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    NAMES.iter().any(|secret| name.ends_with(secret))
}

/// Returns the text with each secret replaced by `***`.
pub fn redact(text: &str) -> Cow<'_, str> {
    let mut secrets = assigned(text);
    secrets.extend(in_urls(text));
    secrets.sort_by_key(|secret| secret.start);
    let mut clean = String::new();
    let mut done = 0;
    for secret in secrets {
        // It is within another one, which is masked already.
        if secret.end <= done {
            continue;
        }
        clean.push_str(text.get(done..secret.start).unwrap_or_default());
        clean.push_str(MASK);
        done = secret.end;
    }
    if done == 0 {
        return text.into();
    }
    clean.push_str(text.get(done..).unwrap_or_default());
    clean.into()
}

/// Returns the ranges of the values of `password=...` and `"password": ...`.
fn assigned(text: &str) -> Vec<Range<usize>> {
    // The length is the same, because only ASCII letters change.
    let lower = text.to_ascii_lowercase();
    let mut found = Vec::new();
    for name in NAMES {
        for (at, _) in lower.match_indices(name) {
            let end = at + name.len();
            let rest = text.get(end..).unwrap_or_default();
            found.extend(value_after(rest).map(|value| end + value.start..end + value.end));
        }
    }
    found
}

/// Returns the range of a value in the text that follows its name.
fn value_after(text: &str) -> Option<Range<usize>> {
    let rest = text.trim_start_matches(['"', '\'', '\\']);
    let rest = skip_blank(rest).strip_prefix(['=', ':'])?;
    let value = skip_blank(rest);
    let start = text.len() - value.len();
    let (opening, length) = length(value);
    (length > 0).then(|| start + opening..start + opening + length)
}

/// Skips whitespace, escaped or not, and the colour sequences of a terminal.
fn skip_blank(mut text: &str) -> &str {
    loop {
        text = text.trim_start_matches([' ', '\t', '\n', '\r']);
        let escaped = ["\\t", "\\n", "\\r"];
        if let Some(rest) = escaped.iter().find_map(|blank| text.strip_prefix(blank)) {
            text = rest;
            continue;
        }
        let Some(sequence) = text.strip_prefix("\x1b[") else {
            return text;
        };
        let Some(end) = sequence.find('m') else {
            return text;
        };
        text = sequence.get(end + 1..).unwrap_or_default();
    }
}

/// Returns the lengths of a value's opening quote and of the value itself.
fn length(value: &str) -> (usize, usize) {
    // Quotes are doubled within strings of SQL and of configuration files, and
    // escaped within those of programs.
    for quote in ["''", "\\'", "\\\"", "'", "\""] {
        let Some(inner) = value.strip_prefix(quote) else {
            continue;
        };
        let is_empty = quote == "''" && (inner.is_empty() || inner.starts_with([' ', '\n']));
        if is_empty {
            return (0, 0);
        }
        return (quote.len(), closing(inner, quote).unwrap_or(inner.len()));
    }
    (0, unquoted(value))
}

fn closing(inner: &str, quote: &str) -> Option<usize> {
    if quote.len() == 2 {
        return inner.find(quote);
    }
    let mut rest = inner;
    loop {
        if let Some(after) = rest.strip_prefix(quote) {
            // A doubled quote stands for itself.
            match after.strip_prefix(quote) {
                Some(more) => rest = more,
                None => return Some(inner.len() - rest.len()),
            }
        } else {
            // So does an escaped character.
            let mut chars = rest.strip_prefix('\\').unwrap_or(rest).chars();
            chars.next()?;
            rest = chars.as_str();
        }
    }
}

/// Returns the length up to whitespace without a preceding backslash.
fn unquoted(value: &str) -> usize {
    let mut escaped = false;
    for (at, char) in value.char_indices() {
        if char.is_whitespace() && !escaped {
            return at;
        }
        escaped = char == '\\' && !escaped;
    }
    value.len()
}

/// Returns the ranges of the passwords in `scheme://user:password@host`.
fn in_urls(text: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    for (at, separator) in text.match_indices("://") {
        let start = at + separator.len();
        let rest = text.get(start..).unwrap_or_default();
        let url = rest.split(char::is_whitespace).next().unwrap_or_default();
        // Up to the last "@", because a password may contain one, and a slash.
        if let Some(at) = url.rfind('@')
            && let Some(colon) = url.get(..at).and_then(|user| user.find(':'))
            && colon + 1 < at
        {
            found.push(start + colon + 1..start + at);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_masked() {
        for (text, clean) in [
            (
                "host=h password=secret user=u",
                "host=h password=*** user=u",
            ),
            ("password = 'se cret' user=u", "password = '***' user=u"),
            (r"password='se\'cret x' port=1", "password='***' port=1"),
            ("password='se''cret' port=1", "password='***' port=1"),
            (r"password=se\ cret port=1", "password=*** port=1"),
            ("password=se,c;r'e\"t&x port=1", "password=*** port=1"),
            ("password='never closed secret", "password='***"),
            ("PGPASSWORD=secret psql", "PGPASSWORD=*** psql"),
            ("sslpassword=secret", "sslpassword=***"),
            (
                "primary_conninfo = 'host=h password=''se cret'' port=1'",
                "primary_conninfo = 'host=h password=''***'' port=1'",
            ),
            (
                r#"set: "host=h password=\"se cret\" x""#,
                r#"set: "host=h password=\"***\" x""#,
            ),
            (
                r#"{"password":"secret","n":1}"#,
                r#"{"password":"***","n":1}"#,
            ),
            (
                "at postgres://u:s@e/cret@h:5432/db and on",
                "at postgres://u:***@h:5432/db and on",
            ),
            (
                "postgresql://u@h/db?password=secret",
                "postgresql://u@h/db?password=***",
            ),
            (
                "\x1b[3mpassword\x1b[0m\x1b[2m=\x1b[0m\"secret\" on",
                "\x1b[3mpassword\x1b[0m\x1b[2m=\x1b[0m\"***\" on",
            ),
            (r"password =\t\n secret on", r"password =\t\n *** on"),
            ("password =\n secret on", "password =\n *** on"),
            ("пароль: password=тайна конец", "пароль: password=*** конец"),
        ] {
            assert_eq!(redact(text), clean);
            assert_eq!(redact(clean), clean, "masking again changes nothing");
        }
    }

    #[test]
    fn what_is_no_secret_stays() {
        for text in [
            "FATAL: password authentication failed for user \"u\"",
            "password_encryption = scram-sha-256",
            "see https://example.org:443/password",
            "a mail to dba@example.org",
            "password=",
            "password='' port=1",
            "",
        ] {
            assert!(matches!(redact(text), Cow::Borrowed(_)), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_taken(text in "\\PC*", secret in "[a-zA-Z0-9]{12,20}") {
            let _ = redact(&text);
            let line = format!("{text} password='{secret}' end");
            let clean = redact(&line);
            proptest::prop_assert!(!clean.contains(&secret), "{}", clean);
        }
    }
}
