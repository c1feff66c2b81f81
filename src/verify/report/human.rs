//! The report for people.

use std::fmt::Write as _;

use super::Document;
use crate::escape::{line, value};
use crate::figures::{counted, human_bytes};
use crate::verify::backup_report::BackupReport;

#[cfg(test)]
pub use tests::filled_with;

/// Maximum number of places, and of files, that are listed.
const SHOWN: usize = 10;

/// Returns the report for people: a line for each backup, and below it what is wrong,
/// no more than fits on a screen. Text from outside never begins a line of its own,
/// except the output of a check, which is indented below it. `verbose` shows what is
/// right, too.
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
            true => "BAD according to pg_probackup".to_owned(),
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
            first_lines(known.error.as_deref().unwrap_or("no error was recorded"))
        );
    }
    for skipped in document.skipped.iter().filter(|_| verbose) {
        let _ = writeln!(
            text,
            "backup {} was skipped: {}",
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
                let _ = writeln!(text, "  {}: ok, {seconds:.1} s", value(&check.label()));
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
            let _ = writeln!(text, "    belongs to {}", value(relation));
        }
        match place.good_in.as_deref() {
            Some([]) => {
                let _ = writeln!(
                    text,
                    "    no other backup of the instance has an intact copy"
                );
            }
            Some(good) => {
                let _ = writeln!(text, "    intact in backup {}", line(&good.join(", ")));
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

/// Returns the first lines of a text, indented.
fn first_lines(text: &str) -> String {
    const LINES: usize = 8;
    let mut lines: Vec<_> = text.lines().take(LINES).map(line).collect();
    if text.lines().count() > LINES {
        lines.push("..".into());
    }
    lines.join("\n    ")
}

/// Adds what restore would lose.
fn losses(text: &mut String, report: &BackupReport) {
    for loss in report.restore_losses.iter().take(SHOWN) {
        let _ = writeln!(text, "  {}", line(&loss.message));
    }
    if let Some(more) = report.restore_losses.len().checked_sub(SHOWN)
        && more > 0
    {
        let _ = writeln!(text, "  and {more} more files; --json names them");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::backup_report::{Check, CollationReport, Damage, LossReport};
    use crate::verify::history::ProfileId;
    use crate::verify::history::standing::Standing;
    use crate::verify::report::{Skipped, VERSION};
    use crate::verify::verdict::Verdict;

    /// Returns a document in which every text is `text`.
    pub fn filled_with(text: &str) -> Document {
        let own = || text.to_owned();
        let check = Check {
            kind: "sql",
            name: own(),
            verdict: Verdict::Bad,
            seconds: 1.0,
            error: Some(own()),
        };
        let place = Damage {
            relation: Some(own()),
            message: own(),
            good_in: Some(vec![own()]),
            ..Damage::default()
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
        // Only the output of a check keeps a line break, and is indented.
        let broken = human(&filled_with("a\nmain backup X: proved"), true);
        assert_eq!(broken.lines().count(), tame.lines().count() + 1);
        assert!(!broken.contains("\nmain"), "{broken}");
    }
}
