//! One change, as reported.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The kind of a change.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum ChangeKind {
    /// A file of the backup has different content.
    Changed,
    /// The clone created it.
    New,
    /// The backup has it, the clone no longer does.
    Deleted,
    /// A file or directory of the backup has another name. If its content changed too,
    /// it is counted here.
    Renamed,
}

/// One change that a clone made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Change {
    /// Path in the data directory, with tablespaces under `pg_tblspc`. The path of a
    /// directory ends with a slash, and stands for everything that was in it.
    pub path: String,
    /// Kind of the change.
    pub kind: ChangeKind,
    /// Previous name of a renamed file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Number of the file's 8 KiB blocks in the diff.
    pub blocks: u64,
    /// Number of the file's bytes in the diff.
    pub bytes: u64,
    /// Whether the diff has all of the file. This is so for new files, and for small
    /// files of the backup, which are copied whole when they are opened. `blocks` is
    /// then not the number of blocks that differ.
    #[serde(default)]
    pub whole: bool,
}
