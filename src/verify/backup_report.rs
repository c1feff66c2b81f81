//! The findings of a verification on one backup.

use schemars::JsonSchema;
use serde::Serialize;

use super::verdict::Verdict;
use crate::image::RestoreLoss;

/// The result for one backup.
#[derive(Debug, Clone, Default, Serialize, JsonSchema)]
pub struct BackupReport {
    /// Its id.
    pub backup: String,
    /// Its mode: FULL, DELTA, ..
    pub mode: String,
    /// All backups of its chain, the FULL first.
    pub chain: Vec<String>,
    /// End time of the backup, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backup_end: Option<String>,
    /// Start time of the verification, RFC 3339.
    pub started: String,
    /// Duration of the whole verification, in seconds.
    pub seconds: f64,
    /// The worst verdict of the checks; null while there is none.
    pub verdict: Option<Verdict>,
    /// Duration of each phase.
    pub phases: Vec<Phase>,
    /// Position up to which the server replayed the WAL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replayed_lsn: Option<String>,
    /// End time of the last transaction replayed, or else of the backup; absent if
    /// nothing was recovered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovered_time: Option<String>,
    /// Stored bytes read to check the pages.
    pub read_bytes: u64,
    /// Size of the files in the data directory, in bytes.
    pub image_bytes: u64,
    /// Number of files checked.
    pub files: u64,
    /// Number of pages decoded and checked.
    pub pages: u64,
    /// Bytes written by the clone.
    pub diff_bytes: u64,
    /// The checks that were done, in order.
    pub checks: Vec<Check>,
    /// Damaged places.
    pub damage: Vec<Damage>,
    /// Number of damaged places, listed or not.
    pub damages: u64,
    /// What pg_probackup's own restore would lose, although the backup has it.
    pub restore_losses: Vec<LossReport>,
    /// Collations whose version differs on this host.
    pub collations: Vec<CollationReport>,
    /// Whether less was done than the profile asks for.
    #[serde(skip)]
    pub partial: bool,
}

/// Duration of a phase.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Phase {
    /// pages, start, session, amcheck, dump, sql, command or stop.
    pub name: &'static str,
    /// Duration in seconds.
    pub seconds: f64,
}

/// One check.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Check {
    /// pages, wal, restore, start, session, amcheck, dump, sql or command.
    pub kind: &'static str,
    /// What was checked: a database, or the name in the profile; empty for other
    /// kinds.
    pub name: String,
    /// Its verdict.
    pub verdict: Verdict,
    /// Duration in seconds.
    pub seconds: f64,
    /// The first error, as one text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Check {
    /// Returns `kind`, or `kind:name`.
    #[must_use]
    pub fn label(&self) -> String {
        match self.name.is_empty() {
            true => self.kind.to_owned(),
            false => format!("{}:{}", self.kind, self.name),
        }
    }
}

/// A damaged place.
#[derive(Debug, Clone, Default, Serialize, JsonSchema)]
pub struct Damage {
    /// The file inside the data directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The relation's file node, if the file is a relation's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relfilenode: Option<u32>,
    /// The OID of its database; 0 for a shared relation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub database: Option<u32>,
    /// The relation's name, if the system catalog could be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relation: Option<String>,
    /// The block within the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block: Option<u32>,
    /// The offset in the stored file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// The backup that contains the damage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backup: Option<String>,
    /// What is wrong, as a sentence.
    pub message: String,
    /// The other backups with an intact copy; absent if they were not searched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub good_in: Option<Vec<String>>,
}

impl BackupReport {
    /// Returns the verdict. A backup is not proved if nothing was checked, or less
    /// than was asked for.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let worst = self.checks.iter().map(|check| check.verdict).max();
        match worst.unwrap_or(Verdict::CouldNotTell) {
            Verdict::Proved if self.partial => Verdict::PagesRight,
            worst => worst,
        }
    }

    /// Returns the duration of a phase, if it took place.
    #[must_use]
    pub fn phase(&self, name: &str) -> Option<f64> {
        let phase = self.phases.iter().find(|phase| phase.name == name)?;
        Some(phase.seconds)
    }

    /// Adds to the duration of a phase.
    pub fn spend(&mut self, name: &'static str, seconds: f64) {
        match self.phases.iter_mut().find(|phase| phase.name == name) {
            Some(phase) => phase.seconds += seconds,
            None => self.phases.push(Phase { name, seconds }),
        }
    }
}

/// A file that restore would truncate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct LossReport {
    /// The file inside the data directory.
    pub path: String,
    /// The first block of the file that is lost.
    pub first_block: u32,
    /// Number of blocks from there to the end of the file.
    pub blocks: u32,
    /// The backup whose truncation marker is taken for a newer one.
    pub marked_in: String,
    /// The loss as a sentence, with what to do.
    pub message: String,
}

impl LossReport {
    /// Converts a loss that the image has found.
    #[must_use]
    pub fn of(loss: &RestoreLoss) -> Self {
        Self {
            path: loss.path.display().to_string(),
            first_block: loss.first_block.0,
            blocks: loss.blocks,
            marked_in: loss.marked_in.to_string(),
            message: loss.to_string(),
        }
    }
}

/// A collation whose version differs on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct CollationReport {
    /// The database.
    pub database: String,
    /// The collation: the database's own, or one that an index there uses.
    pub collation: String,
    /// The version by which the cluster's indexes were sorted.
    pub recorded: String,
    /// This host's version; absent if it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub here: Option<String>,
    /// Number of the database's indexes that are sorted by it.
    pub indexes: usize,
}

impl CollationReport {
    /// Returns the difference as a sentence.
    #[must_use]
    pub fn sentence(&self) -> String {
        let Self {
            database,
            collation,
            recorded,
            ..
        } = self;
        let here = self.here.as_deref().unwrap_or("none");
        let indexes = match self.indexes {
            1 => "1 index is".to_owned(),
            more => format!("{more} indexes are"),
        };
        format!(
            "in database {database}, the collation {collation} has version {recorded}, but this \
             host has {here}; {indexes} sorted by it"
        )
    }
}
