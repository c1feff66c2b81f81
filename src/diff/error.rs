//! The errors of a diff.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::changes::Changes;
use super::layout::{BINDING_FILE, LOCK_FILE};
use super::lock::LockHolder;
use crate::escape::value;
use crate::untrusted::{Kind, Refused, refused};

/// An error of a diff's directory.
#[derive(Debug, thiserror::Error)]
pub enum DiffError {
    /// A system call on one of the diff's files failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// The operation that failed, as a verb.
        action: &'static str,
        /// The file's path.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// Another process is using the diff.
    #[error("the diff {} is in use by {holder}; end it first (pbkfs unmount or pbkfs down), or use another diff directory", path.display())]
    Busy {
        /// The diff.
        path: PathBuf,
        /// The user of the diff, as written in the lock file.
        holder: LockHolder,
    },
    /// The process that used the diff has ended, but its server has not.
    #[error(
        "the diff {} is still in use by the server of {holder}, which is no longer running; \
         the server should exit within seconds: wait a moment and try again \
         (`fuser -v {}` lists the processes that still hold it)",
        path.display(), path.join(LOCK_FILE).display()
    )]
    HeldByServer {
        /// The diff.
        path: PathBuf,
        /// The last user of the diff, as written in the lock file.
        holder: LockHolder,
    },
    /// The diff belongs to another backup.
    #[error(
        "the diff {} belongs to backup {bound} and cannot be used with {wanted}; \
         use that backup again, or another diff_dir for this one",
        path.display()
    )]
    BoundElsewhere {
        /// The diff.
        path: PathBuf,
        /// The backup that it is bound to.
        bound: String,
        /// The backup that was requested.
        wanted: String,
    },
    /// The clone was cut over to a data directory of its own.
    #[error(
        "the clone in the diff {} was promoted: it is {} now; start that instead, and remove the \
         diff (`pbkfs cleanup --force -d {}`)",
        path.display(), to.display(), value(path)
    )]
    Promoted {
        /// The diff.
        path: PathBuf,
        /// The data directory.
        to: PathBuf,
    },
    /// The cut-over to a data directory began and did not end.
    #[error(
        "the cut-over of the diff {} to {} was interrupted; complete it with pbkfs promote, or \
         undo it with pbkfs promote --abandon",
        path.display(), to.display()
    )]
    PromotionInterrupted {
        /// The diff.
        path: PathBuf,
        /// The data directory.
        to: PathBuf,
    },
    /// The directory holds something that is not a diff.
    #[error(
        "{} is not a pbkfs diff (it has no {}); for a new diff, name an empty or new directory",
        path.display(), BINDING_FILE
    )]
    NotADiff {
        /// The directory.
        path: PathBuf,
    },
    /// The diff to be emptied holds changes.
    #[error(
        "the diff {} of backup {backup} holds changes: {changes}; use --force to discard them",
        path.display()
    )]
    HoldsChanges {
        /// The diff.
        path: PathBuf,
        /// The backup that the changes were made on.
        backup: String,
        /// The changes.
        changes: Changes,
    },
    /// The diff's directory holds something that pbkfs does not create there.
    #[error(
        "{} is {found}, which pbkfs did not create; inspect it, then try again",
        path.display()
    )]
    Foreign {
        /// Its path.
        path: PathBuf,
        /// Its kind.
        found: Kind,
    },
    /// A file of the diff has another name elsewhere; writing would change that file,
    /// too.
    #[error(
        "{} has another name (a hard link), so a write to one changes both; \
         copy the diff in full (`cp -a`, not `cp -al`), and use that copy",
        path.display()
    )]
    Linked {
        /// The file.
        path: PathBuf,
    },
    /// Users other than its owner can write to the diff's directory.
    #[error(
        "users other than its owner can write to the diff {}; \
         if you trust its content, remove that permission (`chmod go-w {}`)",
        path.display(), path.display()
    )]
    WritableByOthers {
        /// The diff.
        path: PathBuf,
    },
    /// What a small file of the diff says cannot be understood.
    #[error("{} is damaged: {source}", path.display())]
    BadFile {
        /// The file.
        path: PathBuf,
        /// The position of the damage, and its kind.
        #[source]
        source: serde_json::Error,
    },
    /// A newer pbkfs wrote the file.
    #[error("{} has format version {found}, this pbkfs reads up to {known}; use a newer pbkfs", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// The version in it.
        found: u32,
        /// The newest version known here.
        known: u32,
    },
    /// The metadata store failed.
    #[error("the diff's metadata {} cannot be {action}: {source}", path.display())]
    Store {
        /// The operation that failed, as a participle.
        action: &'static str,
        /// The store's file.
        path: PathBuf,
        /// The store's error.
        #[source]
        source: Box<redb::Error>,
    },
    /// A part of the diff is missing, or is not what pbkfs or the metadata store
    /// writes.
    #[error(
        "the diff is damaged at {}: {reason}; the diff cannot be used \
         (`pbkfs cleanup --force -d {}` empties it), but the backup is unharmed",
        path.display(), directory(path)
    )]
    Damaged {
        /// The part.
        path: PathBuf,
        /// How the damage shows.
        reason: String,
    },
    /// A record in the store is not one that pbkfs writes.
    #[error(
        "the diff's metadata has a damaged record for {what}: {reason}; the diff cannot be used \
         (`pbkfs cleanup --force -d DIFF` empties it), but the backup is unharmed"
    )]
    BadRecord {
        /// Which record.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// Returns the directory of the diff that holds a file, formatted for a message.
fn directory(path: &Path) -> Cow<'_, str> {
    value(path.parent().unwrap_or(path))
}

impl DiffError {
    /// Wraps an I/O error on `path`; a refused file kind becomes
    /// [`DiffError::Foreign`].
    pub fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match refused(&source) {
            Some(Refused::Is(found)) => Self::Foreign { path, found },
            _ => Self::Io {
                action,
                path,
                source,
            },
        }
    }

    /// Creates an error for a record in the store that pbkfs does not write.
    pub(crate) fn record(what: &str, key: impl fmt::Display, reason: &dyn fmt::Display) -> Self {
        Self::BadRecord {
            what: format!("{what} {key}"),
            reason: reason.to_string(),
        }
    }

    /// Returns the system's error number, if a system call failed.
    #[must_use]
    pub fn os_error(&self) -> Option<i32> {
        match self {
            Self::Io { source, .. } => source.raw_os_error(),
            Self::Store { source, .. } => match &**source {
                redb::Error::Io(e) => e.raw_os_error(),
                _ => None,
            },
            _ => None,
        }
    }
}
