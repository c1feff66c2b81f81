//! Blocks that differ from the image's in a few bytes, for example after a hint bit was
//! set, are stored as that difference.
//!
//! A block becomes small in the background, once it has not been written for a while
//! and all of the file is committed. Its difference is stored in the same transaction
//! as its new state. Only then is its space in the data file freed. A write makes it a
//! full block again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use roaring::RoaringBitmap;

use super::{BS, delta};
use crate::diff::{BLOCKS_PER_CHUNK, DeltaChange};
use crate::overlay::content::ctx::Ctx;
use crate::overlay::error::OverlayError;
use crate::overlay::lower::Lower;

/// The small blocks of a file.
#[derive(Default)]
pub struct Small {
    pub(super) held: RoaringBitmap,
    /// Differences not in the store yet.
    pub(super) pending: BTreeMap<u32, Arc<[u8]>>,
    /// Blocks whose differences in the store are obsolete.
    pub(super) dropped: RoaringBitmap,
    /// Blocks written since the last pass over them.
    pub(super) fresh: RoaringBitmap,
    /// Blocks to examine, not written since the last pass.
    pub(super) cold: RoaringBitmap,
    /// Whether no more blocks become small, because the file is being hydrated.
    ended: bool,
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

    /// Records that these blocks now have their bytes in the data file.
    pub fn written(&mut self, first: u32, last: u32) {
        self.drop_held(first, last);
        self.cold.remove_range(first..=last);
        if !self.ended {
            self.fresh.insert_range(first..=last);
        }
    }

    /// Lets no more blocks become small.
    pub fn end(&mut self) {
        self.ended = true;
        self.cold.clear();
        self.fresh.clear();
    }

    /// Truncates the file before block `first`. Returns the chunks that change.
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

    /// Applies the small blocks in a range to `part`, the image's bytes from `offset`
    /// on.
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

    /// Returns what to commit. Pending differences remain until they are settled.
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
