//! Making changes durable.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::diff::Batch;
use crate::overlay::content::{Content, File, Snapshot};
use crate::overlay::error::OverlayError;
use crate::overlay::lower::Lower;
use crate::overlay::state::Overlay;
use crate::overlay::tree::Ino;

/// How long each time may be spent on making blocks small: of five seconds, and
/// most of it waiting for the disk.
const SHRINK_TIME: Duration = Duration::from_secs(1);

impl Snapshot {
    pub(in crate::overlay) fn add_to(&self, ino: Ino, batch: &mut Batch) {
        match self {
            Self::Whole(record) => batch.contents.push((ino.0, Some(record.clone()))),
            Self::Blocks(snapshot) => {
                batch.contents.push((ino.0, Some(snapshot.record.clone())));
                batch.blocks.extend(snapshot.chunks.iter().cloned());
                batch.deltas.extend(snapshot.deltas.iter().cloned());
            }
        }
    }
}

impl<L: Lower> Overlay<L> {
    /// Makes a file durable: its bytes, its length, and its name if it is
    /// new.
    ///
    /// # Errors
    /// The diff's own. Nothing of what was written is forgotten then: a later
    /// call tries again.
    pub fn sync_file(&self, ino: Ino) -> Result<(), OverlayError> {
        if self.is_read_only() {
            return Ok(());
        }
        self.counters.fsyncs.add(1);
        let file = self.file(ino)?;
        let _syncing = file.syncing();
        self.sync_locked(&file)
    }

    /// Does it for who holds the file's `sync` mutex.
    pub(in crate::overlay) fn sync_locked(&self, file: &Arc<File>) -> Result<(), OverlayError> {
        let snapshot = self.sync_bytes(file)?;
        if snapshot.is_none() && !self.tree().needs_commit(file.ino) {
            return Ok(());
        }
        self.commit(snapshot.map(|s| (file.clone(), s)).into_iter().collect())
    }

    /// The first half: the bytes to disk. The snapshot is of a state whose
    /// bytes are all in the data file, taken before they are synced; what is
    /// written meanwhile waits for the next sync.
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
    /// The diff's own; a later call tries again.
    pub fn sync_names(&self) -> Result<(), OverlayError> {
        if self.is_read_only() || self.tree().is_durable() {
            return Ok(());
        }
        self.commit(Vec::new())
    }

    /// What is done every few seconds: names, the space of files that were
    /// cut or removed, blocks that can be kept as a small difference, and that
    /// copies of base files were written to. Of writes past the overlay,
    /// `msync` of a mapping among them, nothing is heard but the file's new
    /// time.
    ///
    /// # Errors
    /// The diff's own; a later call tries again.
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

    /// Makes everything durable and drops unchanged copies: the end of a
    /// mount. Errors of one file do not keep the others from being saved.
    ///
    /// # Errors
    /// The first of the diff's own.
    pub fn sync_all(&self) -> Result<(), OverlayError> {
        if self.is_read_only() {
            return Ok(());
        }
        let mut first_error = self.drop_copies().err();
        let mut files: Vec<Arc<File>> = self.files().values().cloned().collect();
        // Who takes several sync mutexes takes them in this order.
        files.sort_by_key(|file| file.ino);
        // Files of the clone's own that were written and closed are in no
        // table; their records may be committed long before their bytes.
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

    /// The second half: all names as they are now, and the given contents, in
    /// one transaction. The callers hold each file's `sync` mutex.
    fn commit(&self, contents: Vec<(Arc<File>, Snapshot)>) -> Result<(), OverlayError> {
        let diff = self.diff()?;
        let committing = self.committing();
        let (mut batch, in_flight) = self.tree_mut().take_pending();
        {
            let tree = self.tree();
            for (file, snapshot) in &contents {
                // Its removal may have been committed already.
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
                tracing::warn!(ino = file.ino.0, %error, "cannot give a file's space back");
            }
        }
        Ok(())
    }
}
