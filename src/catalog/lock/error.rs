//! Errors when locking a backup.

use std::borrow::Cow;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Process;
use crate::escape::value;
use crate::untrusted::{Refused, refused};

/// A backup could not be locked, or a lock could not be released.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process holds the exclusive lock and did not release it.
    #[error(
        "backup {} is locked by {}{}; try again when that process has ended, or remove the lock \
         file {} if the process is not pg_probackup",
        named(dir),
        holder.as_ref().map_or_else(|| "another process".to_owned(), ToString::to_string),
        waited_for(*waited),
        value(file)
    )]
    Busy {
        /// The backup's directory.
        dir: PathBuf,
        /// The lock file.
        file: PathBuf,
        /// The holder, if its pid could be read.
        holder: Option<Process>,
        /// Time spent waiting for it.
        waited: Duration,
    },

    /// The backup disappeared or was replaced during the wait.
    #[error("backup {} no longer exists: it was merged or deleted", value(dir))]
    Gone {
        /// The backup's directory.
        dir: PathBuf,
    },

    /// There is something at a lock file's path that no pg_probackup has created.
    #[error(
        "cannot use the lock file {}: {why}; make sure that no pg_probackup process is using \
         this backup, then remove the file",
        value(file)
    )]
    Refused {
        /// The lock file.
        file: PathBuf,
        /// What is wrong with it.
        why: Refused,
    },

    /// This user may not write into the backup's directory.
    #[error(
        "no permission to lock backup {} against pg_probackup's delete and merge",
        value(dir)
    )]
    NoPermission {
        /// The backup's directory.
        dir: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },

    /// The process that should hold the lock does not exist.
    #[error(
        "process {pid}, which should hold the lock on backup {}, does not exist",
        value(dir)
    )]
    NoSuchProcess {
        /// The backup's directory.
        dir: PathBuf,
        /// The process.
        pid: u32,
    },

    /// A lock file or its directory cannot be used.
    #[error("cannot use the lock file {}", value(file))]
    Io {
        /// The lock file.
        file: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
}

/// Returns the backup's id, because the file's path has the rest.
fn named(dir: &Path) -> Cow<'_, str> {
    dir.file_name().map_or_else(|| value(dir), value)
}

fn waited_for(time: Duration) -> String {
    match time.as_secs() {
        0 => String::new(),
        seconds => format!(" (waited {seconds} s)"),
    }
}

/// Separates the errors that a caller may want to handle specially from the rest. "Not
/// found" means that the directory has disappeared: a missing file is not a failure.
pub(super) fn file_error(dir: &Path, file: &str, source: io::Error) -> LockError {
    let (dir, file) = (dir.to_owned(), dir.join(file));
    match (refused(&source), source.kind()) {
        (Some(why), _) => LockError::Refused { file, why },
        (None, io::ErrorKind::PermissionDenied) => LockError::NoPermission { dir, source },
        (None, io::ErrorKind::NotFound) => LockError::Gone { dir },
        (None, _) => LockError::Io { file, source },
    }
}

pub(super) fn is_read_only(error: &LockError) -> bool {
    matches!(error, LockError::Io { source, .. }
        if source.kind() == io::ErrorKind::ReadOnlyFilesystem)
}
