//! What was verified when, kept in a directory of this host:
//!
//! ```text
//! STATE/verify/INSTANCE-SYSTEM.jsonl    a line of JSON for each verified backup
//! ```
//! SYSTEM is the cluster's system identifier. Lines are only ever appended. Lines of
//! another catalog, which may have copies of the same backups, are ignored.

pub mod standing;

use std::fs::DirBuilder;
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::catalog::{Backup, Instance};
use crate::profile::Plan;
use crate::session::{lasting_root, make_lasting, open_lasting};
use crate::untrusted::Dir;
use crate::verify::backup_report::{BackupReport, Check};
use crate::verify::verdict::Verdict;

/// The directory of all histories.
const HISTORIES: &str = "verify";

/// Maximum size of a history, in bytes. With one line per verified backup, that is
/// many years.
const LIMIT: u64 = 64 << 20;

/// The version of a line's format: 2 has the checks.
const VERSION: u32 = 2;

/// A profile's identity in the history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProfileId {
    /// Its name in reports.
    pub name: String,
    /// Its file, by its canonical path; `None` for a run without a profile file.
    pub path: Option<PathBuf>,
}

impl ProfileId {
    /// Returns whether both are the same profile. Lines of older versions have no
    /// path, and are compared by name.
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
    /// The version of this line's format.
    pub version: u32,
    /// The catalog's path: another catalog may have a copy of the same backup. Absent
    /// in lines of version 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub catalog: Option<PathBuf>,
    /// The name of the profile used.
    pub profile: String,
    /// That profile's file; absent in lines of older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile_path: Option<PathBuf>,
    /// Start time of the verification, RFC 3339.
    pub started: String,
    /// The backup.
    pub backup: String,
    /// Its chain, joined by spaces: the same id may become a FULL in place.
    pub chain: String,
    /// The verdict.
    pub verdict: Verdict,
    /// Duration in seconds.
    pub seconds: f64,
    /// Seconds until the server had finished recovery; absent if it was not started.
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
    /// Creates the line for a backup's report.
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

    /// Returns the profile by which it was verified.
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
    /// The directory set by the profile; without one, pbkfs's own is used.
    state_dir: Option<PathBuf>,
    /// Its file name in the history directory.
    name: String,
    /// The catalog's canonical path, or its URL.
    catalog: PathBuf,
    /// All verifications, the oldest first.
    pub entries: Vec<Entry>,
}

impl History {
    /// Reads the history. A line that cannot be parsed, such as one truncated by a
    /// full disk, is skipped.
    ///
    /// # Errors
    /// If the file exists and cannot be read, or its directory belongs to another
    /// user.
    pub fn read(plan: &Plan, instance: &Instance) -> io::Result<Self> {
        let system = instance.config.system_identifier.unwrap_or_default();
        let mut history = Self {
            state_dir: plan.verify.state_dir.clone(),
            name: format!("{}-{system}.jsonl", instance.name),
            catalog: (plan.catalog.directory())
                .and_then(|dir| dir.canonicalize().ok())
                .unwrap_or_else(|| plan.catalog.name()),
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

    /// Returns the path of its file.
    #[must_use]
    pub fn file(&self) -> PathBuf {
        let dir = self.state_dir.clone().unwrap_or_else(lasting_root);
        dir.join(HISTORIES).join(&self.name)
    }

    /// Opens the directory of histories.
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

    /// Appends a line durably.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn add(&mut self, mut entry: Entry) -> io::Result<()> {
        entry.catalog = Some(self.catalog.clone());
        let mut file = self.make()?.append(&self.name, 0o644)?;
        file.lock()?;
        // The line break in front ends a line that was truncated.
        file.write_all(format!("\n{}\n", serde_json::to_string(&entry)?).as_bytes())?;
        file.sync_all()?;
        self.entries.push(entry);
        Ok(())
    }

    /// Returns the backup to verify next: the oldest of those never verified, or else
    /// the one whose last verification is the longest ago. A backup whose chain has
    /// changed counts as never verified, and so does one for which less was done than
    /// its profile asks for. Apart from that, the verdict does not matter: otherwise,
    /// a bad backup would keep all others waiting.
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
