//! The values that were set, and their origins.

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
use super::section::storage::StoragePlan;
use crate::catalog::Location;
use crate::catalog::location::is_url;

/// A value that a key was set to.
#[derive(Debug, Clone, PartialEq)]
pub struct Given {
    /// The value as it was written; a path is absolute.
    pub value: Value,
    /// Its origin.
    pub origin: Origin,
}

/// The origin of a value. As text, it is the place that an error names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A file of settings.
    File {
        /// The file.
        path: PathBuf,
        /// The line of the key in it, counted from 1.
        line: usize,
    },
    /// The environment variable of that name.
    Variable(String),
    /// The argument of `--set`.
    Set(String),
    /// That flag of the command, or what the command derives itself.
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

/// The values that were set, by dotted key: one layer of settings, or several merged.
/// Each PostgreSQL setting is a key of its own, under its lower-case name.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Profile {
    given: BTreeMap<String, Given>,
}

impl Profile {
    /// Overrides values with those of a later layer.
    pub(super) fn extend(&mut self, layer: Self) {
        self.given.extend(layer.given);
    }

    /// Makes relative paths start at a directory.
    pub(super) fn make_absolute(&mut self, base: &Path) -> Result<(), ProfileError> {
        for (key, given) in &mut self.given {
            let is_path = keys::find(key).is_some_and(|known| known.is_path);
            let Some(written) = given.value.as_str().filter(|_| is_path).map(Path::new) else {
                continue;
            };
            if key == "catalog" && given.value.as_str().is_some_and(is_url) {
                continue;
            }
            let is_command = key == "pg_probackup" && written.components().count() == 1;
            if !is_command || written.is_absolute() {
                given.value = absolute(key, &base.join(written), written, &given.origin)?;
            }
        }
        Ok(())
    }

    /// Returns whether nothing is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.given.is_empty()
    }

    /// Returns the value of a key and its origin, if the key is set.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Given> {
        self.given.get(key)
    }

    /// Returns the value of a key, if the key is set.
    #[must_use]
    pub fn value<T: DeserializeOwned>(&self, key: &str) -> Option<T> {
        let value = self.given.get(key)?.value.clone();
        T::deserialize(value).ok()
    }

    /// Returns the PostgreSQL settings that are set, each with its dotted key.
    pub fn settings(&self) -> impl Iterator<Item = (&str, &Given)> {
        let all = self.given.iter().map(|(key, given)| (key.as_str(), given));
        all.filter(|(key, _)| keys::setting(key).is_some())
    }

    /// Sets a key. A table of PostgreSQL settings sets one key for each entry.
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

    /// Sets a key to a path, which is made absolute.
    ///
    /// # Errors
    /// If the path is empty or not UTF-8, or if there is no working directory.
    pub fn set_path(&mut self, key: &str, path: &Path, origin: Origin) -> Result<(), ProfileError> {
        let value = absolute(key, path, path, &origin)?;
        self.set(key, value, origin);
        Ok(())
    }

    /// Sets the catalog; a path is made absolute.
    ///
    /// # Errors
    /// If it is a URL that names no catalog; as for [`Self::set_path`].
    pub fn set_catalog(&mut self, catalog: &Path, origin: Origin) -> Result<(), ProfileError> {
        match Location::new(catalog) {
            Ok(Location::Directory(path)) => self.set_path("catalog", &path, origin),
            Ok(url) => {
                self.set("catalog", url.to_string(), origin);
                Ok(())
            }
            Err(error) => Err(ProfileError::Value {
                place: origin.to_string(),
                key: "catalog".to_owned(),
                reason: error.to_string(),
            }),
        }
    }

    /// Returns how a catalog is read over the network.
    ///
    /// # Errors
    /// If a value is invalid.
    pub fn storage(&self) -> Result<StoragePlan, ProfileError> {
        let storage = self.typed()?.storage;
        storage.check().map_err(|error| self.with_place(error))?;
        Ok(storage)
    }

    /// Removes the value of a key.
    pub fn unset(&mut self, key: &str) {
        self.given.remove(key);
    }

    /// Replaces any recovery target by a time.
    pub fn recover_to(&mut self, time: MomentText, origin: Origin) {
        for key in TARGETS {
            self.unset(key);
        }
        self.set("recovery.time", time.to_string(), origin);
    }

    /// Returns the values over the defaults, typed and checked.
    ///
    /// # Errors
    /// Returns the first key that is missing, or the first value that is invalid or
    /// conflicts with another.
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

    /// Returns the values over the defaults, typed.
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

    /// Returns the values as a file would contain them.
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

    /// Adds the origin of its value to an error.
    fn with_place(&self, mut error: ProfileError) -> ProfileError {
        if let ProfileError::Value { place, key, .. } = &mut error
            && let Some(given) = self.given.get(key)
        {
            *place = given.origin.to_string();
        }
        error
    }
}

/// Puts a value into a nested table, and creates that if necessary.
fn put(table: &mut Table, section: &str, name: &str, value: Value) {
    let (first, rest) = section.split_once('.').unwrap_or((section, ""));
    if first.is_empty() {
        table.insert(name.to_owned(), value);
    } else if let Value::Table(inner) = table.entry(first).or_insert_with(|| Table::new().into()) {
        put(inner, rest, name, value);
    }
}

/// Returns the absolute path as a value. `written` is the part that the user wrote.
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
