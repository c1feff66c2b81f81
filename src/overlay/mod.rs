//! Image + diff = one writable tree, in plain Rust types.
//!
//! The terms are those of Linux overlayfs: the image is the *lower* layer,
//! the diff the upper one; a *whiteout* hides a name of the image; *copy-up*
//! brings image bytes into the diff. Unlike overlayfs, copy-up is per 8 KiB
//! block: writing one page of a 1 GB segment stores one page.
//!
//! What is durable when:
//!
//! - `fsync` of a file syncs its data file, then commits which blocks the
//!   diff has ([`sync`]). A block's bit is never committed before its bytes
//!   are on disk; the other order could turn a page that was never fsynced
//!   into zeros after a crash.
//! - Names (create, rename, unlink, attributes) gather in memory and are
//!   committed together, in the order they happened, by `fsync` of a directory
//!   or of a file that is new, and every few seconds.
//! - A file's bytes are deleted only after its removal is committed.
//!
//! Locks, in the order in which they may be taken together: a file's `sync`
//! mutex, the commit mutex, the tree, the table of files, a file's content, the
//! set of stored inodes or of parked copies.

mod attr;
mod blocks;
mod changes;
mod content;
mod copies;
mod counters;
mod dirs;
mod error;
mod file;
mod inode;
mod io;
mod links;
mod lower;
mod moved;
mod names;
mod records;
mod shrink;
mod sync;
mod tree;

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

pub use attr::{Attr, AttrChange, TimeChange};
#[doc(hidden)]
pub use blocks::apply_delta;
pub use changes::{Change, ChangeKind, changes};
pub use counters::{ErrorCounters, OverlayCounters};
pub use dirs::DirEntry;
pub use error::OverlayError;
pub use io::{FallocateMode, SeekKind};
pub use lower::{Lower, LowerKind};
pub use moved::WalPlace;
pub use names::RenameMode;
pub use tree::Ino;

use crate::diff::{Diff, InodeKind};
use crate::image::NodeId;
use content::Ctx;
use copies::Copies;
use file::File;
use tree::Tree;

/// Base files up to this length are copied up whole when they are opened on
/// a mount with passthrough: catalogs then run at the speed of the diff's
/// file system, and what was not written is dropped again.
pub const WHOLE_COPY_LIMIT: u64 = 1 << 20;

/// The hidden directory in the mount's root that holds tablespaces.
pub const HIDDEN_DIR: &str = ".pbkfs";

/// Who owns what the image shows, and how the overlay treats new things.
#[derive(Debug, Clone)]
pub struct OverlayOptions {
    /// Owner of the image's files; PostgreSQL insists that it owns PGDATA.
    pub uid: u32,
    /// Their group.
    pub gid: u32,
    /// `PG_15_202209061`: the directory that PostgreSQL keeps its files in
    /// below a tablespace, needed for tablespaces that the clone makes.
    pub tablespace_version_dir: Option<String>,
    /// The path at which a server has this tree as its data directory. A
    /// tablespace's link is absolute there: a server that sends a base backup reads
    /// the text of a link as a path from its data directory.
    pub data_dir: Option<PathBuf>,
    /// Whether files may be opened by a descriptor of the diff's own file
    /// system, past the overlay.
    pub passthrough: bool,
}

/// A writable tree over a lower one.
pub struct Overlay<L> {
    lower: L,
    /// `None` makes the tree read-only.
    diff: Option<Diff>,
    options: OverlayOptions,
    tree: RwLock<Tree>,
    files: RwLock<HashMap<u64, Arc<File>>>,
    /// Inodes with a content record in the store.
    stored: RwLock<HashSet<u64>>,
    /// Serialises commits, so that they reach the disk in the order in which
    /// their batches were made.
    committer: Mutex<()>,
    copies: Mutex<Copies>,
    /// The directories in each of the image's that was asked for.
    image_dirs: Mutex<HashMap<NodeId, u32>>,
    counters: OverlayCounters,
}

impl<L: Lower> Overlay<L> {
    /// Lays `diff` over `lower`; without a diff the tree is read-only.
    ///
    /// # Errors
    /// When the diff's metadata cannot be read, is damaged, or refers to
    /// things that the lower layer does not have.
    pub fn new(
        lower: L,
        diff: Option<Diff>,
        options: OverlayOptions,
    ) -> Result<Self, OverlayError> {
        let (tree, stored) = match &diff {
            Some(diff) => {
                let namespace = diff.store().namespace()?;
                let stored = diff.store().inodes_with_content()?;
                records::check(&lower, &namespace, &stored)?;
                let removed = diff.collect_garbage()?;
                if removed > 0 {
                    tracing::debug!(removed, "removed data files without a record");
                }
                let more_dirs = links::more_dirs(&lower, &namespace);
                (Tree::load(namespace, more_dirs), stored)
            }
            None => (Tree::default(), HashSet::new()),
        };
        Ok(Self {
            lower,
            diff,
            options,
            tree: RwLock::new(tree),
            files: RwLock::default(),
            stored: RwLock::new(stored),
            committer: Mutex::new(()),
            copies: Mutex::default(),
            image_dirs: Mutex::default(),
            counters: OverlayCounters::default(),
        })
    }

    /// The lower layer.
    #[must_use]
    pub fn lower(&self) -> &L {
        &self.lower
    }

    /// What was done since the mount began.
    #[must_use]
    pub fn counters(&self) -> &OverlayCounters {
        &self.counters
    }

    /// Whether something that was written is not there, and who wrote it may
    /// not know.
    #[must_use]
    pub fn has_lost_writes(&self) -> bool {
        self.counters.lost_writes.get() > 0
    }

    /// The diff, if there is one.
    #[must_use]
    pub fn layer(&self) -> Option<&Diff> {
        self.diff.as_ref()
    }

    /// Whether files may be opened past the overlay.
    #[must_use]
    pub fn passes_through(&self) -> bool {
        self.options.passthrough
    }

    /// Lets files be opened past the overlay, or not; before it is mounted.
    pub fn pass_through(&mut self, passthrough: bool) {
        self.options.passthrough = passthrough;
    }

    /// Whether the tree refuses changes.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.diff.is_none()
    }

    /// Free space, as seen by `statfs`: that of the diff's file system.
    /// `None` on a read-only tree, which has none.
    ///
    /// # Errors
    /// The system's own.
    pub fn statvfs(&self) -> Result<Option<nix::sys::statvfs::Statvfs>, OverlayError> {
        self.diff
            .as_ref()
            .map(|d| d.storage().statvfs())
            .transpose()
            .map_err(OverlayError::Io)
    }

    fn diff(&self) -> Result<&Diff, OverlayError> {
        self.diff.as_ref().ok_or(OverlayError::ReadOnly)
    }

    fn ctx(&self) -> Ctx<'_, L> {
        Ctx {
            lower: &self.lower,
            diff: self.diff.as_ref(),
        }
    }

    // A thread that panicked while it held one of these locks has at worst
    // left a change half recorded in memory; refusing every further request
    // would turn that into a hung server.
    fn tree(&self) -> RwLockReadGuard<'_, Tree> {
        self.tree.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn tree_mut(&self) -> RwLockWriteGuard<'_, Tree> {
        self.tree.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn files(&self) -> RwLockReadGuard<'_, HashMap<u64, Arc<File>>> {
        self.files.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn files_mut(&self) -> RwLockWriteGuard<'_, HashMap<u64, Arc<File>>> {
        self.files.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn stored(&self) -> RwLockReadGuard<'_, HashSet<u64>> {
        self.stored.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn stored_mut(&self) -> RwLockWriteGuard<'_, HashSet<u64>> {
        self.stored.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn committing(&self) -> MutexGuard<'_, ()> {
        self.committer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// What `name` in the directory `parent` leads to.
    fn resolve(&self, tree: &Tree, parent: Ino, name: &OsStr) -> Option<Ino> {
        use crate::diff::NameEntry;
        match tree.entry(parent, name) {
            Some(NameEntry::Inode(ino)) => Some(Ino(ino)),
            Some(NameEntry::Whiteout) => None,
            None => self.lower_child(parent, name),
        }
    }

    /// The image's own entry of that name, hidden or not.
    fn lower_child(&self, parent: Ino, name: &OsStr) -> Option<Ino> {
        let node = parent.node()?;
        self.lower.lookup(node, name).map(Ino::of_node)
    }

    fn kind(&self, tree: &Tree, ino: Ino) -> Option<InodeKind> {
        if let Some(inode) = tree.inode(ino) {
            return Some(inode.kind);
        }
        let node = ino
            .node()
            .filter(|n| (n.0 as usize) < self.lower.node_count())?;
        Some(match self.lower.kind(node) {
            LowerKind::Directory => InodeKind::Directory,
            LowerKind::File => InodeKind::File,
            LowerKind::Symlink => InodeKind::Symlink,
        })
    }

    fn require_directory(&self, tree: &Tree, ino: Ino) -> Result<(), OverlayError> {
        match self.kind(tree, ino) {
            Some(InodeKind::Directory) if !tree.is_dead(ino) => Ok(()),
            Some(InodeKind::Directory) | None => Err(OverlayError::NotFound),
            Some(_) => Err(OverlayError::NotADirectory),
        }
    }
}

#[cfg(test)]
mod tests;
