//! Why a backup cannot be locked.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A backup could not be locked, or a lock not released.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process holds the exclusive lock and keeps it.
    #[error(
        "backup {} is in use by {} for a change (delete, merge or backup); \
         waited {} s for it; try again when that has ended",
        dir.display(),
        holder_words(*holder),
        waited.as_secs_f32()
    )]
    Busy {
        /// The backup's directory.
        dir: PathBuf,
        /// The process, if its pid could be read.
        holder: Option<u32>,
        /// How long was waited for it.
        waited: Duration,
    },

    /// A lock file names a process of another user, of which nobody can tell
    /// whether it is still the one that took the lock.
    #[error(
        "{} names process {pid}, which belongs to another user, so whether the lock is still \
         in use cannot be told: run as that user, or make sure that no pg_probackup works on \
         this backup and remove the file",
        file.display()
    )]
    ForeignHolder {
        /// The lock file.
        file: PathBuf,
        /// The process.
        pid: u32,
    },

    /// The backup's directory may not be written by this user.
    #[error(
        "no permission to lock backup {} against pg_probackup's delete and merge",
        dir.display()
    )]
    NoPermission {
        /// The backup's directory.
        dir: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },

    /// The process that is to hold the lock does not exist.
    #[error("process {pid}, which is to hold the lock on backup {}, does not exist", dir.display())]
    NoSuchProcess {
        /// The backup's directory.
        dir: PathBuf,
        /// The process.
        pid: u32,
    },

    /// A lock file could not be read, written or removed.
    #[error("cannot use the lock file {}", file.display())]
    Io {
        /// The lock file.
        file: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

fn holder_words(holder: Option<u32>) -> String {
    match holder {
        Some(pid) => format!("process {pid}"),
        None => "another process".to_owned(),
    }
}

/// Tells a lack of permission, which a caller may want to live with, from the
/// rest.
pub(super) fn file_error(dir: &Path, file: &Path, source: io::Error) -> LockError {
    if source.kind() == io::ErrorKind::PermissionDenied {
        let dir = dir.to_owned();
        LockError::NoPermission { dir, source }
    } else {
        let file = file.to_owned();
        LockError::Io { file, source }
    }
}

pub(super) fn is_read_only(error: &LockError) -> bool {
    matches!(error, LockError::Io { source, .. }
        if source.kind() == io::ErrorKind::ReadOnlyFilesystem)
}
