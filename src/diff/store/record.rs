//! The records of `meta.redb`, and the batch that changes them.
//!
//! | table      | key                        | value                              |
//! |------------|----------------------------|------------------------------------|
//! | `meta`     | name                       | number: format, next inode         |
//! | `names`    | (directory inode, name)    | inode, or 0: the image's is hidden |
//! | `inodes`   | inode                      | [`InodeRecord`] as JSON            |
//! | `contents` | inode                      | [`ContentRecord`] as JSON          |
//! | `blocks`   | (inode, chunk)             | [`HeldBlocks`]: roaring bitmaps    |
//! | `deltas`   | (inode, block)             | a small block, see [`DeltaChange`] |
//! | `notes`    | name                       | what pbkfs remembers, see [`Store::note`](super::Store::note) |
//!
//! Inodes below 2^32 are the image's nodes (node + 1); the clone's own start at 2^32.
//! JSON keeps the records readable in a dump of the store, and lets a later version add
//! fields.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use roaring::RoaringBitmap;
use serde::{Deserialize, Serialize};

/// The number of blocks that one bitmap record covers: 128 MiB of a file, 2 KiB of
/// bitmap at worst, so that an fsync after one write rewrites little.
pub const BLOCKS_PER_CHUNK: u32 = 16_384;

/// The maximum size of a record in bytes. The longest is a link's target in JSON, with
/// up to four characters per byte.
pub(super) const ROW_LIMIT: usize = 64 << 10;

/// The kind of an inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InodeKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A Unix socket.
    Socket,
}

/// An inode's attributes. The size and times of a regular file's content are
/// in its [`ContentRecord`] or with its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InodeRecord {
    /// The kind.
    pub kind: InodeKind,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Number of names that refer to it. For a directory this is ignored, and its names
    /// are counted.
    pub nlink: u32,
    /// Last access in nanoseconds since the epoch, as it was set; absent if it equals
    /// `mtime_ns`. Reading does not change it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub atime_ns: Option<i64>,
    /// Last change of the content in nanoseconds since the epoch. For a regular file,
    /// the time that its content records is the true one. As long as both are equal,
    /// `ctime_ns` is the inode's last change; otherwise the later of `ctime_ns` and the
    /// content's time is.
    pub mtime_ns: i64,
    /// Last change of the inode in nanoseconds since the epoch.
    pub ctime_ns: i64,
    /// A symbolic link's target, as bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<Vec<u8>>,
}

/// Location of a regular file's bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "layout", rename_all = "lowercase")]
pub enum ContentRecord {
    /// All bytes are in `data/INODE`, whose size and times are the file's.
    Whole {
        /// The image file that it was copied from, if any.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        origin: Option<PathBuf>,
    },
    /// Changed blocks are in `data/INODE`. The others are in the image up to
    /// `base_len`, and zeros from there on.
    Blocks {
        /// The image file below.
        origin: PathBuf,
        /// The file's size in bytes.
        size: u64,
        /// The size of the image's part that is still visible, in bytes.
        base_len: u64,
        /// Last change in nanoseconds since the epoch.
        mtime_ns: i64,
    },
}

impl ContentRecord {
    /// Returns the path of the image's file that it belongs to; `None` for one of the
    /// clone's own.
    #[must_use]
    pub fn origin(&self) -> Option<&Path> {
        match self {
            Self::Whole { origin } => origin.as_deref(),
            Self::Blocks { origin, .. } => Some(origin),
        }
    }
}

/// What a directory entry of the diff resolves to, overriding the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameEntry {
    /// This inode.
    Inode(u64),
    /// Nothing: the image's entry of that name is hidden.
    Whiteout,
}

impl NameEntry {
    /// Returns the inode, if there is one.
    #[must_use]
    pub fn inode(self) -> Option<u64> {
        match self {
            Self::Inode(ino) => Some(ino),
            Self::Whiteout => None,
        }
    }
}

/// One block's difference from the image, to be set or removed.
pub type DeltaChange = (u64, u32, Option<Arc<[u8]>>);

/// The blocks of a file that the diff has, by location; the two sets are disjoint.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HeldBlocks {
    /// In the data file.
    pub data: RoaringBitmap,
    /// As a difference from the image's block.
    pub small: RoaringBitmap,
}

impl HeldBlocks {
    /// Encodes one row of `blocks`: the bitmap of all blocks, then that of the small
    /// ones.
    #[doc(hidden)]
    pub fn encode(&self) -> io::Result<Vec<u8>> {
        let all = &self.data | &self.small;
        let mut bytes = Vec::with_capacity(all.serialized_size() + self.small.serialized_size());
        all.serialize_into(&mut bytes)?;
        self.small.serialize_into(&mut bytes)?;
        Ok(bytes)
    }

    /// Adds the blocks in a chunk's row. Before format 2 there were no small blocks.
    #[doc(hidden)]
    pub fn add(&mut self, chunk: u32, mut row: &[u8]) -> io::Result<()> {
        let bad = |what| Err(io::Error::new(io::ErrorKind::InvalidData, what));
        if row.len() > ROW_LIMIT {
            return bad("the row is too long");
        }
        let all = RoaringBitmap::deserialize_from(&mut row)?;
        let small = match row.is_empty() {
            true => RoaringBitmap::new(),
            false => RoaringBitmap::deserialize_from(&mut row)?,
        };
        let ends = [all.min(), all.max(), small.min(), small.max()];
        let is_inside = |block: &u32| block / BLOCKS_PER_CHUNK == chunk;
        if !ends.iter().flatten().all(is_inside) {
            return bad("it has blocks outside its chunk");
        }
        self.data |= all - &small;
        self.small |= small;
        Ok(())
    }
}

/// Which of one chunk's blocks the diff has.
#[derive(Debug, Clone, PartialEq)]
pub struct BlockChunk {
    /// The file's inode.
    pub ino: u64,
    /// `block / BLOCKS_PER_CHUNK`.
    pub chunk: u32,
    /// Blocks of the file that the diff has, all within the chunk.
    pub blocks: HeldBlocks,
}

/// Changes that become durable together, or not at all.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Batch {
    /// Names to set; `None` removes the diff's entry for the name.
    pub names: Vec<(u64, Vec<u8>, Option<NameEntry>)>,
    /// Inodes to set or remove.
    pub inodes: Vec<(u64, Option<InodeRecord>)>,
    /// Contents to set, or to remove with all their blocks.
    pub contents: Vec<(u64, Option<ContentRecord>)>,
    /// Bitmaps to replace; an empty one is removed. Applied after `contents`.
    pub blocks: Vec<BlockChunk>,
    /// Small blocks to set or remove, applied in order, after `contents`.
    pub deltas: Vec<DeltaChange>,
    /// The next inode to allocate, if it changed.
    pub next_ino: Option<u64>,
}

impl Batch {
    /// Whether there is nothing to commit.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
            && self.inodes.is_empty()
            && self.contents.is_empty()
            && self.blocks.is_empty()
            && self.deltas.is_empty()
            && self.next_ino.is_none()
    }
}

/// The names and inodes of a diff, as last committed.
#[derive(Debug, Default)]
pub struct Namespace {
    /// (directory, name, what it resolves to), in key order.
    pub names: Vec<(u64, Vec<u8>, NameEntry)>,
    /// Inodes whose attributes the diff holds.
    pub inodes: Vec<(u64, InodeRecord)>,
    /// The next inode to allocate; `None` if none was allocated yet.
    pub next_ino: Option<u64>,
}
