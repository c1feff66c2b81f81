//! Resolves a list of backups to a [`Chain`] that can be read.
//!
//! A chain is a FULL backup and the incrementals on it up to the requested one.
//! [`Chain::resolve`] is the only way to create one, so every `Chain` is complete,
//! restorable and supported. The rules are those of pg_probackup's own restore
//! (`src/restore.c`, `do_restore_or_validate`).

mod error;
mod risk;

use std::cmp::Reverse;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::catalog::content::{ContentError, ContentList};
use crate::catalog::lock::{self, LockError, LockOutcome};
use crate::catalog::{Backup, BackupId, BackupMode, BackupRef, BackupStatus, Instance};
use crate::causes::sentence;
use crate::pg::{BLOCK_SIZE, NEWEST_MAJOR, OLDEST_MAJOR};

pub use error::ChainError;
pub use risk::RestoreRisk;

/// Number of backups named in an error message.
const NAMED_IN_ERRORS: usize = 5;

/// A FULL backup and the incrementals on it up to the target: complete, restorable and
/// supported at the time it was resolved.
///
/// ```
/// use std::time::Duration;
///
/// use pbkfs::catalog::{BackupMode, BackupRef, Catalog};
/// use pbkfs::chain::Chain;
///
/// # let unpacked = include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc_catalog.rs"));
/// # let root = unpacked.path().join("catalog");
/// let instance = Catalog::open(&root)?.instance("main")?;
/// let wanted: BackupRef = "tow7ga".parse()?;
/// let chain = Chain::resolve(&instance.name, &instance.backups()?, &wanted)?;
/// assert_eq!(chain.layers().len(), 3);
/// assert_eq!(chain.layers()[0].mode, BackupMode::Full);
///
/// // While the locks are held, `pg_probackup delete` and `merge` wait.
/// let locks = chain.lock(Duration::from_secs(10))?;
/// chain.recheck(&instance)?;
/// drop(locks);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Chain {
    instance: String,
    target: Backup,
    /// The FULL first, the target last.
    layers: Vec<Backup>,
}

impl Chain {
    /// Finds the requested backup's chain among an instance's backups.
    ///
    /// # Errors
    /// If there is no such backup, or if its chain is incomplete, cannot be restored in
    /// its present state, or is of an unsupported kind. If several things are wrong, the
    /// one nearest to the FULL is reported, because the others follow from it.
    pub fn resolve(
        instance_name: &str,
        backups: &[Backup],
        wanted: &BackupRef,
    ) -> Result<Self, ChainError> {
        let catalog = Listed::new(instance_name, backups);
        let layers = match wanted {
            BackupRef::Latest => catalog.latest()?,
            BackupRef::Id(id) => catalog.members(catalog.find(id)?)?,
        };
        layers.iter().try_for_each(|layer| check_supported(layer))?;
        let Some(target) = layers.last() else {
            return Err(catalog.nothing_restorable());
        };
        Ok(Self {
            instance: instance_name.to_owned(),
            target: (*target).clone(),
            layers: layers.into_iter().cloned().collect(),
        })
    }

    /// Returns all members, the FULL first, the target last.
    #[must_use]
    pub fn layers(&self) -> &[Backup] {
        &self.layers
    }

    /// Returns the requested backup.
    #[must_use]
    pub fn target(&self) -> &Backup {
        &self.target
    }

    /// Returns the members' ids, in the order of [`layers`](Self::layers).
    #[must_use]
    pub fn ids(&self) -> Vec<BackupId> {
        self.layers.iter().map(|layer| layer.id.clone()).collect()
    }

    /// Returns the members' directories, in the order of [`layers`](Self::layers), which
    /// is the order in which to lock them.
    #[must_use]
    pub fn dirs(&self) -> Vec<PathBuf> {
        self.layers.iter().map(|layer| layer.dir.clone()).collect()
    }

    /// Returns the instance's name.
    #[must_use]
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// Locks every member for this process, the FULL first, as pg_probackup's restore
    /// does. Until the locks are released or dropped, pg_probackup's `delete` and `merge`
    /// wait. If a member is being changed, this waits up to `wait` for each such member.
    /// A process can hold only one lock on a backup.
    ///
    /// The chain was resolved before it was locked, so call [`recheck`](Self::recheck)
    /// next.
    ///
    /// # Errors
    /// [`LockError::Busy`] if the time runs out; [`LockError::NoPermission`] if this user
    /// may not write into the catalog; [`LockError::Gone`]; I/O errors. After an error,
    /// no lock is held.
    pub fn lock(&self, wait: Duration) -> Result<Vec<LockOutcome>, LockError> {
        let dirs = lock::open(&self.dirs())?;
        lock::lock_chain(&dirs, std::process::id(), wait, &mut |_| ())
    }

    /// Rereads every member's `backup.control` and compares it with what was resolved.
    /// Call this once the members are locked: before that, pg_probackup may have deleted
    /// one, or merged it, which turns a backup into a FULL under the same id.
    ///
    /// # Errors
    /// If a member cannot be read, has a bad status, or is no longer the backup that was
    /// resolved.
    pub fn recheck(&self, instance: &Instance) -> Result<(), ChainError> {
        for layer in &self.layers {
            let member = || layer.id.clone();
            let now = instance
                .backup(&layer.id)
                .map_err(|source| ChainError::Reread {
                    member: member(),
                    source,
                })?;
            if !now.status.is_restorable() {
                return Err(bad_status(&self.instance, &self.target, &now));
            }
            if let Some(what) = difference(layer, &now) {
                return Err(ChainError::Changed {
                    member: member(),
                    what,
                });
            }
        }
        Ok(())
    }
}

fn difference(before: &Backup, now: &Backup) -> Option<&'static str> {
    if before.dir != now.dir {
        Some("another directory")
    } else if before.mode != now.mode {
        Some("another mode")
    } else if before.parent != now.parent {
        Some("another parent")
    } else if before.content_crc != now.content_crc {
        Some("another list of files")
    } else {
        None
    }
}

/// An instance's backups, indexed for lookup.
struct Listed<'a> {
    instance: &'a str,
    newest_first: Vec<&'a Backup>,
    by_id: HashMap<&'a BackupId, &'a Backup>,
}

impl<'a> Listed<'a> {
    fn new(instance: &'a str, backups: &'a [Backup]) -> Self {
        let mut newest_first: Vec<&Backup> = backups.iter().collect();
        newest_first.sort_by_key(|backup| Reverse(backup.start_time));
        let by_id = newest_first.iter().map(|b| (&b.id, *b)).collect();
        Self {
            instance,
            newest_first,
            by_id,
        }
    }

    fn find(&self, id: &BackupId) -> Result<&'a Backup, ChainError> {
        let missing = || ChainError::NoSuchBackup {
            instance: self.instance.to_owned(),
            id: id.clone(),
            newest: self.newest(),
        };
        self.by_id.get(id).copied().ok_or_else(missing)
    }

    /// Returns the members of the newest restorable backup.
    fn latest(&self) -> Result<Vec<&'a Backup>, ChainError> {
        let mut passed_over = Vec::new();
        let mut lists = Lists::default();
        for &backup in &self.newest_first {
            let usable = self.members(backup).and_then(|layers| {
                layers.iter().try_for_each(|layer| check_supported(layer))?;
                lists.check(backup, &layers)?;
                Ok(layers)
            });
            match usable {
                Ok(layers) => {
                    self.tell_passed_over(&passed_over);
                    return Ok(layers);
                }
                Err(reason) => passed_over.push((&backup.id, reason)),
            }
        }
        self.tell_passed_over(&passed_over);
        // The cause to report is a backup that pg_probackup calls good but is not.
        let reasons = passed_over.into_iter().map(|(_, reason)| reason);
        let is_cause = |reason: &ChainError| {
            matches!(
                reason,
                ChainError::Unlisted { .. }
                    | ChainError::UnsupportedMajor { .. }
                    | ChainError::UnsupportedBlockSize { .. }
            )
        };
        let first = reasons.into_iter().find(is_cause);
        Err(first.unwrap_or_else(|| self.nothing_restorable()))
    }

    /// Logs which backups are newer than the latest restorable one, and why they were
    /// skipped.
    fn tell_passed_over(&self, passed_over: &[(&BackupId, ChainError)]) {
        let named = passed_over.iter().take(NAMED_IN_ERRORS);
        let mut reasons: Vec<String> = named
            .map(|(id, reason)| format!("{id} ({})", sentence(reason)))
            .collect();
        match passed_over.len().saturating_sub(NAMED_IN_ERRORS) {
            0 => {}
            more => reasons.push(format!("and {more} more")),
        }
        if !reasons.is_empty() {
            tracing::warn!(
                instance = self.instance,
                "skipped these backups when looking for the latest restorable one: {}",
                reasons.join("; ")
            );
        }
    }

    /// Returns a backup's chain, FULL first, if it is complete and all its statuses are
    /// good.
    fn members(&self, target: &'a Backup) -> Result<Vec<&'a Backup>, ChainError> {
        let mut layers = vec![target];
        let walked = self.walk_to_full(target, &mut layers);
        let bad = layers.iter().rev().find(|b| !b.status.is_restorable());
        match (walked, bad) {
            (Err(missing @ ChainError::MissingParent { .. }), _) => Err(missing),
            (_, Some(bad)) => Err(bad_status(self.instance, target, bad)),
            (Err(error), None) => Err(error),
            (Ok(()), None) => {
                layers.reverse();
                Ok(layers)
            }
        }
    }

    /// Appends the parents, up to the FULL, to `layers`, which holds the target.
    fn walk_to_full(
        &self,
        target: &'a Backup,
        layers: &mut Vec<&'a Backup>,
    ) -> Result<(), ChainError> {
        let mut current = target;
        while current.mode != BackupMode::Full {
            let Some(parent_id) = &current.parent else {
                return Err(ChainError::NoFull {
                    target: target.id.clone(),
                    member: current.id.clone(),
                    mode: current.mode,
                });
            };
            let Some(&parent) = self.by_id.get(parent_id) else {
                return Err(ChainError::MissingParent {
                    target: target.id.clone(),
                    child: current.id.clone(),
                    parent: parent_id.clone(),
                });
            };
            if layers.iter().any(|layer| layer.id == parent.id) {
                let seen = layers.iter().copied().chain([parent]);
                return Err(ChainError::Cycle {
                    target: target.id.clone(),
                    members: seen.map(|layer| layer.id.clone()).collect(),
                });
            }
            layers.push(parent);
            current = parent;
        }
        Ok(())
    }

    fn nothing_restorable(&self) -> ChainError {
        ChainError::NothingRestorable {
            instance: self.instance.to_owned(),
            newest: self.newest(),
        }
    }

    fn newest(&self) -> Vec<(BackupId, BackupStatus)> {
        let newest = self.newest_first.iter().take(NAMED_IN_ERRORS);
        newest.map(|b| (b.id.clone(), b.status)).collect()
    }
}

/// Results of checking content lists, kept because chains share their members.
#[derive(Default)]
struct Lists<'a>(HashMap<&'a BackupId, Result<(), Arc<ContentError>>>);

impl<'a> Lists<'a> {
    /// Checks that every member's content list exists and is the one that was written.
    fn check(&mut self, target: &Backup, layers: &[&'a Backup]) -> Result<(), ChainError> {
        for layer in layers {
            let look = || ContentList::check(layer).map_err(Arc::new);
            let looked = self.0.entry(&layer.id).or_insert_with(look);
            looked.clone().map_err(|source| ChainError::Unlisted {
                target: target.id.clone(),
                member: layer.id.clone(),
                source,
            })?;
        }
        Ok(())
    }
}

fn check_supported(backup: &Backup) -> Result<(), ChainError> {
    let supported = OLDEST_MAJOR..=NEWEST_MAJOR;
    if !backup
        .server_major()
        .is_some_and(|major| supported.contains(&major))
    {
        return Err(ChainError::UnsupportedMajor {
            member: backup.id.clone(),
            version: backup.server_version.clone(),
        });
    }
    let sizes = [
        ("block-size", backup.block_size),
        ("xlog-block-size", backup.xlog_block_size),
    ];
    match sizes
        .into_iter()
        .find(|&(_, size)| size as usize != BLOCK_SIZE)
    {
        Some((key, size)) => Err(ChainError::UnsupportedBlockSize {
            member: backup.id.clone(),
            key,
            size,
        }),
        None => Ok(()),
    }
}

fn bad_status(instance: &str, target: &Backup, member: &Backup) -> ChainError {
    ChainError::Status {
        instance: instance.to_owned(),
        target: target.id.clone(),
        member: member.id.clone(),
        status: member.status,
        dir: member.dir.clone(),
    }
}

#[cfg(test)]
mod tests;
