//! The content of regular files in use.

mod blocks;
mod check;
mod copies;
mod ctx;
mod file;
mod whole;

use std::path::PathBuf;
use std::sync::Arc;

pub use blocks::apply_delta;
use blocks::{Blocks, BlocksSnapshot};
use check::check_blocks;
pub use copies::Copies;
pub use ctx::Ctx;
pub use file::File;
use whole::Whole;

use super::error::OverlayError;
use super::lower::Lower;
use super::tree::Ino;
use crate::diff::{ContentRecord, DataFile, DataStat};
use crate::image::NodeId;

/// Where a regular file's bytes are.
pub enum Content {
    /// In the image, untouched.
    Image { node: NodeId, len: u64 },
    /// In the image, with changed blocks in the diff.
    Blocks(Blocks),
    /// All in the diff.
    Whole(Whole),
}

/// The data file to sync before a commit.
pub type Unsynced = Option<Arc<dyn DataFile>>;

/// The content that a commit writes for a file.
pub enum Snapshot {
    Blocks(BlocksSnapshot),
    Whole(ContentRecord),
    /// It replaces the records of blocks. The content follows once it is committed.
    Completed(ContentRecord),
}

impl Content {
    /// Creates the content of a file that the clone created, or that the store has as a
    /// whole one.
    pub fn whole(data: Arc<dyn DataFile>, origin: Option<NodeId>) -> Self {
        Self::Whole(Whole {
            data,
            origin,
            committed: true,
            pristine: None,
        })
    }

    /// Loads a file's content from the store and the image.
    pub fn load<L: Lower>(
        ctx: &Ctx<'_, L>,
        ino: u64,
        node: Option<NodeId>,
        stored: bool,
    ) -> Result<Self, OverlayError> {
        if let Some(node) = node.filter(|_| !stored) {
            return Ok(Self::Image {
                node,
                len: ctx.lower.len(node)?,
            });
        }
        let record = match ctx.diff.filter(|_| stored) {
            Some(diff) => diff.store().content(ino)?,
            None => None,
        };
        if let (Some((record, held)), Some(node)) = (&record, node) {
            check_blocks(ctx.lower, node, record, held)?;
        }
        // Exactly the image's files have one.
        let origin = record.as_ref().and_then(|(record, _)| record.origin());
        match (origin, node) {
            (Some(origin), Some(node)) => check_origin(ctx, node, origin)?,
            (None, None) => {}
            _ => {
                let reason = format!("the record of inode {ino} is of the wrong kind");
                return Err(OverlayError::Mismatch(reason));
            }
        }
        if let (Some((record, held)), Some(node)) = (record, node)
            && let ContentRecord::Blocks {
                size,
                base_len,
                mtime_ns,
                ..
            } = record
        {
            let blocks = Blocks::stored(node, size, base_len, mtime_ns, held);
            return Ok(Self::Blocks(blocks));
        }
        Ok(Self::whole(ctx.diff()?.storage().open(ino)?, node))
    }

    /// Returns size, space and time of the last change. The space is that of the file's
    /// own bytes, or what it would take if it had been restored.
    pub fn stat(&self) -> Result<DataStat, OverlayError> {
        Ok(match self {
            Self::Image { len, .. } => DataStat {
                len: *len,
                blocks: len.div_ceil(512),
                mtime_ns: i64::MIN,
            },
            Self::Blocks(blocks) => DataStat {
                len: blocks.size,
                blocks: blocks.space(),
                mtime_ns: blocks.mtime_ns,
            },
            Self::Whole(whole) => whole.data.stat()?,
        })
    }

    pub fn read<L: Lower>(
        &self,
        ctx: &Ctx<'_, L>,
        ino: u64,
        offset: u64,
        buf: &mut [u8],
    ) -> Result<usize, OverlayError> {
        match self {
            Self::Image { node, .. } => ctx.lower.read_at(*node, offset, buf),
            Self::Blocks(blocks) => blocks.read(ctx, ino, offset, buf),
            Self::Whole(whole) => Ok(whole.data.read_at(buf, offset)?),
        }
    }

    /// Turns an untouched image file into one whose blocks can be changed.
    pub fn make_writable(&mut self, mtime_ns: i64) {
        if let Self::Image { node, len } = *self {
            *self = Self::Blocks(Blocks::new(node, len, mtime_ns));
        }
    }

    /// Copies all of an untouched image file into the diff, or uses the `parked` copy.
    /// A file with changed blocks is left alone: its record in the store would be wrong
    /// once the kernel truncates the data file by itself.
    pub fn make_whole<L: Lower>(
        &mut self,
        ctx: &Ctx<'_, L>,
        ino: u64,
        parked: Option<DataStat>,
    ) -> Result<(), OverlayError> {
        let Self::Image { node, len } = *self else {
            return Ok(());
        };
        // If a parked copy has changed, it was written to through a memory mapping,
        // which outlives the handle that it was created from.
        let (data, pristine) = match parked {
            Some(stat) => (ctx.diff()?.storage().open(ino)?, Some(stat)),
            None => {
                let data = Blocks::new(node, len, ctx.lower.timestamp_ns()).complete(ctx, ino)?;
                let stat = data.stat()?;
                (data, Some(stat))
            }
        };
        *self = Self::Whole(Whole {
            data,
            origin: Some(node),
            committed: false,
            pristine,
        });
        Ok(())
    }

    /// Makes a file whole that is recorded as such; `data` has all of its blocks.
    pub fn complete(&mut self, data: Arc<dyn DataFile>) {
        let Self::Blocks(blocks) = self else { return };
        blocks.end_at_size(&data);
        *self = Self::whole(data, Some(blocks.node));
    }

    /// Returns the data file to sync before a commit, and what to commit.
    pub fn snapshot<L: Lower>(
        &mut self,
        ctx: &Ctx<'_, L>,
        ino: u64,
    ) -> Result<(Unsynced, Option<Snapshot>), OverlayError> {
        match self {
            Self::Image { .. } => Ok((None, None)),
            Self::Blocks(blocks) => {
                let origin = origin_path(ctx, ino);
                let data = blocks.unsynced(ctx, ino)?;
                Ok((data, blocks.snapshot(ino, origin).map(Snapshot::Blocks)))
            }
            Self::Whole(whole) => {
                if whole.is_pristine()? {
                    return Ok((None, None));
                }
                let record = (!whole.committed).then(|| {
                    whole.committed = true;
                    let origin = whole.origin.map(|node| ctx.lower.path(node));
                    Snapshot::Whole(ContentRecord::Whole { origin })
                });
                Ok((Some(whole.data.clone()), record))
            }
        }
    }

    /// Reverts a snapshot that could not be committed.
    pub fn restore(&mut self, snapshot: Snapshot) {
        match (self, snapshot) {
            (Self::Blocks(blocks), Snapshot::Blocks(snapshot)) => blocks.restore(snapshot),
            (Self::Whole(whole), Snapshot::Whole(_)) => whole.committed = false,
            _ => {}
        }
    }
}

fn origin_path<L: Lower>(ctx: &Ctx<'_, L>, ino: u64) -> PathBuf {
    Ino(ino)
        .node()
        .map(|node| ctx.lower.path(node))
        .unwrap_or_default()
}

fn check_origin<L: Lower>(
    ctx: &Ctx<'_, L>,
    node: NodeId,
    recorded: &std::path::Path,
) -> Result<(), OverlayError> {
    let path = ctx.lower.path(node);
    if path == recorded {
        return Ok(());
    }
    Err(OverlayError::Mismatch(format!(
        "its blocks belong to {}, but the backup has {} there",
        recorded.display(),
        path.display()
    )))
}
