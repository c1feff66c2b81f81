//! One change, as it is told.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What happened to a file.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum ChangeKind {
    /// A file of the backup has other content.
    Changed,
    /// The clone made it.
    New,
    /// The backup has it, the clone no longer.
    Deleted,
    /// A file or directory of the backup has another name; its content, if
    /// that changed too, counts here.
    Renamed,
}

/// One thing that a clone changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Change {
    /// Where it is in the data directory, tablespaces under `pg_tblspc`. A
    /// directory ends with a slash; it stands for all that was in it.
    pub path: String,
    /// What happened.
    pub kind: ChangeKind,
    /// What a renamed file was called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// 8 KiB blocks of it that the diff has.
    pub blocks: u64,
    /// Bytes of it that the diff has.
    pub bytes: u64,
    /// Whether the diff has all of the file, as it has of new ones, and of
    /// small files of the backup, which are copied whole when they are opened:
    /// `blocks` does not say then how many of them differ.
    #[serde(default)]
    pub whole: bool,
}
