//! Making changes durable.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::diff::Batch;
use crate::overlay::content::{Content, File, Snapshot};
use crate::overlay::error::OverlayError;
use crate::overlay::lower::Lower;
use crate::overlay::state::Overlay;
use crate::overlay::tree::Ino;

/// The time limit for shrinking blocks in each period of five seconds. Most of it is
/// spent waiting for the disk.
const SHRINK_TIME: Duration = Duration::from_secs(1);

impl Snapshot {
    pub(in crate::overlay) fn add_to(&self, ino: Ino, batch: &mut Batch) {
        match self {
            Self::Whole(record) => batch.contents.push((ino.0, Some(record.clone()))),
            Self::Completed(record) => {
                // The blocks are removed with the old record.
                batch.contents.push((ino.0, None));
                batch.contents.push((ino.0, Some(record.clone())));
            }
            Self::Blocks(snapshot) => {
                batch.contents.push((ino.0, Some(snapshot.record.clone())));
                batch.blocks.extend(snapshot.chunks.iter().cloned());
                batch.deltas.extend(snapshot.deltas.iter().cloned());
            }
        }
    }
}

impl<L: Lower> Overlay<L> {
    /// Makes a file durable: its bytes, its size, and its name if it is new.
    ///
    /// # Errors
    /// If the diff fails. Nothing that was written is forgotten then: a later call
    /// tries again.
    pub fn sync_file(&self, ino: Ino) -> Result<(), OverlayError> {
        if self.is_read_only() {
            return Ok(());
        }
        self.counters.fsyncs.add(1);
        let file = self.file(ino)?;
        let _syncing = file.syncing();
        self.sync_locked(&file)
    }

    /// Syncs a file whose `sync` mutex the caller holds.
    pub(in crate::overlay) fn sync_locked(&self, file: &Arc<File>) -> Result<(), OverlayError> {
        let snapshot = self.sync_bytes(file)?;
        if snapshot.is_none() && !self.tree().needs_commit(file.ino) {
            return Ok(());
        }
        self.commit(snapshot.map(|s| (file.clone(), s)).into_iter().collect())
    }

    /// Does the first half: syncs the bytes. The snapshot is taken before the sync, of
    /// a state whose bytes are all in the data file. Later writes wait for the next
    /// sync.
    fn sync_bytes(&self, file: &File) -> Result<Option<Snapshot>, OverlayError> {
        let (data, snapshot) = file.content_mut().snapshot(&self.ctx(), file.ino.0)?;
        let synced = data.map_or(Ok(()), |data| data.sync_data());
        match synced {
            Ok(()) => Ok(snapshot),
            Err(e) => {
                if let Some(snapshot) = snapshot {
                    file.content_mut().restore(snapshot);
                }
                Err(e.into())
            }
        }
    }

    /// Makes all names durable.
    ///
    /// # Errors
    /// If the diff fails; a later call tries again.
    pub fn sync_names(&self) -> Result<(), OverlayError> {
        if self.is_read_only() || self.tree().is_durable() {
            return Ok(());
        }
        self.commit(Vec::new())
    }

    /// Does the periodic work, every few seconds: commits names and base-file copies
    /// that were written to, frees the space of truncated and removed files, and
    /// shrinks blocks to small differences. Writes past the overlay, including `msync`
    /// of a mapping, are noticed only by the file's new time.
    ///
    /// # Errors
    /// If the diff fails; a later call tries again.
    pub fn sync_periodically(&self) -> Result<(), OverlayError> {
        let due: Vec<Ino> = self
            .files()
            .values()
            .filter(|file| match &*file.content() {
                Content::Blocks(blocks) => blocks.has_excess(),
                Content::Whole(whole) => {
                    !whole.committed && whole.is_pristine().is_ok_and(|pristine| !pristine)
                }
                Content::Image { .. } => false,
            })
            .map(|file| file.ino)
            .collect();
        for ino in due {
            self.sync_file(ino)?;
        }
        self.sync_names()?;
        self.shrink(Instant::now() + SHRINK_TIME)?;
        self.forget_idle();
        Ok(())
    }

    /// Makes everything durable and drops unchanged copies, at the end of a mount. An
    /// error in one file does not keep the others from being saved.
    ///
    /// # Errors
    /// Returns the first error of the diff.
    pub fn sync_all(&self) -> Result<(), OverlayError> {
        if self.is_read_only() {
            return Ok(());
        }
        let mut first_error = self.drop_copies().err();
        let mut files: Vec<Arc<File>> = self.files().values().cloned().collect();
        // Several sync mutexes are always taken in this order.
        files.sort_by_key(|file| file.ino);
        // The clone's own files that were written and closed are not in the table.
        // Their records may be committed long before their bytes.
        let whole = self.diff()?.storage().sync_bytes();
        first_error = first_error.or(whole.err().map(OverlayError::Io));
        let mut snapshots = Vec::new();
        let mut guards = Vec::new();
        for file in &files {
            if self.tree().is_dead(file.ino) {
                continue;
            }
            guards.push(file.syncing());
            match self.sync_bytes(file) {
                Ok(Some(snapshot)) => snapshots.push((file.clone(), snapshot)),
                Ok(None) => {}
                Err(e) => first_error = first_error.or(Some(e)),
            }
        }
        if !snapshots.is_empty() || !self.tree().is_durable() {
            first_error = first_error.or(self.commit(snapshots).err());
        }
        drop(guards);
        drop(files);
        self.forget_idle();
        first_error.map_or(Ok(()), Err)
    }

    /// Does the second half: commits all current names and the given contents in one
    /// transaction. The callers hold each file's `sync` mutex.
    pub(in crate::overlay) fn commit(
        &self,
        contents: Vec<(Arc<File>, Snapshot)>,
    ) -> Result<(), OverlayError> {
        let diff = self.diff()?;
        let committing = self.committing();
        let (mut batch, in_flight) = self.tree_mut().take_pending();
        {
            let tree = self.tree();
            for (file, snapshot) in &contents {
                // Its removal may be committed already.
                if !tree.is_dead(file.ino) {
                    snapshot.add_to(file.ino, &mut batch);
                }
            }
        }
        let result = if batch.is_empty() {
            Ok(())
        } else {
            self.counters.commits.add(1);
            diff.commit(&batch)
        };
        let mut tree = self.tree_mut();
        if let Err(e) = result {
            tree.commit_failed(in_flight);
            drop(tree);
            for (file, snapshot) in contents {
                file.content_mut().restore(snapshot);
            }
            return Err(e.into());
        }
        tree.commit_done(&in_flight);
        {
            let mut stored = self.stored_mut();
            for (ino, record) in &batch.contents {
                match record {
                    Some(_) => stored.insert(*ino),
                    None => stored.remove(ino),
                };
            }
        }
        self.reclaim(tree);
        drop(committing);
        for (file, snapshot) in &contents {
            if let (Content::Blocks(blocks), Snapshot::Blocks(committed)) =
                (&mut *file.content_mut(), snapshot)
                && let Err(error) = blocks.settle(&self.ctx(), file.ino.0, committed)
            {
                tracing::warn!(ino = file.ino.0, %error, "cannot free a file's space");
            }
        }
        Ok(())
    }
}
