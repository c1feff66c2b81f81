//! Regular files in use: their table, opening and closing.

use std::sync::atomic::Ordering;
use std::sync::{Arc, RwLockWriteGuard};

use crate::diff::{DataFile, DataStat, InodeKind};
use crate::overlay::content::{Content, File};
use crate::overlay::error::OverlayError;
use crate::overlay::lower::Lower;
use crate::overlay::state::Overlay;
use crate::overlay::tree::{Ino, Tree};

impl<L: Lower> Overlay<L> {
    /// Opens a file. Each open must be matched by an [`Overlay::release`].
    ///
    /// # Errors
    /// Returns [`OverlayError::NotFound`] or [`OverlayError::IsADirectory`]. Fails if
    /// the file's metadata cannot be read.
    pub fn open(&self, ino: Ino) -> Result<(), OverlayError> {
        let tree = self.tree();
        match self.kind(&tree, ino) {
            Some(InodeKind::File) => {}
            Some(InodeKind::Directory) => return Err(OverlayError::IsADirectory),
            Some(_) => return Err(OverlayError::Invalid("not a regular file")),
            None => return Err(OverlayError::NotFound),
        }
        // Count under the tree's lock: an unlink either sees the file open or comes
        // first, and then the bytes may be deleted at any moment.
        if tree.is_dead(ino) && !self.is_open(ino) {
            return Err(OverlayError::NotFound);
        }
        self.file(ino)?.opens.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    /// Registers a file that was just created as open, with the data file it was
    /// created with.
    pub(in crate::overlay) fn open_new(&self, ino: Ino, data: Arc<dyn DataFile>) {
        let file = File::new(ino, Content::whole(data, None));
        file.opens.store(1, Ordering::Release);
        self.files_mut().insert(ino.0, Arc::new(file));
    }

    /// Closes a file. If it has no name, the last close deletes its bytes.
    pub fn release(&self, ino: Ino) {
        let Some(file) = self.files().get(&ino.0).cloned() else {
            return;
        };
        let before = file
            .opens
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |opens| {
                opens.checked_sub(1)
            });
        if before != Ok(1) {
            return;
        }
        if self.tree().is_dead(ino) {
            let mut tree = self.tree_mut();
            tree.close_dead(ino);
            self.reclaim(tree);
            return;
        }
        self.rest(&file);
        drop(file);
        self.forget_if_idle(ino);
    }

    /// Removes a file from the table if loading it again would give the same: it is not
    /// open or about to be used, and all of it is committed.
    pub(in crate::overlay) fn forget_if_idle(&self, ino: Ino) {
        let mut files = self.files_mut();
        let idle = files.get(&ino.0).is_some_and(|file| {
            // A count above one is a write, truncation or fsync in progress. None can
            // start meanwhile, because they all get the file from the table.
            Arc::strong_count(file) == 1 && !file.is_open() && file.is_clean()
        });
        if idle {
            files.remove(&ino.0);
        }
    }

    /// Forgets the files that are closed and clean.
    pub(in crate::overlay) fn forget_idle(&self) {
        let idle: Vec<u64> = self.files().keys().copied().collect();
        for ino in idle {
            self.forget_if_idle(Ino(ino));
        }
    }

    /// Returns the file's entry in the table, loading it if it is missing.
    pub(in crate::overlay) fn file(&self, ino: Ino) -> Result<Arc<File>, OverlayError> {
        if let Some(file) = self.files().get(&ino.0) {
            return Ok(file.clone());
        }
        let mut files = self.files_mut();
        if let Some(file) = files.get(&ino.0) {
            return Ok(file.clone());
        }
        let file = Arc::new(self.load(ino)?);
        files.insert(ino.0, file.clone());
        Ok(file)
    }

    pub(in crate::overlay) fn load(&self, ino: Ino) -> Result<File, OverlayError> {
        let stored = self.stored().contains(&ino.0);
        let content = Content::load(&self.ctx(), ino.0, ino.node(), stored)?;
        Ok(File::new(ino, content))
    }

    pub(in crate::overlay) fn is_open(&self, ino: Ino) -> bool {
        self.files().get(&ino.0).is_some_and(|file| file.is_open())
    }

    /// Returns a file's size and time, without keeping the file in the table.
    pub(in crate::overlay) fn content_stat(&self, ino: Ino) -> Result<DataStat, OverlayError> {
        let in_use = self.files().get(&ino.0).cloned();
        let mut stat = match in_use {
            Some(file) => file.content().stat()?,
            None => self.load(ino)?.content().stat()?,
        };
        if stat.mtime_ns == i64::MIN {
            stat.mtime_ns = self.lower.timestamp_ns();
        }
        Ok(stat)
    }

    /// Deletes the bytes of dead files where this has become safe.
    pub(in crate::overlay) fn reclaim(&self, mut tree: RwLockWriteGuard<'_, Tree>) {
        let ready = tree.take_reclaimable();
        if ready.is_empty() {
            return;
        }
        drop(tree);
        let Some(diff) = &self.diff else { return };
        for ino in ready {
            self.files_mut().remove(&ino.0);
            self.stored_mut().remove(&ino.0);
            self.copies().take(ino);
            if let Err(error) = diff.storage().remove(ino.0) {
                // Its record is deleted, so the next mount removes the data file.
                tracing::warn!(ino = ino.0, %error, "cannot delete a removed file's bytes");
            }
        }
    }
}
