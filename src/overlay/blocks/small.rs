//! Blocks that differ from the image's in a few bytes, as after a hint bit was
//! set, are kept as that difference.
//!
//! A block gets small in the background, when it has not been written for a
//! while and all of the file is committed. Its difference goes into the store
//! in the transaction that says so; only then is its place in the data file
//! given back. A write makes it an ordinary block again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use nix::fcntl::FallocateFlags;
use roaring::RoaringBitmap;

use super::{BS, Blocks, BlocksSnapshot, delta};
use crate::diff::{BLOCKS_PER_CHUNK, DeltaChange};
use crate::overlay::OverlayError;
use crate::overlay::content::Ctx;
use crate::overlay::lower::Lower;
use crate::pg::BLOCK_SIZE;

/// The small blocks of a file.
#[derive(Default)]
pub struct Small {
    held: RoaringBitmap,
    /// Differences that the store does not have yet.
    pending: BTreeMap<u32, Arc<[u8]>>,
    /// Blocks whose differences in the store are void.
    dropped: RoaringBitmap,
    /// Blocks written since they were last looked through.
    fresh: RoaringBitmap,
    /// Blocks to look at, not written since then.
    cold: RoaringBitmap,
}

impl Small {
    pub fn stored(held: RoaringBitmap) -> Self {
        Self {
            held,
            ..Self::default()
        }
    }

    pub fn count(&self) -> u64 {
        self.held.len()
    }

    pub fn held(&self) -> &RoaringBitmap {
        &self.held
    }

    /// Blocks that have their bytes in the data file from now on.
    pub fn written(&mut self, first: u32, last: u32) {
        self.drop_held(first, last);
        self.cold.remove_range(first..=last);
        self.fresh.insert_range(first..=last);
    }

    /// The file is cut before block `first`. Gives the chunks that change.
    pub fn cut(&mut self, first: u32) -> BTreeSet<u32> {
        let chunks = self.held.range(first..).map(|b| b / BLOCKS_PER_CHUNK);
        let chunks = chunks.collect();
        self.drop_held(first, u32::MAX);
        self.cold.remove_range(first..);
        self.fresh.remove_range(first..);
        chunks
    }

    fn drop_held(&mut self, first: u32, last: u32) {
        let gone: Vec<u32> = self.held.range(first..=last).collect();
        for block in gone {
            self.held.remove(block);
            self.pending.remove(&block);
            self.dropped.insert(block);
        }
    }

    /// Changes `part`, the image's bytes from `offset` on, to what the small
    /// blocks among them hold.
    pub fn patch<L: Lower>(
        &self,
        ctx: &Ctx<'_, L>,
        ino: u64,
        offset: u64,
        part: &mut [u8],
    ) -> Result<(), OverlayError> {
        let end = offset + part.len() as u64;
        if self.held.is_empty() || part.is_empty() {
            return Ok(());
        }
        let (Ok(first), Ok(last)) = (u32::try_from(offset / BS), u32::try_from((end - 1) / BS))
        else {
            return Ok(());
        };
        for block in self.held.range(first..=last) {
            let missing = OverlayError::MissingBlock { ino, block };
            let stored = match self.pending.get(&block) {
                Some(delta) => delta.clone(),
                None => match ctx.diff()?.store().delta(ino, block)? {
                    Some(delta) => delta.into(),
                    None => return Err(missing),
                },
            };
            let start = u64::from(block) * BS;
            let (from, to) = (start.max(offset), (start + BS).min(end));
            let bytes = part.get_mut((from - offset) as usize..(to - offset) as usize);
            bytes
                .and_then(|bytes| delta::apply(&stored, (from - start) as usize, bytes))
                .ok_or(missing)?;
        }
        Ok(())
    }

    /// What to commit. What is pending stays until it is settled.
    pub fn snapshot(&mut self, ino: u64) -> (Vec<DeltaChange>, RoaringBitmap) {
        let dropped = std::mem::take(&mut self.dropped);
        let void = dropped.iter().map(|block| (ino, block, None));
        let new = self.pending.iter();
        let new = new.map(|(block, delta)| (ino, *block, Some(delta.clone())));
        (void.chain(new).collect(), dropped)
    }

    pub fn restore(&mut self, dropped: RoaringBitmap) {
        self.dropped |= dropped;
    }
}

impl Blocks {
    /// Whether there are blocks that might become small.
    pub fn may_shrink(&self) -> bool {
        !(self.small.cold.is_empty() && self.small.fresh.is_empty())
    }

    /// Looks at up to `count` blocks, and makes those small that can be.
    /// `Ok(false)` if no more are to be looked at for now.
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
                // A bad page of the backup, which the clone wrote over.
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

    /// Makes a small block an ordinary one, if it is small.
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

    /// What can be done once `committed` is in the store: the space of blocks
    /// that are small now, and of a part that was cut, is given back.
    pub fn settle<L: Lower>(
        &mut self,
        ctx: &Ctx<'_, L>,
        ino: u64,
        committed: &BlocksSnapshot,
    ) -> Result<(), OverlayError> {
        let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        for (_, block, delta) in &committed.deltas {
            let Some(delta) = delta else { continue };
            // Not if it was written since then.
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
