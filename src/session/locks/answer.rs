//! What the lock holder reports to the session's owner, and the subcommand that starts it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How long pg_probackup's restore waits for a backup that is being changed.
pub const WAIT: Duration = Duration::from_secs(60);

/// The name of the hidden subcommand.
pub const SUBCOMMAND: &str = "hold-locks";

/// A message of the lock holder.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HolderAnswer {
    /// It is waiting for this; another answer follows.
    Waiting(String),
    /// The locks are held.
    Held,
    /// The catalog is on a read-only file system, where nobody can change it.
    ReadOnly,
    /// This user may not write there.
    Denied(String),
    /// This backup no longer exists.
    Gone(String),
    /// Locking failed, for this reason.
    Failed(String),
}
