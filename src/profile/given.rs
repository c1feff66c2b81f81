//! What somebody gave, and where it is from.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{self, Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use toml::{Table, Value};

use super::error::ProfileError;
use super::keys::{self, SETTINGS};
use super::plan::Plan;
use super::section::recovery::{MomentText, TARGETS};

/// A value that somebody gave to a key.
#[derive(Debug, Clone, PartialEq)]
pub struct Given {
    /// The value as it was written; a path is absolute.
    pub value: Value,
    /// Where it is from.
    pub origin: Origin,
}

/// Where a value is from. As text it is the place that an error names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A file of settings.
    File {
        /// The file.
        path: PathBuf,
        /// The line of the key in it, from 1.
        line: usize,
    },
    /// The environment variable of that name.
    Variable(String),
    /// The argument of `--set`.
    Set(String),
    /// That flag of the command, or what the command knows by itself.
    Command(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Variable(name) => write!(f, "environment variable {name}"),
            Self::Set(argument) => write!(f, "--set {argument}"),
            Self::Command(what) => f.write_str(what),
        }
    }
}

/// What somebody gave, by dotted key: one layer of settings, or several merged. Each
/// PostgreSQL setting is a key of its own, by its lower-case name.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Profile {
    given: BTreeMap<String, Given>,
}

impl Profile {
    /// Takes over what a later layer has.
    pub(super) fn extend(&mut self, layer: Self) {
        self.given.extend(layer.given);
    }

    /// Has relative paths start at a directory.
    pub(super) fn make_absolute(&mut self, base: &Path) -> Result<(), ProfileError> {
        for (key, given) in &mut self.given {
            let is_path = keys::find(key).is_some_and(|known| known.is_path);
            let Some(written) = given.value.as_str().filter(|_| is_path).map(Path::new) else {
                continue;
            };
            let is_command = key == "pg_probackup" && written.components().count() == 1;
            if !is_command || written.is_absolute() {
                given.value = absolute(key, &base.join(written), written, &given.origin)?;
            }
        }
        Ok(())
    }

    /// Whether nobody gave anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.given.is_empty()
    }

    /// What was given to a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Given> {
        self.given.get(key)
    }

    /// The value of a key, if one was given.
    #[must_use]
    pub fn value<T: DeserializeOwned>(&self, key: &str) -> Option<T> {
        let value = self.given.get(key)?.value.clone();
        T::deserialize(value).ok()
    }

    /// The PostgreSQL settings that were given, each by its dotted key.
    pub fn settings(&self) -> impl Iterator<Item = (&str, &Given)> {
        let all = self.given.iter().map(|(key, given)| (key.as_str(), given));
        all.filter(|(key, _)| keys::setting(key).is_some())
    }

    /// Gives a key a value. A table of PostgreSQL settings is as many keys.
    pub fn set(&mut self, key: &str, value: impl Into<Value>, origin: Origin) {
        match value.into() {
            Value::Table(settings) if keys::setting(key).is_some() => {
                for (name, value) in settings {
                    self.set(&format!("{key}.{name}"), value, origin.clone());
                }
            }
            value => {
                let given = Given { value, origin };
                self.given.insert(key.to_ascii_lowercase(), given);
            }
        }
    }

    /// The same with a path, which is made absolute.
    ///
    /// # Errors
    /// It is empty or not UTF-8, or there is no working directory.
    pub fn set_path(&mut self, key: &str, path: &Path, origin: Origin) -> Result<(), ProfileError> {
        let value = absolute(key, path, path, &origin)?;
        self.set(key, value, origin);
        Ok(())
    }

    /// Forgets what was given to a key.
    pub fn unset(&mut self, key: &str) {
        self.given.remove(key);
    }

    /// Replaces whatever recovery target was given by a time.
    pub fn recover_to(&mut self, time: MomentText, origin: Origin) {
        for key in TARGETS {
            self.unset(key);
        }
        self.set("recovery.time", time.to_string(), origin);
    }

    /// What was given, over the defaults, with its types, and checked.
    ///
    /// # Errors
    /// The first key that is missing, or the first values that cannot go together.
    pub fn plan(&self) -> Result<Plan, ProfileError> {
        let is_missing = |key: &&keys::Key| key.is_required && self.get(&key.path).is_none();
        if let Some(key) = keys::keys().find(is_missing) {
            return Err(ProfileError::Missing {
                key: &key.path,
                help: key.help.trim_end_matches('.').to_owned(),
            });
        }
        let plan = self.typed()?;
        plan.check().map_err(|error| self.with_place(error))?;
        Ok(plan)
    }

    /// What was given, over the defaults, with its types.
    pub(super) fn typed(&self) -> Result<Plan, ProfileError> {
        Plan::deserialize(self.to_table()).map_err(|error| {
            let is_wrong = |(key, given): &(&String, &Given)| {
                let given = BTreeMap::from([((*key).clone(), (*given).clone())]);
                Plan::deserialize(Self { given }.to_table()).is_err()
            };
            let wrong = self.given.iter().find(is_wrong);
            let key = wrong.map_or("", |(key, _)| key);
            self.with_place(ProfileError::wrong(key, error.message()))
        })
    }

    /// As a file would have it.
    fn to_table(&self) -> Table {
        let mut table = Table::new();
        for (key, given) in &self.given {
            let (section, name) = match keys::setting(key) {
                Some(name) => (SETTINGS, name),
                None => key.rsplit_once('.').unwrap_or(("", key)),
            };
            put(&mut table, section, name, given.value.clone());
        }
        table
    }

    /// Adds to an error where its value is from.
    fn with_place(&self, mut error: ProfileError) -> ProfileError {
        if let ProfileError::Value { place, key, .. } = &mut error
            && let Some(given) = self.given.get(key)
        {
            *place = given.origin.to_string();
        }
        error
    }
}

/// Puts a value into a table of a table, which is made.
fn put(table: &mut Table, section: &str, name: &str, value: Value) {
    let (first, rest) = section.split_once('.').unwrap_or((section, ""));
    if first.is_empty() {
        table.insert(name.to_owned(), value);
    } else if let Value::Table(inner) = table.entry(first).or_insert_with(|| Table::new().into()) {
        put(inner, rest, name, value);
    }
}

/// The path as a value. `written` is what the user wrote of it.
fn absolute(
    key: &str,
    path: &Path,
    written: &Path,
    origin: &Origin,
) -> Result<Value, ProfileError> {
    let wrong = |reason: &str| ProfileError::Value {
        place: origin.to_string(),
        key: key.to_owned(),
        reason: reason.to_owned(),
    };
    if written.as_os_str().is_empty() {
        return Err(wrong("the path is empty"));
    }
    let absolute = path::absolute(path).map_err(|source| ProfileError::WorkingDirectory {
        path: path.to_owned(),
        source,
    })?;
    let text = absolute.to_str().map(Value::from);
    text.ok_or_else(|| wrong("the path is not valid UTF-8"))
}
