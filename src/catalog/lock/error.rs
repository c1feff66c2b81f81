//! Why a backup cannot be locked.

use std::borrow::Cow;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Process;
use crate::escape::value;
use crate::untrusted::{Refused, refused};

/// A backup could not be locked, or a lock not released.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process holds the exclusive lock and keeps it.
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
        /// The process, if its pid could be read.
        holder: Option<Process>,
        /// How long was waited for it.
        waited: Duration,
    },

    /// The backup went, or another came in its place, while it was waited for.
    #[error(
        "backup {} is not there any more: it was merged or deleted",
        value(dir)
    )]
    Gone {
        /// The backup's directory.
        dir: PathBuf,
    },

    /// Something stands at a lock file's name that no pg_probackup has made.
    #[error(
        "the lock file {} cannot be used: {why}; make sure that no pg_probackup works on this \
         backup, and remove it",
        value(file)
    )]
    Refused {
        /// The lock file.
        file: PathBuf,
        /// What is the matter with it.
        why: Refused,
    },

    /// The backup's directory may not be written by this user.
    #[error(
        "no permission to lock backup {} against pg_probackup's delete and merge",
        value(dir)
    )]
    NoPermission {
        /// The backup's directory.
        dir: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },

    /// The process that is to hold the lock does not exist.
    #[error(
        "process {pid}, which is to hold the lock on backup {}, does not exist",
        value(dir)
    )]
    NoSuchProcess {
        /// The backup's directory.
        dir: PathBuf,
        /// The process.
        pid: u32,
    },

    /// A lock file, or the directory that it is in, cannot be used.
    #[error("cannot use the lock file {}", value(file))]
    Io {
        /// The lock file.
        file: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// The backup by its id, as the file's path has the rest.
fn named(dir: &Path) -> Cow<'_, str> {
    dir.file_name().map_or_else(|| value(dir), value)
}

fn waited_for(time: Duration) -> String {
    match time.as_secs() {
        0 => String::new(),
        seconds => format!(" (waited {seconds} s)"),
    }
}

/// Tells what a caller may want to treat in its own way from the rest. Where
/// nothing is found, the directory has gone: a file that is missing is no
/// failure.
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
