//! What was verified when, in a directory of this host:
//!
//! ```text
//! STATE/verify/INSTANCE-SYSTEM.jsonl    a line of JSON for each backup verified
//! ```
//! SYSTEM is the cluster's system identifier. Lines are only ever added.

use std::fs::DirBuilder;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::report::Entry;
use crate::catalog::Backup;
use crate::catalog::Instance;
use crate::profile::Plan;
use crate::session::lasting_root;
use crate::untrusted::{self, Dir};

/// The most that is read of a history, in bytes: a line for each backup that
/// was verified, so this is many years.
const LIMIT: u64 = 64 << 20;

/// The history of an instance.
#[derive(Debug)]
pub struct History {
    file: PathBuf,
    /// All that was verified, the oldest first.
    pub entries: Vec<Entry>,
}

impl History {
    /// Reads what there is. A line that cannot be read, as one that a full
    /// disk cut off, is left out.
    ///
    /// # Errors
    /// The file is there and cannot be read; there is no place for it.
    pub fn read(plan: &Plan, instance: &Instance) -> io::Result<Self> {
        let dir = plan.verify.state_dir.clone().unwrap_or_else(lasting_root);
        let system = instance.config.system_identifier.unwrap_or_default();
        let name = format!("{}-{system}.jsonl", instance.name);
        let file = dir.join("verify").join(name);
        let text = match untrusted::read(&file, LIMIT) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        let entries = text
            .split(|byte| *byte == b'\n')
            .filter_map(|line| serde_json::from_slice(line).ok());
        Ok(Self {
            entries: entries.collect(),
            file,
        })
    }

    /// Where it is kept.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Adds a line, durably.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn add(&mut self, entry: Entry) -> io::Result<()> {
        if let Some(dir) = self.file.parent() {
            DirBuilder::new().recursive(true).mode(0o755).create(dir)?;
        }
        let (dir, name) = Dir::of_file(&self.file)?;
        let mut file = dir.open_or_create(name, 0o644)?;
        file.lock()?;
        file.seek(SeekFrom::End(0))?;
        // After a line that was cut off, a new one begins.
        file.write_all(format!("\n{}\n", serde_json::to_string(&entry)?).as_bytes())?;
        file.sync_all()?;
        self.entries.push(entry);
        Ok(())
    }

    /// Which of these backups to look at next: one that never was, the oldest
    /// of them; else the one of which that is longest ago. A backup whose
    /// chain is another now was never looked at. What the verdict was does not
    /// count: else a bad one would keep all others waiting.
    #[must_use]
    pub fn oldest_unverified<'a>(
        &self,
        backups: impl Iterator<Item = (&'a Backup, String)>,
    ) -> Option<&'a Backup> {
        let last = |backup: &Backup, chain: &str| {
            let of_it = |entry: &&Entry| entry.backup == backup.id.0 && entry.chain == chain;
            self.entries.iter().rposition(|entry| of_it(&entry))
        };
        backups
            .min_by_key(|(backup, chain)| (last(backup, chain), backup.start_time))
            .map(|(backup, _)| backup)
    }
}
