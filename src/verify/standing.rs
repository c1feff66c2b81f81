//! What is known of each backup of an instance, from its history: which are
//! proved, which are bad, which nobody has looked at.
//!
//! A backup that was found bad stays so until it is proved. That another one is
//! well, that nothing could be told, or that less was looked at, takes nothing of
//! the evidence away.

use std::collections::BTreeMap;

use serde::Serialize;

use super::history::Entry;
use super::report::BackupReport;
use super::verdict::Verdict;

/// What is known of an instance's backups.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Standing {
    /// Backups that are proved.
    pub proved: usize,
    /// Those that are bad, by id.
    pub bad: Vec<KnownBad>,
    /// Backups that are neither.
    pub unproved: usize,
    /// When the proof that is longest ago was begun, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest_proof: Option<String>,
    /// Every backup of the instance, and what is known of it.
    #[serde(skip)]
    pub each: BTreeMap<String, Verdict>,
}

/// A backup that was found bad, and was not proved since.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KnownBad {
    /// Its id.
    pub backup: String,
    /// When the verification was begun that found it so first, RFC 3339.
    pub since: String,
    /// The profile by which it was.
    pub profile: String,
    /// The first error of the last time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The checks that found it so.
    #[serde(skip)]
    checks: Vec<String>,
}

/// What is known of one backup.
enum Known<'a> {
    /// Since then, RFC 3339.
    Proved(&'a str),
    Bad(KnownBad),
}

impl Standing {
    /// What the history says, oldest line first, of the backups that are there, by
    /// their ids.
    #[must_use]
    pub fn of<'a>(history: &'a [Entry], backups: impl Iterator<Item = &'a str>) -> Self {
        let mut known: BTreeMap<&str, Option<Known<'_>>> = BTreeMap::new();
        known.extend(backups.map(|id| (id, None)));
        for entry in history {
            if let Some(state) = known.get_mut(entry.backup.as_str()) {
                learn(state, entry);
            }
        }
        let mut standing = Self::default();
        for (id, state) in known {
            let verdict = match state {
                None => {
                    standing.unproved += 1;
                    Verdict::CouldNotTell
                }
                Some(Known::Proved(since)) => {
                    standing.proved += 1;
                    // Times of this form in UTC are in the order of their text.
                    if standing
                        .oldest_proof
                        .as_deref()
                        .is_none_or(|oldest| since < oldest)
                    {
                        standing.oldest_proof = Some(since.to_owned());
                    }
                    Verdict::Proved
                }
                Some(Known::Bad(bad)) => {
                    standing.bad.push(bad);
                    Verdict::Bad
                }
            };
            standing.each.insert(id.to_owned(), verdict);
        }
        standing
    }

    /// The bad backups besides those that a run has just found so.
    pub fn not_of<'a>(&'a self, run: &'a [BackupReport]) -> impl Iterator<Item = &'a KnownBad> {
        let found = |bad: &KnownBad, report: &BackupReport| {
            report.backup == bad.backup && report.verdict() == Verdict::Bad
        };
        let is_told = move |bad: &KnownBad| run.iter().any(|report| found(bad, report));
        self.bad.iter().filter(move |bad| !is_told(bad))
    }
}

fn learn<'a>(state: &mut Option<Known<'a>>, entry: &'a Entry) {
    match (&mut *state, entry.verdict) {
        (Some(Known::Bad(bad)), Verdict::Bad) => {
            bad.error.clone_from(&entry.error);
            bad.profile.clone_from(&entry.profile);
            bad.checks.clone_from(&entry.bad);
        }
        (_, Verdict::Bad) => {
            *state = Some(Known::Bad(KnownBad {
                backup: entry.backup.clone(),
                since: entry.started.clone(),
                profile: entry.profile.clone(),
                error: entry.error.clone(),
                checks: entry.bad.clone(),
            }));
        }
        (Some(Known::Bad(bad)), Verdict::Proved) if !bad.is_refuted_by(entry) => {}
        (_, Verdict::Proved) => *state = Some(Known::Proved(&entry.started)),
        (_, Verdict::PagesRight | Verdict::CouldNotTell) => {}
    }
}

impl KnownBad {
    /// A proof by the same profile counts, also when it asks for less by now. One
    /// by another profile counts if it had a look at what was found bad.
    fn is_refuted_by(&self, proof: &Entry) -> bool {
        let is_right = |check: &String| proof.right.contains(check);
        self.profile == proof.profile || self.checks.iter().all(is_right)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(day: u8, backup: &str, profile: &str, verdict: Verdict, checks: &[&str]) -> Entry {
        let checks: Vec<String> = checks.iter().map(ToString::to_string).collect();
        let (right, bad) = match verdict {
            Verdict::Bad => (Vec::new(), checks),
            _ => (checks, Vec::new()),
        };
        Entry {
            version: 2,
            catalog: None,
            profile: profile.to_owned(),
            started: format!("2026-11-{day:02}T03:00:00Z"),
            backup: backup.to_owned(),
            chain: backup.to_owned(),
            verdict,
            seconds: 1.0,
            recovery_seconds: None,
            error: (verdict == Verdict::Bad).then(|| format!("found on day {day}")),
            right,
            bad,
        }
    }

    fn standing(history: &[Entry], backups: &[&'static str]) -> Standing {
        Standing::of(history, backups.iter().copied())
    }

    #[test]
    fn a_bad_backup_stays_bad_until_it_is_proved() {
        use Verdict::{Bad, CouldNotTell, PagesRight, Proved};
        let mut history = vec![
            entry(1, "A", "main", Bad, &["pages"]),
            entry(2, "B", "main", Proved, &["pages"]),
            entry(3, "A", "main", CouldNotTell, &[]),
            entry(4, "A", "main", PagesRight, &["pages"]),
            entry(5, "GONE", "main", Bad, &["pages"]),
        ];
        let here = ["A", "B", "C"];
        let known = standing(&history, &here);
        assert_eq!((known.proved, known.unproved), (1, 1));
        assert_eq!(known.bad.len(), 1);
        let bad = &known.bad[0];
        assert_eq!((&*bad.backup, &*bad.since), ("A", "2026-11-01T03:00:00Z"));
        assert_eq!(known.oldest_proof.as_deref(), Some("2026-11-02T03:00:00Z"));
        assert_eq!(known.each.len(), 3);

        history.push(entry(6, "A", "main", Bad, &["sql:orders"]));
        let known = standing(&history, &here);
        assert_eq!(known.bad[0].since, "2026-11-01T03:00:00Z");
        assert_eq!(known.bad[0].error.as_deref(), Some("found on day 6"));

        // Another profile did not ask what has found it bad.
        history.push(entry(7, "A", "pages", Proved, &["pages"]));
        assert_eq!(standing(&history, &here).bad.len(), 1);
        history.push(entry(8, "A", "other", Proved, &["pages", "sql:orders"]));
        assert_eq!(standing(&history, &here).bad, []);
        assert_eq!(standing(&history, &here).proved, 2);
        // Gone from the catalog, it is of no interest.
        assert_eq!(standing(&history, &["B"]).bad, []);
    }
}
