//! The interface of the layer below the overlay.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::error::OverlayError;
use crate::diff::{InodeKind, time_ns};
use crate::image::{Image, NodeId};

pub use crate::image::NodeKind as LowerKind;

/// A read-only tree. Its nodes are numbered from 0 (the root) without gaps, and keep
/// their numbers from one mount to the next. Users get a [`crate::image::Image`]; tests
/// use a smaller tree.
pub trait Lower: Send + Sync + 'static {
    /// Returns the number of nodes.
    fn node_count(&self) -> usize;
    /// Returns a node's kind.
    fn kind(&self, node: NodeId) -> LowerKind;
    /// Returns a node's permission bits.
    fn mode(&self, node: NodeId) -> u32;
    /// Returns a node's name in its directory.
    fn name(&self, node: NodeId) -> &OsStr;
    /// Returns a node's directory; for the root, the root itself.
    fn parent(&self, node: NodeId) -> NodeId;
    /// Returns a node's path from the root.
    fn path(&self, node: NodeId) -> PathBuf;
    /// Returns the child of that name.
    fn lookup(&self, dir: NodeId, name: &OsStr) -> Option<NodeId>;
    /// Returns a directory's children, sorted by name.
    fn children(&self, dir: NodeId) -> Vec<NodeId>;
    /// Returns a symbolic link's target.
    fn symlink_target(&self, node: NodeId) -> Option<&Path>;
    /// Returns a file's size in bytes.
    ///
    /// # Errors
    /// Returns [`OverlayError::Lower`] if the size cannot be determined.
    fn len(&self, node: NodeId) -> Result<u64, OverlayError>;
    /// Fills `buf` from `offset`; fewer bytes only at the end of the file.
    ///
    /// # Errors
    /// Returns [`OverlayError::Lower`] if any of the bytes cannot be read.
    fn read_at(&self, node: NodeId, offset: u64, buf: &mut [u8]) -> Result<usize, OverlayError>;
    /// Returns the time of the last change shown for files and directories, in
    /// nanoseconds since the epoch.
    fn timestamp_ns(&self) -> i64;

    /// Whether there is a node of that number.
    fn has(&self, node: NodeId) -> bool {
        (node.0 as usize) < self.node_count()
    }
    /// Returns the kind of a node's inode.
    fn inode_kind(&self, node: NodeId) -> InodeKind {
        match self.kind(node) {
            LowerKind::Directory => InodeKind::Directory,
            LowerKind::File => InodeKind::File,
            LowerKind::Symlink => InodeKind::Symlink,
        }
    }
}

impl Lower for Image {
    fn node_count(&self) -> usize {
        Self::node_count(self)
    }
    fn kind(&self, node: NodeId) -> LowerKind {
        Self::kind(self, node)
    }
    fn mode(&self, node: NodeId) -> u32 {
        Self::mode(self, node)
    }
    fn name(&self, node: NodeId) -> &OsStr {
        Self::name(self, node)
    }
    fn parent(&self, node: NodeId) -> NodeId {
        Self::parent(self, node)
    }
    fn path(&self, node: NodeId) -> PathBuf {
        Self::path(self, node)
    }
    fn lookup(&self, dir: NodeId, name: &OsStr) -> Option<NodeId> {
        Self::lookup(self, dir, name)
    }
    fn children(&self, dir: NodeId) -> Vec<NodeId> {
        Self::children(self, dir).collect()
    }
    fn symlink_target(&self, node: NodeId) -> Option<&Path> {
        Self::symlink_target(self, node)
    }
    fn len(&self, node: NodeId) -> Result<u64, OverlayError> {
        Ok(Self::len(self, node)?)
    }
    fn read_at(&self, node: NodeId, offset: u64, buf: &mut [u8]) -> Result<usize, OverlayError> {
        Ok(Self::read_at(self, node, offset, buf)?)
    }
    fn timestamp_ns(&self) -> i64 {
        time_ns(self.timestamp())
    }
}
