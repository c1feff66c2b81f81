//! What is known of each backup of an instance, from its history: which are
//! proved, which are bad, which nobody has looked at.
//!
//! A backup that was found bad stays so until it is proved. That another one is
//! well, that nothing could be told, or that less was looked at, takes nothing of
//! the evidence away.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;

use super::history::Entry;
use super::report::BackupReport;
use super::verdict::Verdict;

/// What is known of an instance's backups.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
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
    /// By profile, the checks that found it so.
    #[serde(skip)]
    evidence: BTreeMap<String, Vec<String>>,
}

/// What is known of one backup.
enum Known<'a> {
    /// Since then, RFC 3339.
    Proved(&'a str),
    Bad(KnownBad),
}

impl Standing {
    /// What the history says, oldest line first, of the backups that are there: each
    /// with its id and its chain, or no chain where it cannot be restored. A proof is
    /// of a chain, as an id may turn FULL in place; bad stays bad.
    #[must_use]
    pub fn of<'a>(history: &'a [Entry], backups: &'a [(String, Option<String>)]) -> Self {
        let mut known: BTreeMap<&str, (Option<&str>, Option<Known<'_>>)> = BTreeMap::new();
        for (id, chain) in backups {
            known.insert(id, (chain.as_deref(), None));
        }
        for entry in history {
            if let Some((chain, state)) = known.get_mut(entry.backup.as_str()) {
                learn(state, entry, *chain == Some(&*entry.chain));
            }
        }
        let mut standing = Self::default();
        for (id, (_, state)) in known {
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

fn learn<'a>(state: &mut Option<Known<'a>>, entry: &'a Entry, is_of_chain: bool) {
    match (&mut *state, entry.verdict) {
        (Some(Known::Bad(bad)), Verdict::Bad) => bad.add(entry),
        (_, Verdict::Bad) => {
            let mut bad = KnownBad {
                backup: entry.backup.clone(),
                since: entry.started.clone(),
                profile: String::new(),
                error: None,
                evidence: BTreeMap::new(),
            };
            bad.add(entry);
            *state = Some(Known::Bad(bad));
        }
        (_, Verdict::Proved) if !is_of_chain => {}
        (known, Verdict::Proved) => {
            let is_refuted = match known {
                Some(Known::Bad(bad)) => bad.is_refuted_by(entry),
                _ => true,
            };
            if is_refuted {
                *state = Some(Known::Proved(&entry.started));
            }
        }
        (_, Verdict::PagesRight | Verdict::CouldNotTell) => {}
    }
}

impl KnownBad {
    fn add(&mut self, entry: &Entry) {
        self.error.clone_from(&entry.error);
        self.profile.clone_from(&entry.profile);
        self.evidence
            .insert(entry.profile.clone(), entry.bad.clone());
    }

    /// Takes away what a proof refutes, and tells whether nothing is left. A proof by
    /// the same profile counts, also when it asks for less by now. One by another
    /// profile counts if it had a look at what was found bad.
    fn is_refuted_by(&mut self, proof: &Entry) -> bool {
        self.evidence.retain(|profile, checks| {
            let is_right = |check: &String| proof.right.contains(check);
            let has_looked = !checks.is_empty() && checks.iter().all(is_right);
            *profile != proof.profile && !has_looked
        });
        self.evidence.is_empty()
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

    fn standing(history: &[Entry], backups: &[&str]) -> Standing {
        let with_chain = |id: &&str| ((*id).to_owned(), Some((*id).to_owned()));
        let backups: Vec<_> = backups.iter().map(with_chain).collect();
        Standing::of(history, &backups)
    }

    /// A proof of one chain says nothing of another under the same id, and each
    /// profile's evidence is its own.
    #[test]
    fn a_proof_is_of_what_it_looked_at() {
        use Verdict::{Bad, Proved};
        let history = [
            entry(1, "A", "sql", Bad, &["sql:orders"]),
            entry(2, "A", "pages", Bad, &["pages"]),
            entry(3, "A", "pages", Proved, &["pages"]),
            entry(4, "B", "pages", Proved, &["pages"]),
        ];
        let known = standing(&history, &["A", "B"]);
        assert_eq!((known.bad.len(), known.proved), (1, 1));
        // Lines of version 1 do not say what was found bad.
        let old = [
            entry(1, "A", "sql", Bad, &[]),
            entry(2, "A", "pages", Proved, &["pages"]),
        ];
        assert_eq!(standing(&old, &["A"]).bad.len(), 1);
        for chain in [Some("A B".to_owned()), None] {
            let known = Standing::of(&history, &[("B".to_owned(), chain)]);
            assert_eq!((known.proved, known.unproved), (0, 1));
        }
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
