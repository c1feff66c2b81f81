//! What a verification found: one document, from which every report is made.

use std::fmt::Write as _;

use schemars::JsonSchema;
use serde::Serialize;

use super::checks::CollationReport;
use super::history::ProfileId;
use super::restore::{LossReport, losses};
use super::standing::Standing;
use super::verdict::Verdict;
use crate::escape::{line, value};
use crate::figures::{counted, human_bytes};

#[cfg(test)]
pub use tests::filled_with;

/// The document's version. It grows when a field changes its meaning or goes.
pub const VERSION: u32 = 2;

/// Places that the report for people names.
const SHOWN: usize = 10;

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

/// The report for people: a line for each backup, and below it what is wrong,
/// no more than fits on a screen. What comes from outside begins no line of
/// its own in it, but below a check what that said, indented. `verbose` shows what is right, too.
#[must_use]
pub fn human(document: &Document, verbose: bool) -> String {
    let mut text = String::new();
    for report in &document.backups {
        let mode = match report.mode.is_empty() {
            true => String::new(),
            false => format!(" ({})", value(&report.mode)),
        };
        let _ = writeln!(
            text,
            "{} backup {}{mode}: {} in {:.1} s",
            value(&document.instance),
            value(&report.backup),
            report.verdict().as_str(),
            report.seconds
        );
        checks(&mut text, report, verbose);
        places(&mut text, report);
        losses(&mut text, report);
        for collation in &report.collations {
            let _ = writeln!(text, "  {}", line(&collation.sentence()));
        }
    }
    for known in document.standing.not_of(&document.backups) {
        let found = match known.profile.is_empty() {
            true => "BAD by pg_probackup's own word".to_owned(),
            false => format!(
                "BAD since {} (profile {}), and not proved since",
                line(&known.since),
                value(&known.profile)
            ),
        };
        let _ = writeln!(
            text,
            "{} backup {}: {found}: {}",
            value(&document.instance),
            value(&known.backup),
            first_lines(known.error.as_deref().unwrap_or("no error was kept"))
        );
    }
    for skipped in document.skipped.iter().filter(|_| verbose) {
        let _ = writeln!(
            text,
            "backup {} was passed over: {}",
            value(&skipped.backup),
            line(&skipped.reason)
        );
    }
    text
}

fn checks(text: &mut String, report: &BackupReport, verbose: bool) {
    for check in &report.checks {
        let seconds = check.seconds;
        match &check.error {
            Some(error) => {
                let verdict = check.verdict.as_str();
                let _ = writeln!(
                    text,
                    "  {}: {verdict}: {}",
                    value(&check.label()),
                    first_lines(error)
                );
            }
            None if verbose => {
                let _ = writeln!(text, "  {}: right, {seconds:.1} s", value(&check.label()));
            }
            None => {}
        }
    }
    if verbose && report.pages > 0 {
        let _ = writeln!(
            text,
            "  {} in {}, {} read for {} of the data directory",
            counted(report.pages, "page"),
            counted(report.files, "file"),
            human_bytes(report.read_bytes),
            human_bytes(report.image_bytes)
        );
    }
    if verbose && let Some(time) = &report.recovered_time {
        let lsn = report.replayed_lsn.iter();
        let lsn: String = lsn.map(|lsn| format!(", {}", line(lsn))).collect();
        let _ = writeln!(text, "  recovered to {}{lsn}", line(time));
    }
}

fn places(text: &mut String, report: &BackupReport) {
    for place in report.damage.iter().take(SHOWN) {
        let _ = writeln!(text, "  {}", line(&place.message));
        if let Some(relation) = &place.relation {
            let _ = writeln!(text, "    that is of {}", value(relation));
        }
        match place.good_in.as_deref() {
            Some([]) => {
                let _ = writeln!(text, "    no other backup of the instance has it well");
            }
            Some(good) => {
                let _ = writeln!(text, "    it is well in backup {}", line(&good.join(", ")));
            }
            None => {}
        }
    }
    let more = report
        .damages
        .saturating_sub(report.damage.len().min(SHOWN) as u64);
    if more > 0 {
        let _ = writeln!(text, "  and {more} more; --json names them");
    }
}

/// A text of several lines, short and indented.
fn first_lines(text: &str) -> String {
    const LINES: usize = 8;
    let mut lines: Vec<_> = text.lines().take(LINES).map(line).collect();
    if text.lines().count() > LINES {
        lines.push("..".into());
    }
    lines.join("\n    ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A document in which every text is this one.
    pub fn filled_with(text: &str) -> Document {
        let own = || text.to_owned();
        let check = Check {
            kind: "sql",
            name: own(),
            verdict: Verdict::Bad,
            seconds: 1.0,
            error: Some(own()),
        };
        let place = Place {
            relation: Some(own()),
            message: own(),
            good_in: Some(vec![own()]),
            ..Place::default()
        };
        let right = Check {
            error: None,
            ..check.clone()
        };
        let report = BackupReport {
            backup: own(),
            mode: own(),
            recovered_time: Some(own()),
            replayed_lsn: Some(own()),
            checks: vec![check, right],
            damage: vec![place],
            damages: 1,
            restore_losses: vec![LossReport {
                path: own(),
                first_block: 1,
                blocks: 1,
                marked_in: own(),
                message: own(),
            }],
            collations: vec![CollationReport {
                database: own(),
                collation: own(),
                recorded: own(),
                here: Some(own()),
                indexes: 1,
            }],
            ..BackupReport::default()
        };
        Document {
            version: VERSION,
            pbkfs: "0",
            profile: own(),
            by: ProfileId {
                name: own(),
                path: None,
            },
            catalog: own(),
            instance: own(),
            started: own(),
            seconds: 1.0,
            verdict: Verdict::Bad,
            exit_code: 1,
            error: Some(own()),
            backups: vec![report],
            skipped: vec![Skipped {
                backup: own(),
                reason: own(),
            }],
            standing: Standing::default(),
        }
    }

    #[test]
    fn what_comes_from_outside_forges_no_line() {
        let tame = human(&filled_with("text"), true);
        let hostile = human(&filled_with("a\x1b[2J\rb\u{9b}\u{202e}"), true);
        assert_eq!(hostile.lines().count(), tame.lines().count());
        let is_odd = |c: char| c != '\n' && c.is_control() || c == '\u{202e}';
        assert!(!hostile.contains(is_odd), "{hostile:?}");
        // Of a line break, what a check said keeps it, indented; nothing else.
        let broken = human(&filled_with("a\nmain backup X: proved"), true);
        assert_eq!(broken.lines().count(), tame.lines().count() + 1);
        assert!(!broken.contains("\nmain"), "{broken}");
    }
}
