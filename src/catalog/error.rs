//! Errors when reading the catalog's metadata.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};

use super::BackupId;
use super::lock::{owner_of, user_name};

/// A catalog, an instance or a backup's metadata that cannot be used.
///
/// A variant's text says what was being done; its [`source`](Error::source), if any, says
/// why it failed.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// There is nothing at the catalog's path, or something without `backups/`.
    #[error(
        "{} is not a pg_probackup catalog: it has no directory named \"backups\"; \
         give the path that pg_probackup takes as -B",
        root.display()
    )]
    NotACatalog {
        /// The path given as the catalog.
        root: PathBuf,
    },

    /// A file or directory of the catalog could not be read.
    #[error("cannot read {}{}", path.display(), closed(path, source))]
    Read {
        /// The path that was to be read.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },

    /// The name cannot be that of an instance: it would leave the catalog.
    #[error("\"{name}\" cannot be an instance's name: give one directory name, without \"/\"")]
    InvalidInstanceName {
        /// The name as given.
        name: String,
    },

    /// The catalog has no such instance.
    #[error(
        "catalog {} has no instance \"{name}\"; it has {}",
        root.display(),
        listed(existing)
    )]
    NoSuchInstance {
        /// The catalog.
        root: PathBuf,
        /// The name as given.
        name: String,
        /// The instances that exist, sorted.
        existing: Vec<String>,
    },

    /// The instance has no such backup.
    #[error("instance \"{instance}\" has no backup {id} (looked in {})", dir.display())]
    NoSuchBackup {
        /// The instance's name.
        instance: String,
        /// The requested id.
        id: BackupId,
        /// The instance's directory.
        dir: PathBuf,
    },

    /// A control file is missing or malformed.
    #[error(transparent)]
    Control(#[from] ControlError),
}

/// Names the owner of a path that this user may not read, because the owner can.
fn closed(path: &Path, source: &io::Error) -> String {
    if source.kind() != io::ErrorKind::PermissionDenied {
        return String::new();
    }
    match owner_of(path) {
        Some(uid) => format!(" (run pbkfs as its owner, {}, or as root)", user_name(uid)),
        None => String::new(),
    }
}

/// A file of `key = value` lines that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The file could not be read.
    #[error("cannot read {}{}", path.display(), closed(path, source))]
    Read {
        /// The file.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },

    /// A line is not of the form `key = value`. The line itself is not shown because it
    /// may contain a password.
    #[error("{}, line {line}: {problem}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The line number, counted from 1.
        line: usize,
        /// What is wrong with it.
        problem: &'static str,
    },

    /// A value is not valid for its key.
    #[error("{}, line {line}: {key} cannot be \"{value}\"", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// The line number, counted from 1.
        line: usize,
        /// The key, in lower case.
        key: String,
        /// The value as found.
        value: String,
        /// What the value should have been.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },

    /// A key that every such file must have is missing.
    #[error("{} has no \"{key}\"", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// The missing key.
        key: &'static str,
    },
}

fn listed(names: &[String]) -> String {
    if names.is_empty() {
        "no instances".to_owned()
    } else {
        names.join(", ")
    }
}
