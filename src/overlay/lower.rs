//! What the overlay needs of the layer below it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::error::OverlayError;
use crate::diff::time_ns;
use crate::image::{Image, NodeId};

pub use crate::image::NodeKind as LowerKind;

/// A read-only tree whose nodes are numbered from 0 (the root) without gaps,
/// and keep their numbers from one mount to the next. [`crate::image::Image`]
/// is the one that users get; tests bring a smaller one.
pub trait Lower: Send + Sync + 'static {
    /// How many nodes there are.
    fn node_count(&self) -> usize;
    /// What a node is.
    fn kind(&self, node: NodeId) -> LowerKind;
    /// Its permission bits.
    fn mode(&self, node: NodeId) -> u32;
    /// Its name in its directory.
    fn name(&self, node: NodeId) -> &OsStr;
    /// Its directory; the root's is the root.
    fn parent(&self, node: NodeId) -> NodeId;
    /// Its path from the root.
    fn path(&self, node: NodeId) -> PathBuf;
    /// The child of that name.
    fn lookup(&self, dir: NodeId, name: &OsStr) -> Option<NodeId>;
    /// A directory's children, by name.
    fn children(&self, dir: NodeId) -> Vec<NodeId>;
    /// A symbolic link's target.
    fn symlink_target(&self, node: NodeId) -> Option<&Path>;
    /// A file's length in bytes.
    ///
    /// # Errors
    /// [`OverlayError::Lower`] when the length cannot be told.
    fn len(&self, node: NodeId) -> Result<u64, OverlayError>;
    /// Fills `buf` from `offset`; fewer bytes only at the end of the file.
    ///
    /// # Errors
    /// [`OverlayError::Lower`] when any of the bytes cannot be had.
    fn read_at(&self, node: NodeId, offset: u64, buf: &mut [u8]) -> Result<usize, OverlayError>;
    /// The time of the last change that files and directories show, in
    /// nanoseconds since the epoch.
    fn timestamp_ns(&self) -> i64;
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
