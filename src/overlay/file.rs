//! Regular files in use: the table of them, opening and closing.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::content::{Content, ContentStat};
use super::lower::Lower;
use super::tree::{Ino, Tree};
use super::{Overlay, OverlayError};
use crate::diff::{DataFile, InodeKind};

/// A regular file that is open, or has changes that are not committed.
pub struct File {
    pub ino: Ino,
    content: RwLock<Content>,
    opens: AtomicUsize,
    sync: Mutex<()>,
}

impl File {
    fn new(ino: Ino, content: Content) -> Self {
        Self {
            ino,
            content: RwLock::new(content),
            opens: AtomicUsize::new(0),
            sync: Mutex::new(()),
        }
    }

    pub fn content(&self) -> RwLockReadGuard<'_, Content> {
        self.content.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn content_mut(&self) -> RwLockWriteGuard<'_, Content> {
        self.content.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Held by who syncs the file, so that an older state is never committed
    /// over a newer one.
    pub fn syncing(&self) -> MutexGuard<'_, ()> {
        self.sync.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn opens(&self) -> usize {
        self.opens.load(Ordering::Acquire)
    }

    pub fn is_open(&self) -> bool {
        self.opens() > 0
    }

    /// Whether it can be forgotten and loaded again without loss.
    fn is_clean(&self) -> bool {
        match &*self.content() {
            Content::Image { .. } => true,
            Content::Blocks(blocks) => blocks.is_clean() && !blocks.may_shrink(),
            Content::Whole(whole) => whole.committed,
        }
    }
}

impl<L: Lower> Overlay<L> {
    /// Opens a file; each open is closed by [`Overlay::release`].
    ///
    /// # Errors
    /// [`OverlayError::NotFound`], [`OverlayError::IsADirectory`]; what
    /// reading its metadata can fail with.
    pub fn open(&self, ino: Ino) -> Result<(), OverlayError> {
        let tree = self.tree();
        match self.kind(&tree, ino) {
            Some(InodeKind::File) => {}
            Some(InodeKind::Directory) => return Err(OverlayError::IsADirectory),
            Some(_) => return Err(OverlayError::Invalid("not a regular file")),
            None => return Err(OverlayError::NotFound),
        }
        // Counted under the tree's lock: an unlink either sees the file open
        // or comes first, and then its bytes may be gone any moment.
        if tree.is_dead(ino) && !self.is_open(ino) {
            return Err(OverlayError::NotFound);
        }
        self.file(ino)?.opens.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    /// Counts a file that was made a moment ago as open, by the descriptor that
    /// it was made with.
    pub(super) fn open_new(&self, ino: Ino, data: Arc<dyn DataFile>) {
        let file = File::new(ino, Content::new_whole(data));
        file.opens.store(1, Ordering::Release);
        self.files_mut().insert(ino.0, Arc::new(file));
    }

    /// Closes a file. Its bytes go with the last close if it has no name.
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

    /// Takes a file out of the table if loading it again would give the same:
    /// nobody has it open or is about to use it, and all of it is committed.
    fn forget_if_idle(&self, ino: Ino) {
        let mut files = self.files_mut();
        let idle = files.get(&ino.0).is_some_and(|file| {
            // A count above one is a write, cut or fsync in progress. None
            // can begin meanwhile: they all get the file from the table.
            Arc::strong_count(file) == 1 && !file.is_open() && file.is_clean()
        });
        if idle {
            files.remove(&ino.0);
        }
    }

    /// Forgets the files that are closed and clean by now.
    pub(super) fn forget_idle(&self) {
        let idle: Vec<u64> = self.files().keys().copied().collect();
        for ino in idle {
            self.forget_if_idle(Ino(ino));
        }
    }

    /// The file's entry in the table, loaded if it is not there.
    pub(super) fn file(&self, ino: Ino) -> Result<Arc<File>, OverlayError> {
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

    fn load(&self, ino: Ino) -> Result<File, OverlayError> {
        let stored = self.stored().contains(&ino.0);
        let content = Content::load(&self.ctx(), ino.0, ino.node(), stored)?;
        Ok(File::new(ino, content))
    }

    pub(super) fn is_open(&self, ino: Ino) -> bool {
        self.files().get(&ino.0).is_some_and(|file| file.is_open())
    }

    /// A file's length and time, without keeping it in the table.
    pub(super) fn content_stat(&self, ino: Ino) -> Result<ContentStat, OverlayError> {
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

    /// Deletes the bytes of dead files where that is safe by now.
    pub(super) fn reclaim(&self, mut tree: std::sync::RwLockWriteGuard<'_, Tree>) {
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
                // Its record is gone, so the next mount collects it.
                tracing::warn!(ino = ino.0, %error, "cannot delete a removed file's bytes");
            }
        }
    }
}
