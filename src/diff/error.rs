//! What can go wrong with a diff.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::changes::Changes;
use super::layout::{BINDING_FILE, LOCK_FILE};
use super::lock::LockHolder;
use crate::escape::value;
use crate::untrusted::{Kind, Refused, refused};

/// An error of the diff directory.
#[derive(Debug, thiserror::Error)]
pub enum DiffError {
    /// A system call on one of the diff's files failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// Another process has the diff.
    #[error("the diff {} is in use by {holder}; end that one first (pbkfs unmount, or pbkfs down), or use another diff directory", path.display())]
    Busy {
        /// The diff.
        path: PathBuf,
        /// Who, as written in the lock file.
        holder: LockHolder,
    },
    /// The process that had the diff has ended, but its server has not.
    #[error(
        "the diff {} is still in use by the server of {holder}, which no longer runs here; \
         the server should end within seconds: wait a moment and try again \
         (`fuser -v {}` names what still has it)",
        path.display(), path.join(LOCK_FILE).display()
    )]
    HeldByServer {
        /// The diff.
        path: PathBuf,
        /// Who had it, as written in the lock file.
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
        /// What it is bound to.
        bound: String,
        /// What was asked for.
        wanted: String,
    },
    /// The directory holds something that is not a diff.
    #[error(
        "{} is not a pbkfs diff (it has no {}); for a new diff give an empty or new directory",
        path.display(), BINDING_FILE
    )]
    NotADiff {
        /// The directory.
        path: PathBuf,
    },
    /// The diff to be emptied holds changes.
    #[error(
        "the diff {} of backup {backup} holds changes: {changes}; give --force to throw them away",
        path.display()
    )]
    HoldsChanges {
        /// The diff.
        path: PathBuf,
        /// The backup that they were made on.
        backup: String,
        /// How much there is.
        changes: Changes,
    },
    /// Something in the diff's directory is not what a diff has there.
    #[error("{} is {found}, which pbkfs did not make; inspect it, then try again", path.display())]
    Foreign {
        /// What.
        path: PathBuf,
        /// What it is.
        found: Kind,
    },
    /// A file of the diff has another name somewhere, which would be written
    /// to as well.
    #[error(
        "{} has another name (a hard link), and what is written to the one is written to both; \
         copy a diff in full (`cp -a`, not `cp -al`), and use that copy",
        path.display()
    )]
    Linked {
        /// The file.
        path: PathBuf,
    },
    /// Others than its owner can put things into the diff's directory.
    #[error(
        "others than its owner can write to the diff {}; \
         if what is in it can be trusted, take that right away (`chmod go-w {}`)",
        path.display(), path.display()
    )]
    WritableByOthers {
        /// The diff.
        path: PathBuf,
    },
    /// The binding cannot be read.
    #[error("{} is damaged: {source}", path.display())]
    BadBinding {
        /// The binding's file.
        path: PathBuf,
        /// Where.
        #[source]
        source: serde_json::Error,
    },
    /// A newer pbkfs wrote it.
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
        /// What was tried, as a participle.
        action: &'static str,
        /// The store's file.
        path: PathBuf,
        /// The store's answer.
        #[source]
        source: Box<redb::Error>,
    },
    /// A part of the diff is missing, or is not what pbkfs or the store's program
    /// writes.
    #[error(
        "the diff is damaged at {}: {reason}; the diff cannot be used \
         (`pbkfs cleanup --force -d {}` empties it), the backup is unharmed",
        path.display(), directory(path)
    )]
    Damaged {
        /// The part.
        path: PathBuf,
        /// Where that was seen.
        reason: String,
    },
    /// A record in the store is not one that pbkfs writes.
    #[error(
        "the diff's metadata has a damaged record for {what}: {reason}; the diff cannot be used \
         (`pbkfs cleanup --force -d DIFF` empties it), the backup is unharmed"
    )]
    BadRecord {
        /// Which record.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// The diff that a file is in, fit for a message.
fn directory(path: &Path) -> Cow<'_, str> {
    value(path.parent().unwrap_or(path))
}

impl DiffError {
    /// An I/O error on `path`; a refusal of what stands there is its own error.
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

    /// A record of the store that pbkfs does not write.
    pub(crate) fn record(what: &str, key: impl fmt::Display, reason: &dyn fmt::Display) -> Self {
        Self::BadRecord {
            what: format!("{what} {key}"),
            reason: reason.to_string(),
        }
    }

    /// The system's error number behind it, if there is one.
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
