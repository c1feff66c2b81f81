//! What was verified when, in a directory of this host:
//!
//! ```text
//! STATE/verify/INSTANCE-SYSTEM.jsonl    a line of JSON for each backup verified
//! ```
//! SYSTEM is the cluster's system identifier. Lines are only ever added.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::report::Entry;
use crate::catalog::Backup;
use crate::catalog::Instance;
use crate::profile::Plan;

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
        let dir = match &plan.verify.state_dir {
            Some(dir) => dir.clone(),
            None => usual_dir()?,
        };
        let system = instance.config.system_identifier.unwrap_or_default();
        let name = format!("{}-{system}.jsonl", instance.name);
        let file = dir.join("verify").join(name);
        let text = match fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error),
        };
        let entries = text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok());
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
        let mut file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o644)
            .open(&self.file)?;
        file.lock()?;
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

fn usual_dir() -> io::Result<PathBuf> {
    if nix::unistd::geteuid().is_root() {
        return Ok("/var/lib/pbkfs".into());
    }
    let absolute = |name: &str| {
        let path = PathBuf::from(std::env::var_os(name)?);
        path.is_absolute().then_some(path)
    };
    absolute("XDG_STATE_HOME")
        .or_else(|| Some(absolute("HOME")?.join(".local/state")))
        .map(|dir| dir.join("pbkfs"))
        .ok_or_else(|| {
            io::Error::other("neither XDG_STATE_HOME nor HOME is set; set verify.state_dir")
        })
}
