//! Why a clone was not promoted.

use std::path::PathBuf;

use crate::escape::value;

/// A promotion that did not create its directory.
#[derive(Debug, thiserror::Error)]
pub enum PromoteError {
    /// The clone keeps nothing.
    #[error(
        "a clone is promoted from the diff that it keeps, and this profile has no diff_dir; set \
         one before pbkfs up, or use pbkfs materialize"
    )]
    NotKept,
    /// There is no clone.
    #[error(
        "there is no clone to promote: {} is not in use and holds no diff; start one with pbkfs \
         up, or use pbkfs materialize",
        value(dir)
    )]
    NoClone {
        /// The profile's diff.
        dir: PathBuf,
    },
    /// The clone that runs cannot be hydrated.
    #[error("the clone on {} cannot be promoted: {reason}", value(target))]
    Refused {
        /// The mount point.
        target: PathBuf,
        /// Why not, as a sentence.
        reason: String,
    },
    /// The backup or the diff failed while the clone was hydrated.
    #[error(
        "not all of the backup could be brought into the diff: {reason}; the clone is as it was"
    )]
    Hydration {
        /// What failed, as a sentence.
        reason: String,
    },
    /// It was interrupted before the cut-over.
    #[error(
        "interrupted; the clone goes on, and what was brought into its diff stays there: the same \
         command continues, and pbkfs promote --finish cuts over"
    )]
    Stopped,
    /// The clone was stopped by somebody else meanwhile.
    #[error(
        "the clone on {} was stopped before it was promoted; the same command promotes it as it \
         is, and pbkfs up starts it again",
        value(target)
    )]
    Gone {
        /// The mount point.
        target: PathBuf,
    },
    /// The cut-over failed.
    #[error(
        "the cut-over to {} failed, and the clone is stopped but unchanged (pbkfs up starts it \
         again): {reason}",
        value(to)
    )]
    CutOver {
        /// The data directory that was to be created.
        to: PathBuf,
        /// What failed, as a sentence.
        reason: String,
    },
    /// The data directory is complete, and its server did not start.
    #[error("{} is complete, but its server did not start: {reason}", value(to))]
    NotStarted {
        /// The data directory.
        to: PathBuf,
        /// What failed, as a sentence.
        reason: String,
    },
}
