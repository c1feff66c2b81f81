//! How far a hydration is.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a hydration is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum HydrationState {
    /// It is bringing the backup into the diff.
    Running,
    /// It was stopped; it can go on later.
    Stopped,
    /// The diff has everything.
    Complete,
    /// It ended by an error.
    Failed,
}

/// The data directory that a hydration is for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Destination {
    /// Its absolute path.
    pub to: PathBuf,
    /// New directories of tablespaces, by their old ones.
    pub tablespaces: Vec<(PathBuf, PathBuf)>,
}

/// How far the hydration of a clone is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Hydration {
    /// The data directory that it is for.
    pub destination: Destination,
    /// What it is doing.
    pub state: HydrationState,
    /// Number of the backup's files that the diff did not have completely at first.
    pub files: u64,
    /// How many of them are left.
    pub files_left: u64,
    /// Number of bytes of the backup that the diff did not have at first; holes count.
    pub bytes: u64,
    /// How many of them are left.
    pub bytes_left: u64,
    /// Average rate so far.
    pub bytes_per_second: u64,
    /// Time left at that rate, in seconds; null if it cannot be told.
    pub seconds_left: Option<u64>,
    /// Estimated time from stopping the server to the complete data directory, in
    /// milliseconds, if the diff's file system is also the directory's. The server's own
    /// last checkpoint is not included.
    pub cut_over_milliseconds: u64,
    /// What went wrong, if anything did.
    pub error: Option<String>,
}
