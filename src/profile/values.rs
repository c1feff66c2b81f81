//! The forms of a profile's values, and the types that several sections share.

use std::borrow::Cow;
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserializer};
use serde::{Deserialize, Serialize, Serializer};
use toml::Value;

use crate::catalog::{BackupRef, Location};

/// A value that may be written in several forms, or that has bounds.
pub(super) trait FromValue: Sized {
    /// What it accepts, in the words of errors and of the manual page.
    const EXPECTED: &'static str;

    /// Returns the same as a JSON schema, for editors and for converting text to a
    /// value.
    fn schema() -> Schema;

    /// Converts a TOML value, if it is a valid one.
    fn from_value(value: &Value) -> Option<Self>;

    /// Returns the message that a value is not valid.
    fn refused(value: impl fmt::Display) -> String {
        format!("expected {}, not {value}", Self::EXPECTED)
    }

    /// Implements [`Deserialize::deserialize`] for such a type.
    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        Self::from_value(&value).ok_or_else(|| de::Error::custom(Self::refused(&value)))
    }
}

/// Implements the traits of serde and schemars through [`FromValue`].
macro_rules! from_value {
    ($($type:ident),+) => { $(
        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                $crate::profile::values::FromValue::read(deserializer)
            }
        }

        impl schemars::JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                use $crate::profile::values::FromValue;
                let mut schema = <Self as FromValue>::schema();
                schema.insert("title".to_owned(), <Self as FromValue>::EXPECTED.into());
                schema
            }
        }
    )+ };
}
pub(super) use from_value;

/// Returns a whole number within bounds.
pub(super) fn whole<T: TryFrom<i64>>(value: &Value, bounds: RangeInclusive<i64>) -> Option<T> {
    let number = value.as_integer().filter(|n| bounds.contains(n))?;
    T::try_from(number).ok()
}

from_value!(BackupRef, Seconds, ByteSize);

impl Serialize for BackupRef {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl FromValue for BackupRef {
    const EXPECTED: &'static str = "\"latest\" or a backup id";

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^[A-Za-z0-9]+$" })
    }

    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::String(text) => text.parse().ok(),
            // An id may consist of digits only, and is then easily left unquoted.
            Value::Integer(id) => id.to_string().parse().ok(),
            _ => None,
        }
    }
}

impl Serialize for Location {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.name().to_str() {
            Some(text) => serializer.serialize_str(text),
            None => Err(serde::ser::Error::custom("the path is not valid UTF-8")),
        }
    }
}

impl<'de> Deserialize<'de> for Location {
    /// An error does not repeat the text: a URL may have a password.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for Location {
    fn schema_name() -> Cow<'static, str> {
        "Location".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "title": "path or URL" })
    }
}

/// A whole number of seconds, at least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seconds(pub Duration);

impl Seconds {
    /// A day is more than any of the timeouts needs, and keeps sums of deadlines far
    /// from any overflow.
    const MOST: i64 = 86_400;

    /// Creates a duration of `seconds`.
    #[must_use]
    pub const fn new(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }
}

impl Serialize for Seconds {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.as_secs().serialize(serializer)
    }
}

impl FromValue for Seconds {
    const EXPECTED: &'static str = "a number of seconds from 1 to 86400";

    fn schema() -> Schema {
        json_schema!({ "type": "integer", "minimum": 1, "maximum": Self::MOST })
    }

    fn from_value(value: &Value) -> Option<Self> {
        whole(value, 1..=Self::MOST).map(Self::new)
    }
}

/// A number of bytes, written as such or with PostgreSQL's units (powers of
/// 1024): `B`, `kB`, `MB`, `GB`, `TB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteSize(pub u64);

impl ByteSize {
    /// The units for printing a size, and their shifts.
    const UNITS: [(&'static str, u32); 4] = [("TB", 40), ("GB", 30), ("MB", 20), ("kB", 10)];

    /// Creates a size of `number` megabytes.
    #[must_use]
    pub const fn megabytes(number: u32) -> Self {
        Self((number as u64) << 20)
    }
}

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || Self::refused(format!("\"{text}\""));
        let text = text.trim();
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let shift = match unit.trim_start() {
            "" | "B" => 0,
            "kB" | "KB" => 10,
            "MB" => 20,
            "GB" => 30,
            "TB" => 40,
            _ => return Err(wrong()),
        };
        let number: u64 = number.parse().map_err(|_| wrong())?;
        number.checked_mul(1 << shift).map(Self).ok_or_else(wrong)
    }
}

impl Serialize for ByteSize {
    /// Uses the largest unit that leaves no remainder.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let is_whole = |shift: u32| self.0 != 0 && self.0.trailing_zeros() >= shift;
        match Self::UNITS.into_iter().find(|(_, shift)| is_whole(*shift)) {
            Some((unit, shift)) => {
                serializer.collect_str(&format_args!("{}{unit}", self.0 >> shift))
            }
            None => self.0.serialize(serializer),
        }
    }
}

impl FromValue for ByteSize {
    const EXPECTED: &'static str = "bytes, or text such as \"256MB\"";

    fn schema() -> Schema {
        json_schema!({
            "type": ["integer", "string"],
            "minimum": 0,
            "pattern": "^\\s*[0-9]+\\s*(B|kB|KB|MB|GB|TB)?\\s*$"
        })
    }

    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Integer(number) => u64::try_from(*number).ok().map(Self),
            Value::String(text) => text.parse().ok(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::BackupId;

    #[test]
    fn sizes_use_postgresql_units() {
        for (text, bytes) in [
            ("0", 0),
            ("8192", 8192),
            ("64kB", 65_536),
            ("256MB", 268_435_456),
            ("2 GB", 1 << 31),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
        for text in ["", "MB", "1.5GB", "-1", "12parsecs", "99999999999999TB"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_backup_is_latest_or_an_id_in_any_case_with_or_without_quotes() {
        let id = |text: &str| Some(BackupRef::Id(BackupId(text.to_owned())));
        assert_eq!(
            BackupRef::from_value(&"latest".into()),
            Some(BackupRef::Latest)
        );
        assert_eq!(BackupRef::from_value(&"sbol8s".into()), id("SBOL8S"));
        assert_eq!(BackupRef::from_value(&123_456.into()), id("123456"));
        for text in ["", "../SBOL8S", "SBOL8S "] {
            assert_eq!(BackupRef::from_value(&text.into()), None, "{text}");
        }
        assert_eq!(BackupRef::from_value(&1.5.into()), None);
    }

    #[test]
    fn a_size_is_printed_as_it_is_read() {
        for (bytes, text) in [
            (0, "0"),
            (1000, "1000"),
            (8192, "\"8kB\""),
            (256 << 20, "\"256MB\""),
            (1 << 30, "\"1GB\""),
            (3 << 40, "\"3TB\""),
        ] {
            let value = Value::try_from(ByteSize(bytes)).unwrap();
            assert_eq!(value.to_string(), text);
            assert_eq!(ByteSize::from_value(&value), Some(ByteSize(bytes)));
        }
    }
}
