//! What is known about each backup of an instance, from its history: which are
//! proved, which are bad, and which nobody has verified.
//!
//! A backup that was found bad stays bad until it is proved. The evidence stands even
//! if another backup is intact, if a later run could not tell, or if it checked less.
//! A backup that pg_probackup itself does not restore is bad by its status, verified
//! or not, for as long as it has that status.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;

use super::{Entry, ProfileId};
use crate::verify::backup_report::BackupReport;
use crate::verify::verdict::Verdict;

/// What is known about an instance's backups.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Standing {
    /// Number of proved backups.
    pub proved: usize,
    /// The bad backups, by id.
    pub bad: Vec<KnownBad>,
    /// Number of backups that are neither.
    pub unproved: usize,
    /// Start time of the oldest proof, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest_proof: Option<String>,
    /// Every backup of the instance, with what is known about it.
    #[serde(skip)]
    pub each: BTreeMap<String, Verdict>,
}

/// A backup that was found bad and has not been proved since.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct KnownBad {
    /// Its id.
    pub backup: String,
    /// Start time of the first verification that found it bad, RFC 3339; of the
    /// backup if only pg_probackup's own status says so.
    pub since: String,
    /// The profile of the last verification that found it bad; empty if only
    /// pg_probackup's own status says so.
    pub profile: String,
    /// The first error of that last verification.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Each profile that found it bad, with the checks that did.
    #[serde(skip)]
    pub(in crate::verify) evidence: Vec<(ProfileId, Vec<String>)>,
}

/// A backup in the catalog, as it is listed.
#[derive(Debug, Clone, Default)]
pub struct Listed {
    /// Its id.
    pub id: String,
    /// Start time of the backup, RFC 3339.
    pub begun: String,
    /// Its chain, joined by spaces; `None` if it cannot be restored.
    pub chain: Option<String>,
    /// Why pg_probackup itself does not restore it, if that is evidence.
    pub broken: Option<String>,
}

impl Listed {
    /// Returns it as bad, if pg_probackup's status says so.
    fn bad_by_status<'a>(&self) -> Option<Known<'a>> {
        let error = self.broken.clone()?;
        Some(Known::Bad(KnownBad {
            backup: self.id.clone(),
            since: self.begun.clone(),
            error: Some(error),
            ..KnownBad::default()
        }))
    }
}

/// What is known about one backup.
enum Known<'a> {
    /// Since this time, RFC 3339.
    Proved(&'a str),
    Bad(KnownBad),
}

impl Standing {
    /// Returns what the history, with its oldest line first, says about the listed
    /// backups. A proof counts only for the chain that was verified, because the same
    /// id may become a FULL in place; a backup found bad stays bad under any chain.
    #[must_use]
    pub fn of<'a>(history: &'a [Entry], backups: &'a [Listed]) -> Self {
        let mut known: BTreeMap<&str, (&Listed, Option<Known<'_>>)> = BTreeMap::new();
        for backup in backups {
            known.insert(&backup.id, (backup, None));
        }
        for entry in history {
            if let Some((backup, state)) = known.get_mut(entry.backup.as_str()) {
                learn(state, entry, backup.chain.as_ref() == Some(&entry.chain));
            }
        }
        let mut standing = Self::default();
        for (id, (backup, state)) in known {
            let verdict = match state.or_else(|| backup.bad_by_status()) {
                None => {
                    standing.unproved += 1;
                    Verdict::CouldNotTell
                }
                Some(Known::Proved(since)) => {
                    standing.proved += 1;
                    // Times of this format in UTC sort by their text.
                    let oldest = standing.oldest_proof.as_deref();
                    if oldest.is_none_or(|oldest| since < oldest) {
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

    /// Returns the bad backups, except those that a run has just found bad.
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
                ..KnownBad::default()
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
        let by = entry.by();
        self.evidence.retain(|(profile, _)| !profile.is(&by));
        self.evidence.push((by, entry.bad.clone()));
    }

    /// Removes the evidence that a proof refutes, and returns whether none is left. A
    /// proof by the same profile counts, even if that profile now asks for less. A
    /// proof by another profile counts if it includes the checks that found the
    /// backup bad.
    fn is_refuted_by(&mut self, proof: &Entry) -> bool {
        let by = proof.by();
        self.evidence.retain(|(profile, checks)| {
            let is_right = |check: &String| proof.right.contains(check);
            let has_looked = !checks.is_empty() && checks.iter().all(is_right);
            !profile.is(&by) && !has_looked
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
            profile_path: None,
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
        let backups: Vec<_> = backups.iter().map(|id| listed(id, Some(id))).collect();
        Standing::of(history, &backups)
    }

    fn listed(id: &str, chain: Option<&str>) -> Listed {
        Listed {
            id: id.to_owned(),
            begun: "2026-10-31T03:00:00Z".to_owned(),
            chain: chain.map(str::to_owned),
            broken: None,
        }
    }

    fn in_dir(dir: &str, entry: Entry) -> Entry {
        let path = format!("/{dir}/{}.toml", entry.profile);
        Entry {
            profile_path: Some(path.into()),
            ..entry
        }
    }

    /// Two profiles may have the same name; lines of older versions have nothing
    /// else.
    #[test]
    fn a_profile_is_known_by_its_file() {
        use Verdict::{Bad, Proved};
        let bad = || entry(1, "A", "nightly", Bad, &["sql:orders"]);
        let proof = || entry(2, "A", "nightly", Proved, &["pages"]);
        for (bad, proof, left) in [
            (in_dir("a", bad()), in_dir("b", proof()), 1),
            (in_dir("a", bad()), in_dir("a", proof()), 0),
            (bad(), in_dir("b", proof()), 0),
        ] {
            let known = standing(&[bad, proof], &["A"]);
            assert_eq!(known.bad.len(), left, "{known:?}");
        }
        let both = [in_dir("a", bad()), in_dir("b", bad()), in_dir("a", proof())];
        assert_eq!(standing(&both, &["A"]).bad.len(), 1);
    }

    #[test]
    fn what_pg_probackup_calls_broken_is_bad_by_its_word() {
        use Verdict::Proved;
        let history = [entry(1, "A", "main", Proved, &["pages"])];
        let mut backup = listed("A", None);
        backup.broken = Some("it is CORRUPT".to_owned());
        let known = Standing::of(&history, &[backup.clone()]);
        assert_eq!((known.proved, known.unproved), (0, 0));
        assert_eq!(known.bad[0].error, backup.broken);
        assert_eq!(known.bad[0].since, backup.begun);
        assert_eq!(known.each["A"], Verdict::Bad);
        // A backup that is being created may be intact in a moment.
        let known = Standing::of(&[], &[listed("A", None)]);
        assert_eq!((known.bad.len(), known.unproved), (0, 1));
    }

    /// A proof of one chain says nothing about another under the same id, and each
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
        for chain in [Some("A B"), None] {
            let known = Standing::of(&history, &[listed("B", chain)]);
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

        // Another profile did not run the check that found it bad.
        history.push(entry(7, "A", "pages", Proved, &["pages"]));
        assert_eq!(standing(&history, &here).bad.len(), 1);
        history.push(entry(8, "A", "other", Proved, &["pages", "sql:orders"]));
        assert_eq!(standing(&history, &here).bad, []);
        assert_eq!(standing(&history, &here).proved, 2);
        // Once it is gone from the catalog, it no longer matters.
        assert_eq!(standing(&history, &["B"]).bad, []);
    }
}
