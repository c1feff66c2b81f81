//! The result of a verification: one document, from which every report is made.
//!
//! ```text
//! human       the report for people
//! prometheus  the metrics for node_exporter
//! html        the page for an auditor, with the history
//! ```

mod html;
mod human;
mod prometheus;

use schemars::JsonSchema;
use serde::Serialize;

use crate::verify::backup_report::BackupReport;
use crate::verify::history::ProfileId;
use crate::verify::history::standing::Standing;
use crate::verify::verdict::Verdict;

pub use html::html;
pub use human::human;
pub use prometheus::prometheus;

#[cfg(test)]
pub use human::filled_with;

/// The document's version. It increases when a field changes its meaning or is
/// removed.
pub const VERSION: u32 = 2;

/// The result of one run.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Document {
    /// The version of this document's format; it increases when a field is removed or
    /// changes its meaning.
    pub version: u32,
    /// The version of pbkfs.
    pub pbkfs: &'static str,
    /// The profile.
    pub profile: String,
    /// The profile's identity in the history.
    #[serde(skip)]
    pub by: ProfileId,
    /// The catalog.
    pub catalog: String,
    /// The instance.
    pub instance: String,
    /// Start time of the run, RFC 3339.
    pub started: String,
    /// Duration of the run, in seconds.
    pub seconds: f64,
    /// The worst verdict of the backups.
    pub verdict: Verdict,
    /// The command's exit status: that of the verdict, or 1 if another backup is
    /// known to be bad.
    pub exit_code: u8,
    /// The error that ended the run before all backups were verified.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The backups that were verified.
    pub backups: Vec<BackupReport>,
    /// Backups that were skipped, because they cannot be restored or are no longer
    /// there.
    pub skipped: Vec<Skipped>,
    /// What is known about all backups of the instance, after this run.
    pub standing: Standing,
}

/// A backup that was skipped.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Skipped {
    /// Its id.
    pub backup: String,
    /// Why it was skipped.
    pub reason: String,
}
