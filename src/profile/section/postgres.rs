//! The section `[postgres]`: how PostgreSQL is run.

use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::ops::Deref;
use std::path::PathBuf;

use schemars::{JsonSchema, Schema, json_schema};
use serde::{Deserialize, Serialize};
use toml::Value;

use crate::profile::error::ProfileError;
use crate::profile::values::{FromValue, Seconds, from_value};

section! {
    /// The keys of the section `[postgres]`.
    pub struct PostgresPlan {
        /// Whether to start PostgreSQL on the mount; false only mounts.
        #[schemars(example = false)]
        pub launch: bool = true,

        /// Directory of the postgres program.
        ///
        /// Default: found by the backup's major version
        #[schemars(extend("format" = "path"), example = "/usr/lib/postgresql/15/bin")]
        pub bin_dir: Option<PathBuf>,

        /// PostgreSQL's port, which also names its socket.
        ///
        /// Default: a free one
        #[schemars(example = 5433)]
        pub port: Option<Port>,

        /// Operating-system user for PostgreSQL when pbkfs runs as root.
        #[schemars(title = "operating-system user", example = &"postgres")]
        pub user: String = "postgres".to_owned(),

        /// Database role that pbkfs connects as, normally the cluster's first superuser.
        #[schemars(title = "database role", example = &"postgres")]
        pub role: String = "postgres".to_owned(),

        /// Time limit for PostgreSQL's start, recovery included, until it answers a query.
        #[schemars(example = 300)]
        pub start_timeout: Seconds = Seconds::new(300),

        /// Time limit for a shutdown before a more forceful one follows.
        #[schemars(example = 60)]
        pub stop_timeout: Seconds = Seconds::new(60),

        /// Directory of PostgreSQL's Unix socket.
        ///
        /// Default: a directory created by pbkfs
        #[schemars(extend("format" = "path"), example = "/run/pbkfs")]
        pub socket_dir: Option<PathBuf>,

        /// PostgreSQL settings for the clone. Those that isolate it from production
        /// (archiving, replication, listen_addresses and others) also require fence.allow.
        /// Those that pbkfs merely chooses, which pbkfs plan lists, do not. One of these is
        /// fsync, which is off without a diff_dir, because nothing of such a clone survives
        /// a crash.
        ///
        /// Default: none
        #[schemars(
            title = "a table of text, numbers and booleans",
            extend("examples" = [{ "shared_buffers": "256MB", "work_mem": "64MB" }])
        )]
        pub settings: Settings,
    }
}

impl PostgresPlan {
    pub(in crate::profile) fn check(&self) -> Result<(), ProfileError> {
        plain_name("postgres.user", &self.user)?;
        plain_name("postgres.role", &self.role)
    }
}

/// Checks the name of a user or role. It is written to `pg_ident.conf`, where a
/// leading slash makes it a pattern and a line break starts another entry.
fn plain_name(key: &'static str, name: &str) -> Result<(), ProfileError> {
    if name.is_empty() || name.starts_with('/') || name.chars().any(char::is_control) {
        let reason = format!("{name:?} cannot be used as a name here");
        return Err(ProfileError::wrong(key, reason));
    }
    Ok(())
}

/// A TCP port, 1 to 65535; also part of the name of PostgreSQL's socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Port(NonZeroU16);

impl Port {
    /// Returns the port with that number; `None` for 0.
    #[must_use]
    pub fn new(number: u16) -> Option<Self> {
        NonZeroU16::new(number).map(Self)
    }

    /// Returns the port's number.
    #[must_use]
    pub fn get(self) -> u16 {
        self.0.get()
    }
}

from_value!(Port, SettingValue);

impl FromValue for Port {
    const EXPECTED: &'static str = "a port from 1 to 65535";

    fn schema() -> Schema {
        json_schema!({ "type": "integer", "minimum": 1, "maximum": 65535 })
    }

    fn from_value(value: &Value) -> Option<Self> {
        u16::try_from(value.as_integer()?).ok().and_then(Self::new)
    }
}

/// PostgreSQL settings by lower-case name, each value as text. Names are
/// case-insensitive in PostgreSQL. An extension's `name.of.it` may be quoted
/// or written as nested tables.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(from = "BTreeMap<String, SettingValue>")]
pub struct Settings(BTreeMap<String, String>);

impl Deref for Settings {
    type Target = BTreeMap<String, String>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl From<BTreeMap<String, SettingValue>> for Settings {
    fn from(written: BTreeMap<String, SettingValue>) -> Self {
        let settings = written.into_iter().flat_map(|(name, value)| {
            let name = name.to_ascii_lowercase();
            match value {
                SettingValue::Text(text) => vec![(name, text)],
                SettingValue::Below(Settings(settings)) => {
                    let below = settings.into_iter();
                    below
                        .map(|(rest, text)| (format!("{name}.{rest}"), text))
                        .collect()
                }
            }
        });
        Self(settings.collect())
    }
}

/// The value of a name, or the settings whose names begin with it.
#[derive(Debug)]
enum SettingValue {
    Text(String),
    Below(Settings),
}

impl FromValue for SettingValue {
    const EXPECTED: &'static str = "text, a number or a boolean";

    fn schema() -> Schema {
        json_schema!({ "type": ["string", "number", "boolean", "object"] })
    }

    fn from_value(value: &Value) -> Option<Self> {
        Some(Self::Text(match value {
            Value::String(text) => text.clone(),
            Value::Boolean(flag) => (if *flag { "on" } else { "off" }).to_owned(),
            Value::Integer(number) => number.to_string(),
            Value::Float(number) => number.to_string(),
            Value::Table(table) => {
                return Settings::deserialize(table.clone()).ok().map(Self::Below);
            }
            Value::Datetime(_) | Value::Array(_) => return None,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(nested.get("cron.use").map(String::as_str), Some("1"));
    }
}
