//! Inodes: their numbers and attributes.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use crate::diff::{InodeKind, InodeRecord};
use crate::image::NodeId;

/// An inode number. The image's nodes come first (node + 1, so that the root is 1 as
/// FUSE requires); the clone's own start at 2^32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ino(pub u64);

impl Ino {
    /// The root directory.
    pub const ROOT: Self = Self(1);
    /// The first number for the clone's own inodes.
    pub const FIRST_NEW: Self = Self(1 << 32);

    /// Returns the inode of an image node.
    #[must_use]
    pub fn of_node(node: NodeId) -> Self {
        Self(u64::from(node.0) + 1)
    }

    /// Returns the image node of an inode; `None` for the clone's own.
    #[must_use]
    pub fn node(self) -> Option<NodeId> {
        // 2^32 - 1 would fit a u32, too, but the inode is the clone's first.
        if self >= Self::FIRST_NEW {
            return None;
        }
        u32::try_from(self.0.checked_sub(1)?).ok().map(NodeId)
    }
}

/// An inode that the image lacks, or whose attributes differ from the image's.
#[derive(Debug, Clone)]
pub struct Inode {
    pub kind: InodeKind,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub nlink: u32,
    pub atime_ns: i64,
    pub mtime_ns: i64,
    pub ctime_ns: i64,
    pub link: Option<OsString>,
    /// The tree's sequence number at the last change.
    pub changed: u64,
    /// Whether a commit with the inode was started; only then can the store have it.
    pub maybe_stored: bool,
}

impl Inode {
    pub fn new(kind: InodeKind, mode: u32, uid: u32, gid: u32, now_ns: i64) -> Self {
        Self {
            kind,
            mode: mode & 0o7777,
            uid,
            gid,
            nlink: match kind {
                InodeKind::Directory => 2,
                _ => 1,
            },
            atime_ns: now_ns,
            mtime_ns: now_ns,
            ctime_ns: now_ns,
            link: None,
            changed: 0,
            maybe_stored: false,
        }
    }

    pub(super) fn record(&self) -> InodeRecord {
        InodeRecord {
            kind: self.kind,
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            nlink: self.nlink,
            atime_ns: (self.atime_ns != self.mtime_ns).then_some(self.atime_ns),
            mtime_ns: self.mtime_ns,
            ctime_ns: self.ctime_ns,
            link: self.link.as_ref().map(|l| l.as_bytes().to_vec()),
        }
    }

    pub(super) fn from_record(record: InodeRecord) -> Self {
        Self {
            kind: record.kind,
            mode: record.mode,
            uid: record.uid,
            gid: record.gid,
            nlink: record.nlink,
            atime_ns: record.atime_ns.unwrap_or(record.mtime_ns),
            mtime_ns: record.mtime_ns,
            ctime_ns: record.ctime_ns,
            link: record.link.map(OsString::from_vec),
            changed: 0,
            maybe_stored: true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clones_first_inode_is_no_node_of_the_image() {
        assert_eq!(Ino(0).node(), None);
        assert_eq!(Ino::ROOT.node(), Some(NodeId(0)));
        assert_eq!(Ino(u64::from(u32::MAX)).node(), Some(NodeId(u32::MAX - 1)));
        assert_eq!(Ino::FIRST_NEW.node(), None);
    }
}
