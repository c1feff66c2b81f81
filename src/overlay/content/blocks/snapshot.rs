//! The uncommitted state of a block-wise file, and committing it.

use std::collections::BTreeSet;

use roaring::RoaringBitmap;

use super::bytes::Blocks;
use crate::diff::{BLOCKS_PER_CHUNK, BlockChunk, ContentRecord, DeltaChange, HeldBlocks};

/// The content that a commit writes for a file, and what to restore if it fails.
pub struct BlocksSnapshot {
    pub record: ContentRecord,
    pub chunks: Vec<BlockChunk>,
    pub deltas: Vec<DeltaChange>,
    dropped: RoaringBitmap,
    dirty: BTreeSet<u32>,
}

impl Blocks {
    /// Returns the state to commit, if any of it is not committed yet.
    pub fn snapshot(&mut self, ino: u64, origin: std::path::PathBuf) -> Option<BlocksSnapshot> {
        if self.is_clean() {
            return None;
        }
        self.changed = false;
        self.recorded_ns = self.mtime_ns;
        let dirty = std::mem::take(&mut self.dirty);
        let chunks = dirty.iter().map(|chunk| self.chunk(ino, *chunk)).collect();
        let record = self.record(origin);
        let (deltas, dropped) = self.small.snapshot(ino);
        Some(BlocksSnapshot {
            record,
            chunks,
            deltas,
            dropped,
            dirty,
        })
    }

    fn chunk(&self, ino: u64, chunk: u32) -> BlockChunk {
        let first = chunk * BLOCKS_PER_CHUNK;
        let last = first + (BLOCKS_PER_CHUNK - 1);
        let blocks = HeldBlocks {
            data: self.present.range(first..=last).collect(),
            small: self.small.held().range(first..=last).collect(),
        };
        BlockChunk { ino, chunk, blocks }
    }

    /// Reverts a snapshot that could not be committed.
    pub fn restore(&mut self, snapshot: BlocksSnapshot) {
        self.changed = true;
        self.dirty.extend(snapshot.dirty);
        self.small.restore(snapshot.dropped);
    }
}
