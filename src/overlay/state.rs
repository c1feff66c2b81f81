//! The overlay itself: its state, and the lookups that all operations share.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::content::{Copies, Ctx, File};
use super::counters::OverlayCounters;
use super::error::OverlayError;
use super::lower::Lower;
use super::tree::{Ino, Tree, check, more_dirs};
use crate::diff::{Diff, InodeKind, NameEntry};
use crate::image::NodeId;

/// The owner of the image's files, and the overlay's treatment of new ones.
#[derive(Debug, Clone)]
pub struct OverlayOptions {
    /// Owner of the image's files; PostgreSQL requires that it owns PGDATA.
    pub uid: u32,
    /// Their group.
    pub gid: u32,
    /// `PG_15_202209061`: the directory for PostgreSQL's files below a tablespace. It
    /// is needed for tablespaces that the clone creates.
    pub tablespace_version_dir: Option<String>,
    /// The path at which a server has this tree as its data directory. Links of
    /// tablespaces are then absolute, because a server that sends a base backup
    /// resolves the text of a link from its data directory.
    pub data_dir: Option<PathBuf>,
    /// Whether files may be opened by a descriptor on the diff's own file system,
    /// bypassing the overlay.
    pub passthrough: bool,
}

/// A writable tree over a lower one.
pub struct Overlay<L> {
    pub(super) lower: L,
    /// `None` makes the tree read-only.
    pub(super) diff: Option<Diff>,
    pub(super) options: OverlayOptions,
    pub(super) tree: RwLock<Tree>,
    pub(super) files: RwLock<HashMap<u64, Arc<File>>>,
    /// Inodes with a content record in the store.
    pub(super) stored: RwLock<HashSet<u64>>,
    /// Serializes commits, so that they reach the disk in the order in which their
    /// batches were created.
    pub(super) committer: Mutex<()>,
    pub(super) copies: Mutex<Copies>,
    /// The number of directories in each image directory that was counted so far.
    pub(super) image_dirs: Mutex<HashMap<NodeId, u32>>,
    pub(super) counters: OverlayCounters,
}

impl<L: Lower> Overlay<L> {
    /// Layers `diff` over `lower`; without a diff the tree is read-only.
    ///
    /// # Errors
    /// If the diff's metadata cannot be read, is damaged, or refers to things that the
    /// lower layer does not have.
    pub fn new(
        lower: L,
        diff: Option<Diff>,
        options: OverlayOptions,
    ) -> Result<Self, OverlayError> {
        let (namespace, stored) = match &diff {
            Some(diff) => {
                let namespace = diff.store().namespace()?;
                let stored = diff.store().inodes_with_content()?;
                check(&lower, &namespace, &stored)?;
                let removed = diff.collect_garbage()?;
                if removed > 0 {
                    tracing::debug!(removed, "removed data files without a record");
                }
                (namespace, stored)
            }
            None => Default::default(),
        };
        let more_dirs = more_dirs(&lower, &namespace);
        Ok(Self {
            lower,
            diff,
            options,
            tree: RwLock::new(Tree::load(namespace, more_dirs)),
            files: RwLock::default(),
            stored: RwLock::new(stored),
            committer: Mutex::new(()),
            copies: Mutex::default(),
            image_dirs: Mutex::default(),
            counters: OverlayCounters::default(),
        })
    }

    /// Returns the lower layer.
    #[must_use]
    pub fn lower(&self) -> &L {
        &self.lower
    }

    /// Returns the counters since the mount.
    #[must_use]
    pub fn counters(&self) -> &OverlayCounters {
        &self.counters
    }

    /// Whether a write was lost, possibly without its writer noticing.
    #[must_use]
    pub fn has_lost_writes(&self) -> bool {
        self.counters.lost_writes.get() > 0
    }

    /// Whether a file's content is the image's: the diff has none for it.
    #[must_use]
    pub fn is_untouched(&self, ino: Ino) -> bool {
        ino.node().is_some() && !self.stored().contains(&ino.0)
    }

    /// Returns the diff, if there is one.
    #[must_use]
    pub fn layer(&self) -> Option<&Diff> {
        self.diff.as_ref()
    }

    /// Whether files may be opened bypassing the overlay.
    #[must_use]
    pub fn passes_through(&self) -> bool {
        self.options.passthrough
    }

    /// Sets whether files may be opened bypassing the overlay; only before it is
    /// mounted.
    pub fn pass_through(&mut self, passthrough: bool) {
        self.options.passthrough = passthrough;
    }

    /// Whether the tree refuses changes.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.diff.is_none()
    }

    /// Returns free space for `statfs`: that of the diff's file system. `None` for a
    /// read-only tree, which has none.
    ///
    /// # Errors
    /// If the system call fails.
    pub fn statvfs(&self) -> Result<Option<nix::sys::statvfs::Statvfs>, OverlayError> {
        let stat = self.diff.as_ref().map(|diff| diff.storage().statvfs());
        Ok(stat.transpose()?)
    }

    pub(super) fn diff(&self) -> Result<&Diff, OverlayError> {
        self.diff.as_ref().ok_or(OverlayError::ReadOnly)
    }

    pub(super) fn ctx(&self) -> Ctx<'_, L> {
        Ctx {
            lower: &self.lower,
            diff: self.diff.as_ref(),
        }
    }

    // A thread that panicked while holding one of these locks left at worst a
    // half-recorded change in memory. Refusing every further request would turn that
    // into a hung server.
    pub(super) fn tree(&self) -> RwLockReadGuard<'_, Tree> {
        self.tree.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn tree_mut(&self) -> RwLockWriteGuard<'_, Tree> {
        self.tree.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn files(&self) -> RwLockReadGuard<'_, HashMap<u64, Arc<File>>> {
        self.files.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn files_mut(&self) -> RwLockWriteGuard<'_, HashMap<u64, Arc<File>>> {
        self.files.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn stored(&self) -> RwLockReadGuard<'_, HashSet<u64>> {
        self.stored.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn stored_mut(&self) -> RwLockWriteGuard<'_, HashSet<u64>> {
        self.stored.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn committing(&self) -> MutexGuard<'_, ()> {
        self.committer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns what `name` in the directory `parent` refers to.
    pub(super) fn resolve(&self, tree: &Tree, parent: Ino, name: &OsStr) -> Option<Ino> {
        match tree.entry(parent, name) {
            Some(NameEntry::Inode(ino)) => Some(Ino(ino)),
            Some(NameEntry::Whiteout) => None,
            None => self.lower_child(parent, name),
        }
    }

    /// Returns the image's own entry of that name, hidden or not.
    pub(super) fn lower_child(&self, parent: Ino, name: &OsStr) -> Option<Ino> {
        let node = parent.node()?;
        self.lower.lookup(node, name).map(Ino::of_node)
    }

    pub(super) fn kind(&self, tree: &Tree, ino: Ino) -> Option<InodeKind> {
        if let Some(inode) = tree.inode(ino) {
            return Some(inode.kind);
        }
        let node = ino.node().filter(|node| self.lower.has(*node))?;
        Some(self.lower.inode_kind(node))
    }

    pub(super) fn require_directory(&self, tree: &Tree, ino: Ino) -> Result<(), OverlayError> {
        match self.kind(tree, ino) {
            Some(InodeKind::Directory) if !tree.is_dead(ino) => Ok(()),
            Some(InodeKind::Directory) | None => Err(OverlayError::NotFound),
            Some(_) => Err(OverlayError::NotADirectory),
        }
    }
}
