//! Regular files in use.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::Content;
use crate::overlay::tree::Ino;

/// A regular file that is open, or has uncommitted changes.
pub struct File {
    pub ino: Ino,
    content: RwLock<Content>,
    pub(in crate::overlay) opens: AtomicUsize,
    sync: Mutex<()>,
}

impl File {
    pub fn new(ino: Ino, content: Content) -> Self {
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

    /// Locks the file for syncing, so that an older state is never committed over a
    /// newer one.
    pub fn syncing(&self) -> MutexGuard<'_, ()> {
        self.sync.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn opens(&self) -> usize {
        self.opens.load(Ordering::Acquire)
    }

    pub fn is_open(&self) -> bool {
        self.opens() > 0
    }

    /// Whether it can be unloaded and loaded again without loss.
    pub fn is_clean(&self) -> bool {
        match &*self.content() {
            Content::Image { .. } => true,
            Content::Blocks(blocks) => blocks.is_clean() && !blocks.may_shrink(),
            Content::Whole(whole) => whole.committed,
        }
    }
}
