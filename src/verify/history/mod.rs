//! What was verified when, in a directory of this host:
//!
//! ```text
//! STATE/verify/INSTANCE-SYSTEM.jsonl    a line of JSON for each backup verified
//! ```
//! SYSTEM is the cluster's system identifier. Lines are only ever added. Those of
//! another catalog, which may have copies of the same backups, are left out.

pub mod standing;

use std::fs::DirBuilder;
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::catalog::Backup;
use crate::catalog::Instance;
use crate::profile::Plan;
use crate::session::{lasting_root, make_lasting, open_lasting};
use crate::untrusted::Dir;
use crate::verify::backup_report::{BackupReport, Check};
use crate::verify::verdict::Verdict;

/// The directory of all histories.
const HISTORIES: &str = "verify";

/// The most that is read of a history, in bytes: a line for each backup that
/// was verified, so this is many years.
const LIMIT: u64 = 64 << 20;

/// The version of a line's form: 2 has the checks.
const VERSION: u32 = 2;

/// A profile, as the history knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProfileId {
    /// The name by which reports call it.
    pub name: String,
    /// Its file, however that was named; there is none for a run without a profile.
    pub path: Option<PathBuf>,
}

impl ProfileId {
    /// Whether that is the same profile. Lines of older versions have no path, and are
    /// known by the name.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        match (&self.path, &other.path) {
            (Some(path), Some(other)) => path == other,
            _ => self.name == other.name,
        }
    }
}

/// A line of a backup's history, short enough to keep many.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Entry {
    /// The version of this line's form.
    pub version: u32,
    /// The catalog's path: another one may have a copy of the same backup. Absent in
    /// lines of version 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub catalog: Option<PathBuf>,
    /// The name of the profile by which it was verified.
    pub profile: String,
    /// That profile's file; absent in lines of older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile_path: Option<PathBuf>,
    /// When that was begun, RFC 3339.
    pub started: String,
    /// The backup.
    pub backup: String,
    /// Its chain, joined by spaces: an id may turn FULL in place.
    pub chain: String,
    /// The verdict.
    pub verdict: Verdict,
    /// Seconds, all in all.
    pub seconds: f64,
    /// Seconds until the server had recovered; absent if it was not started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery_seconds: Option<f64>,
    /// The first error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The checks that found everything right.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub right: Vec<String>,
    /// The checks that found it bad.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bad: Vec<String>,
}

impl Entry {
    /// What is kept of a backup's report.
    #[must_use]
    pub fn of(profile: &ProfileId, report: &BackupReport) -> Self {
        let failed = report.checks.iter().find(|check| check.error.is_some());
        let checks = |verdict| {
            let of_it = report.checks.iter().filter(move |c| c.verdict == verdict);
            of_it.map(Check::label).collect()
        };
        Self {
            version: VERSION,
            catalog: None,
            profile: profile.name.clone(),
            profile_path: profile.path.clone(),
            started: report.started.clone(),
            backup: report.backup.clone(),
            chain: report.chain.join(" "),
            verdict: report.verdict(),
            seconds: report.seconds,
            recovery_seconds: report.phase("start"),
            error: failed.and_then(|check| check.error.clone()),
            right: checks(Verdict::Proved),
            bad: checks(Verdict::Bad),
        }
    }

    /// The profile by which it was verified.
    #[must_use]
    pub fn by(&self) -> ProfileId {
        ProfileId {
            name: self.profile.clone(),
            path: self.profile_path.clone(),
        }
    }
}

/// The history of an instance.
#[derive(Debug)]
pub struct History {
    /// Where the profile wants it; else it is where ours are.
    state_dir: Option<PathBuf>,
    /// Its file, in the directory of histories.
    name: String,
    /// The catalog, however it is named.
    catalog: PathBuf,
    /// All that was verified, the oldest first.
    pub entries: Vec<Entry>,
}

impl History {
    /// Reads what there is. A line that cannot be read, as one that a full
    /// disk cut off, is left out.
    ///
    /// # Errors
    /// The file is there and cannot be read; its directory is another user's.
    pub fn read(plan: &Plan, instance: &Instance) -> io::Result<Self> {
        let system = instance.config.system_identifier.unwrap_or_default();
        let mut history = Self {
            state_dir: plan.verify.state_dir.clone(),
            name: format!("{}-{system}.jsonl", instance.name),
            catalog: (plan.catalog.canonicalize()).unwrap_or_else(|_| plan.catalog.clone()),
            entries: Vec::new(),
        };
        let text = match history
            .open()
            .and_then(|dir| dir.read(&history.name, LIMIT))
        {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        let lines = text.split(|byte| *byte == b'\n');
        let entries = lines.filter_map(|line| serde_json::from_slice(line).ok());
        let is_of_it = |entry: &Entry| match &entry.catalog {
            Some(catalog) => *catalog == history.catalog,
            None => true,
        };
        history.entries = entries.filter(is_of_it).collect();
        Ok(history)
    }

    /// Where it is kept.
    #[must_use]
    pub fn file(&self) -> PathBuf {
        let dir = self.state_dir.clone().unwrap_or_else(lasting_root);
        dir.join(HISTORIES).join(&self.name)
    }

    /// The directory of histories.
    fn open(&self) -> io::Result<Dir> {
        match &self.state_dir {
            Some(dir) => Dir::open(&dir.join(HISTORIES)),
            None => open_lasting(HISTORIES)?.ok_or_else(|| io::ErrorKind::NotFound.into()),
        }
    }

    fn make(&self) -> io::Result<Dir> {
        let Some(dir) = &self.state_dir else {
            return make_lasting(HISTORIES);
        };
        let dir = dir.join(HISTORIES);
        DirBuilder::new().recursive(true).mode(0o755).create(&dir)?;
        Dir::open(&dir)
    }

    /// Adds a line, durably.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn add(&mut self, mut entry: Entry) -> io::Result<()> {
        entry.catalog = Some(self.catalog.clone());
        let mut file = self.make()?.append(&self.name, 0o644)?;
        file.lock()?;
        // After a line that was cut off, a new one begins.
        file.write_all(format!("\n{}\n", serde_json::to_string(&entry)?).as_bytes())?;
        file.sync_all()?;
        self.entries.push(entry);
        Ok(())
    }

    /// Which of these backups to look at next: one that never was, the oldest
    /// of them; else the one of which that is longest ago. A backup whose
    /// chain is another now was never looked at, nor was one of which less was
    /// done than its profile asks for. What the verdict was does not count
    /// otherwise: else a bad one would keep all others waiting.
    #[must_use]
    pub fn oldest_unverified<'a>(
        &self,
        backups: impl Iterator<Item = (&'a Backup, String)>,
    ) -> Option<&'a Backup> {
        let last = |backup: &Backup, chain: &str| {
            let of_it = |entry: &Entry| {
                let is_whole = entry.verdict != Verdict::PagesRight;
                is_whole && entry.backup == backup.id.0 && entry.chain == chain
            };
            self.entries.iter().rposition(of_it)
        };
        backups
            .min_by_key(|(backup, chain)| (last(backup, chain), backup.start_time))
            .map(|(backup, _)| backup)
    }
}
