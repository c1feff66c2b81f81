//! A verification as one self-contained HTML page, fit to be shown to an auditor:
//! what was done to which backup, the results, and the history of the profile.

mod chart;
mod words;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use self::words::{duration, escaped, escaped_lines, moment};
use super::Document;
use crate::figures::{counted, human_bytes};
use crate::verify::backup_report::BackupReport;
use crate::verify::history::Entry;
use crate::verify::verdict::Verdict;

/// Maximum number of bad places, and of files, that the page lists.
const NAMED: usize = 100;

const STYLE: &str = "\
body{font:15px/1.5 system-ui,sans-serif;color:#1c2430;max-width:60em;margin:2em auto;padding:0 1em}\
h1{font-size:1.5em;margin-bottom:0}h2{font-size:1.15em;margin-top:2em}\
p.sub{color:#5b6675;margin-top:.2em}\
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}\
th,td{text-align:left;padding:.35em .7em;border-bottom:1px solid #dde3ea;vertical-align:top}\
th{color:#5b6675;font-weight:600;font-size:.85em}td.n{text-align:right;white-space:nowrap}\
pre{white-space:pre-wrap;margin:0;font-size:.85em}\
.v{font-weight:600;padding:.1em .5em;border-radius:.3em;white-space:nowrap}\
.proved{background:#dff3e4;color:#14612f}.bad{background:#fbdfdf;color:#8c1616}\
.unknown{background:#fdf0d2;color:#7a5200}\
svg{width:100%;height:auto}footer{margin-top:3em;color:#5b6675;font-size:.85em}\
@media print{body{margin:0}}";

/// Returns the page. `history` is the instance's; entries of other profiles are left
/// out.
#[must_use]
pub fn html(document: &Document, history: &[Entry]) -> String {
    let of_profile: Vec<&Entry> = history
        .iter()
        .filter(|entry| entry.by().is(&document.by))
        .collect();
    let mut text = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta \
         name=\"viewport\" content=\"width=device-width\">\n<title>Restore verification: \
         {profile}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>Restore verification: \
         {profile} {verdict}</h1>\n<p class=\"sub\">Instance {instance} of the catalog {catalog}. \
         Started {started}, took {seconds}. pbkfs {version}.</p>\n",
        profile = escaped(&document.profile),
        verdict = badge(document.verdict),
        instance = escaped(&document.instance),
        catalog = escaped(&document.catalog),
        started = moment(&document.started),
        seconds = duration(document.seconds),
        version = document.pbkfs,
    );
    standing(&mut text, document);
    for report in &document.backups {
        backup(&mut text, report);
    }
    let skipped = document.skipped.iter();
    let skipped = skipped.map(|one| [escaped(&one.backup), escaped(&one.reason)]);
    table(&mut text, "Skipped", ["Backup", "Why"], skipped);
    chart::recovery_times(&mut text, &of_profile);
    last_verified(&mut text, &of_profile);
    text.push_str(
        "<footer>A backup is <b>proved</b> when every check that the profile asks for was done \
         and found everything right, and <b>bad</b> when there is evidence of damage, until it is \
         proved. <b>Pages right</b> means that less was checked than was asked for; it proves \
         nothing. <b>Could not tell</b> says nothing about the backup: the host lacked time, \
         space or permissions.</footer>\n</body>\n</html>\n",
    );
    text
}

/// Adds what is known about all backups of the instance.
fn standing(text: &mut String, document: &Document) {
    if let Some(error) = &document.error {
        let _ = writeln!(text, "<pre>{}</pre>", escaped_lines(error));
    }
    let standing = &document.standing;
    let oldest = standing.oldest_proof.as_deref();
    let oldest = oldest.map(|at| format!("; the oldest proof is from {}", moment(at)));
    let _ = writeln!(
        text,
        "<p>Of the instance's backups, {} proved, {} bad, {} neither{}.</p>",
        are(standing.proved),
        are(standing.bad.len()),
        are(standing.unproved),
        oldest.unwrap_or_default()
    );
    let columns = ["Backup", "Since", "Profile", "First error"];
    let bad = standing.bad.iter().map(|bad| {
        let profile = match bad.profile.is_empty() {
            true => "none: pg_probackup's own status".to_owned(),
            false => escaped(&bad.profile),
        };
        let error = escaped(bad.error.as_deref().unwrap_or_default());
        [escaped(&bad.backup), moment(&bad.since), profile, error]
    });
    table(text, "Known to be bad", columns, bad);
}

fn are(count: usize) -> String {
    format!("{count} {}", if count == 1 { "is" } else { "are" })
}

fn backup(text: &mut String, report: &BackupReport) {
    let _ = write!(
        text,
        "<h2>Backup {} ({}) {}</h2>\n<table>\n",
        escaped(&report.backup),
        escaped(&report.mode),
        badge(report.verdict())
    );
    let mut fact = |name: &str, value: String| {
        let _ = writeln!(text, "<tr><th>{name}</th><td>{}</td></tr>", escaped(&value));
    };
    fact("Chain", report.chain.join(" → "));
    if let Some(end) = &report.backup_end {
        fact("Backup ended", moment(end));
    }
    if let Some(time) = &report.recovered_time {
        let lsn = report
            .replayed_lsn
            .as_deref()
            .map(|lsn| format!(", LSN {lsn}"));
        fact(
            "Recovered to",
            format!("{}{}", moment(time), lsn.unwrap_or_default()),
        );
    }
    if report.files > 0 {
        fact(
            "Read",
            format!(
                "{}, {}: {} stored, {} as a data directory",
                counted(report.files, "file"),
                counted(report.pages, "page"),
                human_bytes(report.read_bytes),
                human_bytes(report.image_bytes)
            ),
        );
    }
    let phases = report.phases.iter();
    let phases = phases.map(|phase| format!("{} {}", phase.name, duration(phase.seconds)));
    let parts: Vec<String> = phases.collect();
    fact(
        "Took",
        format!("{} ({})", duration(report.seconds), parts.join(", ")),
    );
    text.push_str(
        "</table>\n<table>\n<tr><th>Check</th><th>Verdict</th><th>Took</th><th>First error</th></tr>\n",
    );
    for check in &report.checks {
        let error = check.error.as_deref().unwrap_or_default();
        let _ = writeln!(
            text,
            "<tr><td>{}</td><td>{}</td><td class=\"n\">{}</td><td><pre>{}</pre></td></tr>",
            escaped(&check.label()),
            badge(check.verdict),
            duration(check.seconds),
            escaped_lines(error)
        );
    }
    text.push_str("</table>\n");
    places(text, report);
    losses(text, report);
    collations(text, report);
}

/// Adds the collations whose version differs here.
fn collations(text: &mut String, report: &BackupReport) {
    let heading = "Collations whose version differs on this host";
    let columns = ["Database", "Collation", "Version", "Here", "Indexes"];
    let rows = report.collations.iter().map(|collation| {
        [
            escaped(&collation.database),
            escaped(&collation.collation),
            escaped(&collation.recorded),
            escaped(collation.here.as_deref().unwrap_or("none")),
            collation.indexes.to_string(),
        ]
    });
    table(text, heading, columns, rows);
}

/// Adds what the backup has and pg_probackup's own restore would lose.
fn losses(text: &mut String, report: &BackupReport) {
    let files = counted(report.restore_losses.len(), "file");
    let heading = format!("Lost by pg_probackup's own restore: {files}");
    let losses = report.restore_losses.iter().take(NAMED).map(|loss| {
        let block = loss.first_block.to_string();
        [escaped(&loss.path), block, escaped(&loss.message)]
    });
    table(text, &heading, ["File", "From block", "What"], losses);
}

fn places(text: &mut String, report: &BackupReport) {
    let heading = format!("Damage: {}", counted(report.damages, "place"));
    let columns = ["What", "Relation", "Intact in backup"];
    let places = report.damage.iter().take(NAMED).map(|place| {
        let relation = match (&place.relation, place.relfilenode) {
            (Some(name), _) => name.clone(),
            (None, Some(node)) => format!("file node {node}"),
            (None, None) => String::new(),
        };
        let good = match place.good_in.as_deref() {
            None => "not searched for".to_owned(),
            Some([]) => "none".to_owned(),
            Some(good) => good.join(", "),
        };
        [escaped(&place.message), escaped(&relation), escaped(&good)]
    });
    table(text, &heading, columns, places);
}

/// Adds the last verification of each backup, the newest first.
fn last_verified(text: &mut String, history: &[&Entry]) {
    let mut last: BTreeMap<&str, &Entry> = BTreeMap::new();
    for entry in history {
        last.insert(&entry.backup, entry);
    }
    let columns = [
        "Backup",
        "When",
        "Verdict",
        "Took",
        "Recovery",
        "First error",
    ];
    let rows = last.values().rev().map(|entry| {
        let recovery = entry.recovery_seconds;
        let error = entry.error.as_deref().and_then(|e| e.lines().next());
        [
            escaped(&entry.backup),
            moment(&entry.started),
            badge(entry.verdict),
            duration(entry.seconds),
            recovery.map_or("not measured".to_owned(), duration),
            escaped(error.unwrap_or_default()),
        ]
    });
    table(text, "Last verified", columns, rows);
}

/// Adds a table with a heading, unless it has no rows.
fn table<const N: usize>(
    text: &mut String,
    heading: &str,
    columns: [&str; N],
    rows: impl Iterator<Item = [String; N]>,
) {
    let mut rows = rows.peekable();
    if rows.peek().is_none() {
        return;
    }
    let columns = columns.map(|column| format!("<th>{column}</th>")).concat();
    let _ = write!(text, "<h2>{heading}</h2>\n<table>\n<tr>{columns}</tr>\n");
    for cells in rows {
        let cells = cells.map(|cell| format!("<td>{cell}</td>")).concat();
        let _ = writeln!(text, "<tr>{cells}</tr>");
    }
    text.push_str("</table>\n");
}

fn badge(verdict: Verdict) -> String {
    let class = match verdict {
        Verdict::Proved => "proved",
        Verdict::Bad => "bad",
        Verdict::PagesRight | Verdict::CouldNotTell => "unknown",
    };
    format!("<span class=\"v {class}\">{}</span>", verdict.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::history::standing::{KnownBad, Standing};
    use crate::verify::report::filled_with;

    /// Returns the tags of a page, in order, without attributes.
    fn tags(page: &str) -> Vec<String> {
        let tags = page.split('<').skip(1).map(|rest| {
            let (tag, _) = rest.split_once('>').unwrap();
            let is_alone = tag.ends_with('/');
            let name = tag.split([' ', '/']).find(|part| !part.is_empty()).unwrap();
            match (tag.starts_with('/'), is_alone) {
                (true, _) => format!("/{name}"),
                (false, true) => format!("{name}/"),
                (false, false) => name.to_owned(),
            }
        });
        tags.collect()
    }

    /// Checks that each element is closed where it should be, and that each is where
    /// HTML permits it.
    fn check(page: &str) {
        const ALONE: [&str; 2] = ["!DOCTYPE", "meta"];
        const NOT_IN_A_PARAGRAPH: [&str; 6] = ["p", "pre", "h1", "h2", "table", "svg"];
        let mut open: Vec<String> = Vec::new();
        for tag in tags(page) {
            match tag.strip_prefix('/') {
                Some(ended) => assert_eq!(open.pop().as_deref(), Some(ended), "{page}"),
                None if tag.ends_with('/') || ALONE.contains(&&*tag) => {}
                None => {
                    let in_paragraph = open.iter().any(|open| open == "p");
                    let may_be = !in_paragraph || !NOT_IN_A_PARAGRAPH.contains(&&*tag);
                    assert!(may_be, "{tag} in a paragraph: {page}");
                    open.push(tag);
                }
            }
        }
        assert_eq!(open, Vec::<String>::new(), "{page}");
    }

    #[test]
    fn the_page_is_html_whatever_stands_in_it() {
        for text in ["text", "</p><pre>", "a\n<b", "&\"'"] {
            let mut document = filled_with(text);
            let bad = KnownBad {
                backup: text.to_owned(),
                since: text.to_owned(),
                profile: text.to_owned(),
                error: Some(text.to_owned()),
                ..KnownBad::default()
            };
            document.standing = Standing {
                bad: vec![bad, KnownBad::default()],
                ..Standing::default()
            };
            let mut entry = Entry::of(&document.by, &document.backups[0]);
            entry.recovery_seconds = Some(2.5);
            let page = html(&document, &[entry]);
            check(&page);
            assert!(
                page.contains("Known to be bad") && page.contains("<svg"),
                "{page}"
            );
        }
    }

    #[test]
    fn what_comes_from_outside_is_escaped() {
        assert_eq!(escaped("<a b=\"&\">"), "&lt;a b=&quot;&amp;&quot;&gt;");
        assert_eq!(escaped("\x1b\n\u{9b}\u{202e}"), r"\x1b\n\u009b\u202e");
        assert_eq!(escaped_lines("<\x1b\n>\r"), "&lt;\\x1b\n&gt;\\r");
    }

    #[test]
    fn times_are_for_people() {
        assert_eq!(
            moment("2026-11-22T07:28:58.123Z"),
            "2026-11-22 07:28:58 UTC"
        );
        assert_eq!(duration(3.25), "3.2 s");
        assert_eq!(duration(600.0), "10.0 min");
        assert_eq!(duration(7200.0), "2.0 h");
    }
}
