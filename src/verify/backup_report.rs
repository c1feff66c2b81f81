//! What a verification found of one backup.

use schemars::JsonSchema;
use serde::Serialize;

use super::verdict::Verdict;
use crate::image::RestoreLoss;

/// The result for one backup.
#[derive(Debug, Clone, Default, Serialize, JsonSchema)]
pub struct BackupReport {
    /// Its id.
    pub backup: String,
    /// FULL, DELTA, ..
    pub mode: String,
    /// All members of its chain, the FULL first.
    pub chain: Vec<String>,
    /// When the backup had ended, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backup_end: Option<String>,
    /// When this was begun, RFC 3339.
    pub started: String,
    /// How long all of it took.
    pub seconds: f64,
    /// The worst of the checks' verdicts; absent while there is none.
    pub verdict: Option<Verdict>,
    /// How long each part took.
    pub phases: Vec<Phase>,
    /// How far the server had replayed the WAL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replayed_lsn: Option<String>,
    /// When the last transaction replayed had ended, or else the backup; absent
    /// where nothing was recovered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovered_time: Option<String>,
    /// Stored bytes read for the pages.
    pub read_bytes: u64,
    /// Bytes that the files have in the data directory.
    pub image_bytes: u64,
    /// Files looked at.
    pub files: u64,
    /// Pages decoded and checked.
    pub pages: u64,
    /// Bytes that the clone wrote.
    pub diff_bytes: u64,
    /// What was done, in its order.
    pub checks: Vec<Check>,
    /// Bad places.
    pub damage: Vec<Place>,
    /// How many there are, named or not.
    pub damages: u64,
    /// What pg_probackup's own restore would lose, though the backup has it.
    pub restore_losses: Vec<LossReport>,
    /// Collations that have another version on this host.
    pub collations: Vec<CollationReport>,
    /// Whether less was done than the profile asks for.
    #[serde(skip)]
    pub partial: bool,
}

/// How long a part took.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Phase {
    /// pages, start, amcheck, dump, sql, command or stop.
    pub name: &'static str,
    /// Seconds.
    pub seconds: f64,
}

/// One check.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Check {
    /// pages, wal, restore, start, amcheck, dump, sql or command.
    pub kind: &'static str,
    /// What was checked: a database, or the name in the profile.
    pub name: String,
    /// What it says.
    pub verdict: Verdict,
    /// How long it took.
    pub seconds: f64,
    /// The first error, as one text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Check {
    /// `kind`, or `kind:name`.
    #[must_use]
    pub fn label(&self) -> String {
        match self.name.is_empty() {
            true => self.kind.to_owned(),
            false => format!("{}:{}", self.kind, self.name),
        }
    }
}

/// A bad place.
#[derive(Debug, Clone, Default, Serialize, JsonSchema)]
pub struct Place {
    /// The file inside the data directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The relation's file node, if it is a relation's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relfilenode: Option<u32>,
    /// The oid of its database; 0 is a shared one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub database: Option<u32>,
    /// Its name, where the catalog could be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relation: Option<String>,
    /// The block within the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block: Option<u32>,
    /// The byte in the stored file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// The backup that is at fault.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backup: Option<String>,
    /// What is wrong, as a sentence.
    pub message: String,
    /// The other backups that have it well; absent where that was not looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub good_in: Option<Vec<String>>,
}

impl BackupReport {
    /// The verdict; nothing proves a backup of which nothing was checked, or less
    /// than was asked for.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let worst = self.checks.iter().map(|check| check.verdict).max();
        match worst.unwrap_or(Verdict::CouldNotTell) {
            Verdict::Proved if self.partial => Verdict::PagesRight,
            worst => worst,
        }
    }

    /// How long a part took, if it was done.
    #[must_use]
    pub fn phase(&self, name: &str) -> Option<f64> {
        let phase = self.phases.iter().find(|phase| phase.name == name)?;
        Some(phase.seconds)
    }

    /// Adds to how long a part took.
    pub fn spend(&mut self, name: &'static str, seconds: f64) {
        match self.phases.iter_mut().find(|phase| phase.name == name) {
            Some(phase) => phase.seconds += seconds,
            None => self.phases.push(Phase { name, seconds }),
        }
    }
}

/// A file that restore would cut.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct LossReport {
    /// The file inside the data directory.
    pub path: String,
    /// The first block that is lost, within the file.
    pub first_block: u32,
    /// The blocks from there to the file's end.
    pub blocks: u32,
    /// The backup whose note of a truncation is taken for a newer one.
    pub marked_in: String,
    /// All that as a sentence, with what to do.
    pub message: String,
}

impl LossReport {
    /// One that the image has found.
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

/// A collation that has another version on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct CollationReport {
    /// The database.
    pub database: String,
    /// The collation: the database's own, or one that an index there has.
    pub collation: String,
    /// The version by which the cluster has sorted.
    pub recorded: String,
    /// This host's; absent where it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub here: Option<String>,
    /// How many indexes of the database are sorted by it.
    pub indexes: usize,
}

impl CollationReport {
    /// All that as a sentence.
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
            "in database {database}, the collation {collation} is of version {recorded}, and this \
             host's is {here}; {indexes} sorted by it"
        )
    }
}
