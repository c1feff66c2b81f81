//! Turning blocks into small ones, and back.

use std::sync::Arc;

use nix::fcntl::FallocateFlags;

use super::bytes::Blocks;
use super::snapshot::BlocksSnapshot;
use super::{BS, delta};
use crate::diff::BLOCKS_PER_CHUNK;
use crate::overlay::content::ctx::Ctx;
use crate::overlay::error::OverlayError;
use crate::overlay::lower::Lower;
use crate::pg::BLOCK_SIZE;

impl Blocks {
    /// Whether there are blocks that might become small.
    pub fn may_shrink(&self) -> bool {
        !(self.small.cold.is_empty() && self.small.fresh.is_empty())
    }

    /// Examines up to `count` blocks, and makes those small that can be. Returns
    /// `Ok(false)` if no blocks are left to examine for now.
    pub fn shrink<L: Lower>(
        &mut self,
        ctx: &Ctx<'_, L>,
        ino: u64,
        count: usize,
    ) -> Result<bool, OverlayError> {
        let candidates: Vec<u32> = self.small.cold.iter().take(count).collect();
        if candidates.is_empty() {
            self.small.cold = std::mem::take(&mut self.small.fresh);
            return Ok(false);
        }
        let (mut new, mut base) = ([0; BLOCK_SIZE], [0; BLOCK_SIZE]);
        for block in candidates {
            self.small.cold.remove(block);
            let at = u64::from(block) * BS;
            if !self.present.contains(block) || at + BS > self.base_len.min(self.size) {
                continue;
            }
            self.read_data(ctx, ino, at, &mut new)?;
            if let Err(error) = self.read_base(ctx, at, &mut base) {
                // A bad page of the backup that the clone has overwritten.
                tracing::debug!(ino, block, %error, "a block stays whole");
                continue;
            }
            if let Some(delta) = delta::encode(&base, &new) {
                self.present.remove(block);
                self.small.held.insert(block);
                self.small.pending.insert(block, delta.into());
                self.dirty.insert(block / BLOCKS_PER_CHUNK);
            }
        }
        Ok(true)
    }

    /// Turns a small block back into a full one.
    pub fn enlarge<L: Lower>(
        &mut self,
        ctx: &Ctx<'_, L>,
        ino: u64,
        block: u64,
    ) -> Result<(), OverlayError> {
        let Some(small) = u32::try_from(block)
            .ok()
            .filter(|block| self.small.held.contains(*block))
        else {
            return Ok(());
        };
        let mut whole = [0; BLOCK_SIZE];
        self.read(ctx, ino, block * BS, &mut whole)?;
        self.data_file(ctx, ino)?;
        self.write_data(&whole, block * BS)?;
        self.mark(small, small);
        Ok(())
    }

    /// Frees space once `committed` is in the store: the space of blocks that are small
    /// now, and of a truncated part.
    pub fn settle<L: Lower>(
        &mut self,
        ctx: &Ctx<'_, L>,
        ino: u64,
        committed: &BlocksSnapshot,
    ) -> Result<(), OverlayError> {
        let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        for (_, block, delta) in &committed.deltas {
            let Some(delta) = delta else { continue };
            // Skip a block that was written since then.
            let pending = self.small.pending.get(block);
            if pending.is_some_and(|pending| Arc::ptr_eq(pending, delta)) {
                self.small.pending.remove(block);
                let data = self.data_file(ctx, ino)?;
                match data.allocate(hole, u64::from(*block) * BS, BS) {
                    Err(e) if e.raw_os_error() != Some(nix::libc::EOPNOTSUPP) => {
                        return Err(e.into());
                    }
                    _ => {}
                }
            }
        }
        self.trim(ctx, ino)
    }
}
