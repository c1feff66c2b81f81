//! Why a chain cannot be read, as reported to the DBA.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::catalog::content::ContentError;
use crate::catalog::{BackupId, BackupMode, BackupStatus, CatalogError};
use crate::escape::value;
use crate::pg::{BLOCK_SIZE, NEWEST_MAJOR, OLDEST_MAJOR};

/// A backup cannot be read as a whole, or can no longer be read.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// The instance has no such backup.
    #[error("instance \"{instance}\" has no backup {id}; {}", newest_are(newest))]
    NoSuchBackup {
        /// The instance's name.
        instance: String,
        /// The requested id.
        id: BackupId,
        /// The newest few existing backups, newest first.
        newest: Vec<(BackupId, BackupStatus)>,
    },

    /// `latest` was requested, and no backup can be restored.
    #[error(
        "instance \"{instance}\" has no backup that can be restored; {}",
        newest_are(newest)
    )]
    NothingRestorable {
        /// The instance's name.
        instance: String,
        /// The newest few existing backups, newest first.
        newest: Vec<(BackupId, BackupStatus)>,
    },

    /// A backup's parent is not in the catalog.
    #[error(
        "backup {target} cannot be restored: {child} is based on {parent}, \
         and the catalog has no backup {parent}"
    )]
    MissingParent {
        /// The requested backup.
        target: BackupId,
        /// The member whose parent is missing.
        child: BackupId,
        /// The missing parent.
        parent: BackupId,
    },

    /// A member's status does not permit restoring it.
    #[error("{}", status_sentence(target, member, *status, dir, instance))]
    Status {
        /// The instance's name.
        instance: String,
        /// The requested backup.
        target: BackupId,
        /// The oldest member with such a status; it may be the target.
        member: BackupId,
        /// That member's status.
        status: BackupStatus,
        /// That member's directory.
        dir: PathBuf,
    },

    /// The parents form a cycle.
    #[error(
        "backup {target} cannot be restored: its parents form a cycle ({})",
        joined(members)
    )]
    Cycle {
        /// The requested backup.
        target: BackupId,
        /// The members, each followed by its parent; the last is the first that repeats.
        members: Vec<BackupId>,
    },

    /// The chain does not start with a FULL backup.
    #[error(
        "backup {target} cannot be restored: {member} is a {mode} backup, \
         but its metadata names no parent, so the chain has no FULL backup"
    )]
    NoFull {
        /// The requested backup.
        target: BackupId,
        /// The incremental without a parent.
        member: BackupId,
        /// That member's mode.
        mode: BackupMode,
    },

    /// The PostgreSQL version is not supported.
    #[error(
        "backup {member} was taken from PostgreSQL {}; \
         only {OLDEST_MAJOR} to {NEWEST_MAJOR} are supported",
        shown(version)
    )]
    UnsupportedMajor {
        /// The member.
        member: BackupId,
        /// The version as recorded.
        version: String,
    },

    /// The cluster was built with another block size.
    #[error("backup {member} has a {key} of {size} bytes; only {BLOCK_SIZE} is supported")]
    UnsupportedBlockSize {
        /// The member.
        member: BackupId,
        /// Which size: `block-size` or `xlog-block-size`.
        key: &'static str,
        /// The size in bytes.
        size: u32,
    },

    /// The content list of a member cannot be used, although its status is good. This is
    /// checked only for `latest`, where there is a choice.
    #[error(
        "backup {target} cannot be restored: the content list of backup {member} cannot be read"
    )]
    Unlisted {
        /// The backup that was considered.
        target: BackupId,
        /// The member whose content list cannot be used.
        member: BackupId,
        /// The reason.
        #[source]
        source: Arc<ContentError>,
    },

    /// A member is no longer what it was when the chain was resolved.
    #[error(
        "backup {member} changed while it was being opened ({what}): \
         pg_probackup must have merged or rewritten it; try again"
    )]
    Changed {
        /// The member.
        member: BackupId,
        /// What differs.
        what: &'static str,
    },

    /// A member's metadata could not be reread.
    #[error("backup {member} can no longer be read")]
    Reread {
        /// The member.
        member: BackupId,
        /// The reason.
        #[source]
        source: CatalogError,
    },
}

/// Explains a status to the user who wants the backup, and says what to do.
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
            "{} is missing or unusable (see the log for the reason)",
            dir.join("backup.control").display()
        ),
        BackupStatus::Corrupt => format!(
            "pg_probackup found damage in it; once that is repaired, run `pg_probackup \
             validate --instance={instance} -i {target}`; otherwise use another backup"
        ),
        BackupStatus::Orphan => format!(
            "a parent was missing or bad when pg_probackup last checked; if the parents are good \
             again, `pg_probackup validate --instance={instance} -i {target}` sets it to OK"
        ),
        BackupStatus::Running => {
            "it is still being taken, or the program taking it died; wait for it to finish, \
             or use another backup"
                .to_owned()
        }
        BackupStatus::Error => {
            "taking the backup failed, and it is incomplete; use another backup".to_owned()
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

/// Returns a version for display; it may be anything, or empty.
fn shown(version: &str) -> Cow<'_, str> {
    match version {
        "" => "(version not recorded)".into(),
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
    format!("the newest are: {}", named.join(", "))
}

fn joined(ids: &[BackupId]) -> String {
    let words: Vec<&str> = ids.iter().map(|id| id.0.as_str()).collect();
    words.join(" -> ")
}
