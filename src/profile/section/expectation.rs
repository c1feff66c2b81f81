//! The expected answer to a query of a verification.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::{self, Deserializer};
use toml::Value;

/// A comparison of two values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// `=`
    Equal,
    /// `<>` or `!=`
    Unequal,
    /// `<`
    Less,
    /// `<=`
    AtMost,
    /// `>`
    Greater,
    /// `>=`
    AtLeast,
}

impl fmt::Display for Comparison {
    /// Formats it as its operator in SQL.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Equal => "=",
            Self::Unequal => "<>",
            Self::Less => "<",
            Self::AtMost => "<=",
            Self::Greater => ">",
            Self::AtLeast => ">=",
        })
    }
}

impl Comparison {
    /// Returns the comparison that a text begins with, and the rest of the text.
    fn split(text: &str) -> Option<(Self, &str)> {
        // The longer ones first.
        const ALL: [(&str, Comparison); 7] = [
            ("<=", Comparison::AtMost),
            (">=", Comparison::AtLeast),
            ("<>", Comparison::Unequal),
            ("!=", Comparison::Unequal),
            ("=", Comparison::Equal),
            ("<", Comparison::Less),
            (">", Comparison::Greater),
        ];
        let found = |(sign, comparison): &(&str, Self)| {
            let rest = text.strip_prefix(sign)?.trim();
            (!rest.is_empty()).then_some((*comparison, rest))
        };
        ALL.iter().find_map(found)
    }
}

/// The expected answer to a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expectation {
    /// This text, as `psql -At` prints it.
    Text(String),
    /// A number for which the comparison with this one holds.
    Number(Comparison, String),
    /// A time for which the comparison of its age with this interval holds.
    Age(Comparison, String),
}

impl FromStr for Expectation {
    type Err = String;

    /// Parses an expectation. A text that begins like a condition but is none is an
    /// error: it would never be met, so the backup would be reported as bad.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let trimmed = text.trim();
        let age = trimmed.strip_prefix("age").map(str::trim_start);
        if let Some((comparison, interval)) = age.and_then(Comparison::split) {
            return match is_interval(interval) {
                true => Ok(Self::Age(comparison, interval.to_owned())),
                false => Err(format!(
                    "{text:?} does not end with an interval such as \"1 day\" or \"02:30\""
                )),
            };
        }
        match Comparison::split(trimmed) {
            Some((comparison, number)) if is_number(number) => {
                Ok(Self::Number(comparison, number.to_owned()))
            }
            None if !trimmed.starts_with(['<', '>', '=', '!']) => Ok(Self::Text(text.to_owned())),
            _ => Err(format!(
                "{text:?} is not a comparison with a number; compare texts that begin like this \
                 in the query itself"
            )),
        }
    }
}

/// Returns whether PostgreSQL's numeric accepts the text.
fn is_number(text: &str) -> bool {
    text.parse::<f64>().is_ok_and(f64::is_finite)
}

/// Returns whether the text is an interval: pairs of a number and a unit, with or without a
/// time of day, or ISO 8601
/// (<https://www.postgresql.org/docs/current/datatype-datetime.html#DATATYPE-INTERVAL-INPUT>).
fn is_interval(text: &str) -> bool {
    const UNITS: &str = "us usec microsecond ms msec millisecond s sec second m min minute \
        h hr hour d day w week mon month y yr year dec decade c century millennium";
    let is_unit = |word: &str| {
        let word = word.to_ascii_lowercase();
        UNITS
            .split(' ')
            .any(|unit| word == unit || word.strip_suffix('s') == Some(unit))
            || ["centuries", "millennia"].contains(&word.as_str())
    };
    let is_time =
        |word: &str| word.contains(':') && word.split(':').all(|part| part.parse::<f64>().is_ok());
    if let Some(rest) = text.strip_prefix('P') {
        return !rest.is_empty() && rest.chars().all(|c| c.is_ascii_alphanumeric() || c == '.');
    }
    let mut words = text.split_ascii_whitespace().peekable();
    let mut any = false;
    while let Some(word) = words.next() {
        let digits = word.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit = word.strip_prefix(digits).unwrap_or_default();
        let is_right = match unit.is_empty() {
            _ if is_time(word) => true,
            true => is_number(word) && words.next().is_some_and(is_unit),
            false => is_number(digits) && is_unit(unit),
        };
        if !is_right {
            return false;
        }
        any = true;
    }
    any
}

impl fmt::Display for Expectation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Number(comparison, number) => write!(f, "{comparison} {number}"),
            Self::Age(comparison, interval) => write!(f, "age {comparison} {interval}"),
        }
    }
}

impl<'de> Deserialize<'de> for Expectation {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = match Value::deserialize(deserializer)? {
            Value::String(text) => text,
            value @ (Value::Integer(_) | Value::Float(_) | Value::Boolean(_)) => value.to_string(),
            value => {
                let reason = format!("expected text, a number or a condition, not {value}");
                return Err(de::Error::custom(reason));
            }
        };
        text.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for Expectation {
    fn schema_name() -> Cow<'static, str> {
        "Expectation".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["string", "number", "boolean"] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expectations_are_conditions_or_text() {
        let read = |text: &str| text.parse::<Expectation>().unwrap();
        let number = |c, text: &str| Expectation::Number(c, text.to_owned());
        assert_eq!(read("> 0"), number(Comparison::Greater, "0"));
        assert_eq!(read(">=-1.5"), number(Comparison::AtLeast, "-1.5"));
        assert_eq!(read("<> 3"), number(Comparison::Unequal, "3"));
        let age = Expectation::Age(Comparison::Less, "1 day".into());
        assert_eq!(read("age < 1 day"), age);
        for text in ["", "5", "-1", "age", "ages < 1", "a > b", "a|b\nc|d"] {
            assert_eq!(read(text), Expectation::Text(text.to_owned()), "{text}");
        }
        for text in [
            "age < 1 day",
            "age < 1.5 days",
            "age <= 2 weeks 3 h",
            "age < 26h",
            "age < 02:30",
            "age < 1 mon -2 days",
            "age < P1DT2H",
        ] {
            assert!(matches!(read(text), Expectation::Age(..)), "{text}");
        }
        for text in ["> 0", "age < 1 day", "x", "<> 7"] {
            assert_eq!(read(text).to_string(), text);
        }
    }

    /// None of these could be met; the backup would be reported as bad.
    #[test]
    fn what_begins_as_a_condition_and_is_none_is_refused() {
        for text in [
            ">> 0",
            "> many",
            ">",
            "=> 1",
            "== x",
            "!3",
            "<none>",
            "> inf",
            "age < banana",
            "age < 1",
            "age < day",
            "age > 1 daay",
        ] {
            let said = text.parse::<Expectation>().unwrap_err();
            assert!(said.contains(text), "{said}");
        }
    }
}
