//! What the holder of the locks says to its owner, and how it is called.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How long pg_probackup's restore waits for a backup that is being changed.
pub const WAIT: Duration = Duration::from_secs(60);

/// The name of the hidden subcommand.
pub const SUBCOMMAND: &str = "hold-locks";

/// What the holder says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// It waits, for this; another answer follows.
    Waiting(String),
    /// The locks are held.
    Held,
    /// The catalog is on a read-only file system, where nobody can change it.
    ReadOnly,
    /// This user may not write there.
    Denied(String),
    /// This backup is not there any more.
    Gone(String),
    /// It did not work.
    Failed(String),
}
