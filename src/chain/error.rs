//! Why a chain cannot be read, in the words that the DBA sees.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::catalog::content::ContentError;
use crate::catalog::{BackupId, BackupMode, BackupStatus, CatalogError};
use crate::escape::value;
use crate::pg::{BLOCK_SIZE, NEWEST_MAJOR, OLDEST_MAJOR};

/// A backup cannot be read as a whole, or no longer.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// The instance has no such backup.
    #[error("instance \"{instance}\" has no backup {id}; {}", newest_are(newest))]
    NoSuchBackup {
        /// The instance's name.
        instance: String,
        /// The id that was asked for.
        id: BackupId,
        /// The newest few that exist, newest first.
        newest: Vec<(BackupId, BackupStatus)>,
    },

    /// `latest` was asked for, and nothing can be restored.
    #[error(
        "instance \"{instance}\" has no backup that can be restored; {}",
        newest_are(newest)
    )]
    NothingRestorable {
        /// The instance's name.
        instance: String,
        /// The newest few that exist, newest first.
        newest: Vec<(BackupId, BackupStatus)>,
    },

    /// A backup's parent is not in the catalog.
    #[error(
        "backup {target} cannot be restored: {child} is based on {parent}, \
         and the catalog has no backup {parent}"
    )]
    MissingParent {
        /// The backup that was asked for.
        target: BackupId,
        /// The member whose parent is missing.
        child: BackupId,
        /// The missing one.
        parent: BackupId,
    },

    /// A member of the chain is in a status in which it cannot be restored.
    #[error("{}", status_sentence(target, member, *status, dir, instance))]
    Status {
        /// The instance's name.
        instance: String,
        /// The backup that was asked for.
        target: BackupId,
        /// The oldest member with such a status; may be the target.
        member: BackupId,
        /// That member's status.
        status: BackupStatus,
        /// That member's directory.
        dir: PathBuf,
    },

    /// The parents go in a circle.
    #[error(
        "backup {target} cannot be restored: its parents go in a circle ({})",
        joined(members)
    )]
    Cycle {
        /// The backup that was asked for.
        target: BackupId,
        /// The members in the order in which the parents lead, the first
        /// repeated one at the end.
        members: Vec<BackupId>,
    },

    /// The chain does not begin with a FULL backup.
    #[error(
        "backup {target} cannot be restored: {member} is a {mode} backup, \
         but its metadata name no parent, so the chain has no FULL backup"
    )]
    NoFull {
        /// The backup that was asked for.
        target: BackupId,
        /// The incremental without a parent.
        member: BackupId,
        /// How that one was taken.
        mode: BackupMode,
    },

    /// A PostgreSQL version that is not supported.
    #[error(
        "backup {member} is of PostgreSQL {}; \
         only {OLDEST_MAJOR} to {NEWEST_MAJOR} are supported",
        shown(version)
    )]
    UnsupportedMajor {
        /// The member.
        member: BackupId,
        /// The version as recorded.
        version: String,
    },

    /// A cluster built with another block size.
    #[error("backup {member} has a {key} of {size} bytes; only {BLOCK_SIZE} is supported")]
    UnsupportedBlockSize {
        /// The member.
        member: BackupId,
        /// Which size: `block-size` or `xlog-block-size`.
        key: &'static str,
        /// The size in bytes.
        size: u32,
    },

    /// The list of a member's files cannot be used, though its status is good.
    /// Only looked at where there is a choice, for `latest`.
    #[error(
        "backup {target} cannot be restored: the content list of backup {member} cannot be read"
    )]
    Unlisted {
        /// The backup that was looked at.
        target: BackupId,
        /// The member whose list it is.
        member: BackupId,
        /// Why.
        #[source]
        source: Arc<ContentError>,
    },

    /// A member is not any more what it was when the chain was resolved.
    #[error(
        "backup {member} changed while it was being opened ({what}): \
         pg_probackup must have merged or rewritten it; try again"
    )]
    Changed {
        /// The member.
        member: BackupId,
        /// What is different.
        what: &'static str,
    },

    /// A member's metadata could not be read again.
    #[error("backup {member} can no longer be read")]
    Reread {
        /// The member.
        member: BackupId,
        /// Why not.
        #[source]
        source: CatalogError,
    },
}

/// What a status means to the person who wants the backup, and what to do.
fn status_sentence(
    target: &BackupId,
    member: &BackupId,
    status: BackupStatus,
    dir: &Path,
    instance: &str,
) -> String {
    let meaning = match status {
        BackupStatus::Ok | BackupStatus::Done => "it can be restored".to_owned(),
        BackupStatus::Unknown => format!(
            "{} is missing or unusable (the log says how)",
            dir.join("backup.control").display()
        ),
        BackupStatus::Corrupt => format!(
            "pg_probackup found damage in it; if that is repaired, run \
             `pg_probackup validate --instance={instance} -i {target}`, else use another backup"
        ),
        BackupStatus::Orphan => format!(
            "a parent was missing or bad when pg_probackup last looked; if the parents are good \
             again, `pg_probackup validate --instance={instance} -i {target}` makes it OK"
        ),
        BackupStatus::Running => {
            "it is still being taken, or the program that took it died; wait for it to end, \
             or use another backup"
                .to_owned()
        }
        BackupStatus::Error => {
            "taking it failed and it is incomplete; use another backup".to_owned()
        }
        BackupStatus::Merging | BackupStatus::Merged => format!(
            "a merge is under way or was interrupted; let `pg_probackup merge \
             --instance={instance}` finish, then try again"
        ),
        BackupStatus::Deleting | BackupStatus::Deleted => {
            "it is being deleted; use another backup".to_owned()
        }
    };
    if member == target {
        format!("backup {member} is {status}: {meaning}")
    } else {
        format!("backup {target} needs backup {member}, which is {status}: {meaning}")
    }
}

/// A version that may be anything, or nothing.
fn shown(version: &str) -> Cow<'_, str> {
    match version {
        "" => "of no version".into(),
        version => value(version),
    }
}

fn newest_are(newest: &[(BackupId, BackupStatus)]) -> String {
    if newest.is_empty() {
        return "it has no backup at all".to_owned();
    }
    let named: Vec<String> = newest
        .iter()
        .map(|(id, status)| format!("{id} ({status})"))
        .collect();
    format!("the newest there are: {}", named.join(", "))
}

fn joined(ids: &[BackupId]) -> String {
    let words: Vec<&str> = ids.iter().map(|id| id.0.as_str()).collect();
    words.join(" -> ")
}
