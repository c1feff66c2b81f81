//! What a verification found: one document, from which every report is made.
//!
//! ```text
//! human       its form for people
//! prometheus  its form for node_exporter
//! html        its form for an auditor, with the history
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

/// The document's version. It grows when a field changes its meaning or goes.
pub const VERSION: u32 = 2;

/// The result of one run.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Document {
    /// The version of this document's form; it grows when a field goes or changes its
    /// meaning.
    pub version: u32,
    /// This program's version.
    pub pbkfs: &'static str,
    /// The profile.
    pub profile: String,
    /// The same, as the history knows it.
    #[serde(skip)]
    pub by: ProfileId,
    /// The catalog.
    pub catalog: String,
    /// The instance.
    pub instance: String,
    /// When the run began, RFC 3339.
    pub started: String,
    /// How long it took.
    pub seconds: f64,
    /// The worst of the backups' verdicts.
    pub verdict: Verdict,
    /// What the command exits with: that verdict's code, or 1 where another backup
    /// is known to be bad.
    pub exit_code: u8,
    /// What kept the run from looking at any backup.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Each backup that was looked at.
    pub backups: Vec<BackupReport>,
    /// Backups that were not, as they cannot be restored.
    pub skipped: Vec<Skipped>,
    /// What is known of all backups of the instance, after this run.
    pub standing: Standing,
}

/// A backup that was not looked at.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Skipped {
    /// Its id.
    pub backup: String,
    /// Why it was not.
    pub reason: String,
}
