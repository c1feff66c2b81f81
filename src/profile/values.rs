//! The types of a profile's values, each with the forms it may be written in.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU16;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};

/// A value of TOML, the environment or `--set`, before it has a type.
pub(super) enum Node {
    Flag(bool),
    Integer(i64),
    Float(f64),
    Text(String),
    Table(BTreeMap<String, Node>),
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NodeVisitor;
        impl<'de> Visitor<'de> for NodeVisitor {
            type Value = Node;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text, a number or a boolean")
            }
            fn visit_bool<E: de::Error>(self, value: bool) -> Result<Node, E> {
                Ok(Node::Flag(value))
            }
            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Node, E> {
                Ok(Node::Integer(value))
            }
            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Node, E> {
                i64::try_from(value).map(Node::Integer).map_err(E::custom)
            }
            fn visit_f64<E: de::Error>(self, value: f64) -> Result<Node, E> {
                Ok(Node::Float(value))
            }
            fn visit_str<E: de::Error>(self, value: &str) -> Result<Node, E> {
                Ok(Node::Text(value.to_owned()))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
                let mut table = BTreeMap::new();
                while let Some((name, value)) = map.next_entry()? {
                    table.insert(name, value);
                }
                Ok(Node::Table(table))
            }
        }
        deserializer.deserialize_any(NodeVisitor)
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(value) => value.fmt(f),
            Self::Integer(value) => value.fmt(f),
            Self::Float(value) => value.fmt(f),
            Self::Text(value) => write!(f, "\"{value}\""),
            Self::Table(_) => f.write_str("a table"),
        }
    }
}

/// Reads a value with `accept`, and says what would have been right when it
/// takes none of it.
pub(super) fn read<'de, D: Deserializer<'de>, T>(
    deserializer: D,
    expected: &str,
    accept: impl FnOnce(&Node) -> Option<T>,
) -> Result<T, D::Error> {
    let node = Node::deserialize(deserializer)?;
    accept(&node).ok_or_else(|| de::Error::custom(format!("expected {expected}, not {node}")))
}

/// Which backup of the instance is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackupChoice {
    /// The newest that can be restored.
    Latest,
    /// The one with this id: base36, upper case.
    Id(String),
}

impl fmt::Display for BackupChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Latest => "latest",
            Self::Id(id) => id,
        })
    }
}

impl FromStr for BackupChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_id = |text: &str| {
            !text.is_empty()
                && text
                    .bytes()
                    .all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit())
        };
        match text {
            "latest" => Ok(Self::Latest),
            id if is_id(id) => Ok(Self::Id(id.to_owned())),
            _ => Err(format!(
                "expected \"latest\" or a backup id such as \"SBOL8S\" (capital letters and \
                 digits), not \"{text}\""
            )),
        }
    }
}

impl Serialize for BackupChoice {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for BackupChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Node::deserialize(deserializer)? {
            Node::Text(text) => text.parse().map_err(de::Error::custom),
            // An id may consist of digits only, and is then easily left unquoted.
            Node::Integer(id) => id.to_string().parse().map_err(de::Error::custom),
            other => Err(de::Error::custom(format!(
                "expected a backup id, not {other}"
            ))),
        }
    }
}

/// Who reads the catalog's metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MetadataSource {
    /// pg_probackup where it is found, else pbkfs itself.
    Auto,
    /// `pg_probackup show`.
    PgProbackup,
    /// pbkfs reads the control files.
    Native,
}

/// Whether the chain is locked against pg_probackup's delete and merge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockBackups {
    /// Locked; a catalog that cannot be written gives a warning.
    Auto,
    /// Locked, or it is an error.
    Always,
    /// Not locked.
    Never,
}

impl Serialize for LockBackups {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::Always => serializer.serialize_bool(true),
            Self::Never => serializer.serialize_bool(false),
        }
    }
}

impl<'de> Deserialize<'de> for LockBackups {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        read(deserializer, "\"auto\", true or false", |node| match node {
            Node::Flag(true) => Some(Self::Always),
            Node::Flag(false) => Some(Self::Never),
            Node::Text(text) if text == "auto" => Some(Self::Auto),
            _ => None,
        })
    }
}

/// Whether the kernel may serve files without asking pbkfs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passthrough {
    /// Where the kernel and the user's rights allow it.
    Auto,
    /// Never.
    Off,
}

impl Serialize for Passthrough {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::Off => serializer.serialize_bool(false),
        }
    }
}

impl<'de> Deserialize<'de> for Passthrough {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        read(deserializer, "\"auto\" or false", |node| match node {
            Node::Flag(false) => Some(Self::Off),
            Node::Text(text) if text == "auto" => Some(Self::Auto),
            _ => None,
        })
    }
}

/// A TCP port, 1 to 65535; also a part of the name of PostgreSQL's socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Port(NonZeroU16);

impl Port {
    /// The port with that number; 0 is none.
    #[must_use]
    pub fn new(number: u16) -> Option<Self> {
        NonZeroU16::new(number).map(Self)
    }

    /// The port's number.
    #[must_use]
    pub fn get(self) -> u16 {
        self.0.get()
    }
}

impl<'de> Deserialize<'de> for Port {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        read(deserializer, "a port from 1 to 65535", |node| match node {
            Node::Integer(number) => u16::try_from(*number).ok().and_then(Self::new),
            _ => None,
        })
    }
}

/// A whole number of seconds, at least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Seconds(pub u64);

impl From<Seconds> for Duration {
    fn from(seconds: Seconds) -> Self {
        Self::from_secs(seconds.0)
    }
}

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // A day is more than any of the timeouts needs, and keeps sums of
        // deadlines far from any overflow.
        read(
            deserializer,
            "a number of seconds from 1 to 86400",
            |node| match node {
                Node::Integer(number @ 1..=86_400) => u64::try_from(*number).ok().map(Self),
                _ => None,
            },
        )
    }
}

/// A number of bytes, written as such or with PostgreSQL's units (powers of
/// 1024): `B`, `kB`, `MB`, `GB`, `TB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ByteSize(pub u64);

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || format!("expected bytes, or text such as \"256MB\", not \"{text}\"");
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

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        read(
            deserializer,
            "bytes, or text such as \"256MB\"",
            |node| match node {
                Node::Integer(number) => u64::try_from(*number).ok().map(Self),
                Node::Text(text) => text.parse().ok(),
                _ => None,
            },
        )
    }
}

/// PostgreSQL settings by lower-case name, each value as text. Names are
/// case-insensitive in PostgreSQL. An extension's `name.of.it` may be quoted
/// or written as nested tables.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Settings(BTreeMap<String, String>);

impl Settings {
    /// Whether none is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The settings, sorted by name.
    #[must_use]
    pub fn as_map(&self) -> &BTreeMap<String, String> {
        &self.0
    }

    fn flatten(&mut self, prefix: &str, table: BTreeMap<String, Node>) {
        for (name, node) in table {
            let name = format!("{prefix}{}", name.to_ascii_lowercase());
            let text = match node {
                Node::Table(table) => {
                    self.flatten(&format!("{name}."), table);
                    continue;
                }
                Node::Text(text) => text,
                Node::Flag(flag) => (if flag { "on" } else { "off" }).to_owned(),
                Node::Integer(number) => number.to_string(),
                Node::Float(number) => number.to_string(),
            };
            self.0.insert(name, text);
        }
    }
}

impl FromIterator<(String, String)> for Settings {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(settings: I) -> Self {
        let lower = |(name, value): (String, String)| (name.to_ascii_lowercase(), value);
        Self(settings.into_iter().map(lower).collect())
    }
}

impl<'de> Deserialize<'de> for Settings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Node::Table(table) = Node::deserialize(deserializer)? else {
            return Err(de::Error::custom("expected a table of PostgreSQL settings"));
        };
        let mut settings = Self::default();
        settings.flatten("", table);
        Ok(settings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn backup_is_latest_or_an_id() {
        assert_eq!("latest".parse(), Ok(BackupChoice::Latest));
        assert_eq!("SBOL8S".parse(), Ok(BackupChoice::Id("SBOL8S".into())));
        for text in ["", "sbol8s", "Latest", "../SBOL8S", "SBOL8S "] {
            assert!(text.parse::<BackupChoice>().is_err(), "{text}");
        }
    }

    #[test]
    fn settings_of_extensions_may_be_nested_or_quoted() {
        let nested: Settings = toml::from_str(
            "Work_Mem = '1MB'\nfsync = false\njit_above_cost = 1.5\n[cron]\nuse = 1",
        )
        .unwrap();
        let quoted: Settings = toml::from_str(
            "work_mem = '1MB'\nfsync = 'off'\njit_above_cost = '1.5'\n'cron.use' = '1'",
        )
        .unwrap();
        assert_eq!(nested, quoted);
        assert_eq!(
            nested.as_map().get("cron.use").map(String::as_str),
            Some("1")
        );
    }
}
