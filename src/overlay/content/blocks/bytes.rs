//! The bytes of a block-wise file: reading and changing them.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::sync::{Arc, OnceLock};

use roaring::RoaringBitmap;

use super::BS;
use super::small::Small;
use crate::diff::{BLOCKS_PER_CHUNK, ContentRecord, DataFile, HeldBlocks, now_ns};
use crate::image::NodeId;
use crate::overlay::content::ctx::Ctx;
use crate::overlay::error::OverlayError;
use crate::overlay::lower::Lower;
use crate::pg::BLOCK_SIZE;

/// A file of the image with changed blocks in the diff.
pub struct Blocks {
    /// The file of the image below.
    pub node: NodeId,
    pub(super) data: OnceLock<Arc<dyn DataFile>>,
    pub size: u64,
    pub base_len: u64,
    pub mtime_ns: i64,
    /// The time in the last commit, or in the one that is about to be made.
    pub(super) recorded_ns: i64,
    pub(super) present: RoaringBitmap,
    pub(super) small: Small,
    /// Chunks whose presence changed since the last commit.
    pub(super) dirty: BTreeSet<u32>,
    /// Whether the content record changed since the last commit.
    pub(super) changed: bool,
    /// Whether the data file may hold bytes after the last present block.
    pub(super) excess: bool,
    /// Whether the block that `size` truncates may hold bytes past that size. They must
    /// read as zeros if the file is extended.
    pub(super) stale_tail: bool,
}

impl Blocks {
    /// Creates the state of an unchanged image file of `len` bytes.
    pub fn new(node: NodeId, len: u64, mtime_ns: i64) -> Self {
        Self {
            node,
            data: OnceLock::new(),
            size: len,
            base_len: len,
            mtime_ns,
            recorded_ns: mtime_ns,
            present: RoaringBitmap::new(),
            small: Small::default(),
            dirty: BTreeSet::new(),
            changed: true,
            excess: false,
            stale_tail: false,
        }
    }

    /// Restores the state recorded in the store.
    pub fn stored(node: NodeId, size: u64, base_len: u64, mtime_ns: i64, held: HeldBlocks) -> Self {
        let mut blocks = Self::new(node, size, mtime_ns);
        blocks.base_len = base_len;
        blocks.present = held.data;
        blocks.small = Small::stored(held.small);
        blocks.changed = false;
        // A crash may have come after the commit of a truncation, but before the data
        // file was trimmed and the truncated block zeroed.
        blocks.excess = true;
        blocks.stale_tail = true;
        blocks
    }

    /// Whether everything is committed.
    pub fn is_clean(&self) -> bool {
        self.dirty.is_empty() && !self.changed
    }

    /// Returns the number of blocks in the diff.
    pub fn count(&self) -> u64 {
        self.present.len() + self.small.count()
    }

    /// Returns the content record that a commit would write now.
    pub fn record(&self, origin: std::path::PathBuf) -> ContentRecord {
        ContentRecord::Blocks {
            origin,
            size: self.size,
            base_len: self.base_len,
            mtime_ns: self.mtime_ns,
        }
    }

    /// Whether space can be freed after the next commit.
    pub fn has_excess(&self) -> bool {
        self.excess && !self.is_clean()
    }

    /// Sets the time of the last change. A later time than the recorded one is included
    /// in the next commit, as after a write. An earlier one requires a commit.
    pub fn set_mtime(&mut self, mtime_ns: i64) {
        self.mtime_ns = mtime_ns;
        self.changed |= mtime_ns < self.recorded_ns;
    }

    /// Reads up to `buf.len()` bytes; fewer only at the end of the file.
    pub fn read<L: Lower>(
        &self,
        ctx: &Ctx<'_, L>,
        ino: u64,
        offset: u64,
        buf: &mut [u8],
    ) -> Result<usize, OverlayError> {
        let wanted = self.size.saturating_sub(offset).min(buf.len() as u64);
        let end = offset + wanted;
        let mut at = offset;
        while at < end {
            let present = self.is_present(at / BS);
            let stop = self.run_end(at, present).min(end);
            let from = (at - offset) as usize;
            let Some(part) = buf.get_mut(from..from + (stop - at) as usize) else {
                break;
            };
            if present {
                self.read_data(ctx, ino, at, part)?;
            } else {
                self.read_base(ctx, at, part)?;
                self.small.patch(ctx, ino, at, part)?;
            }
            at = stop;
        }
        Ok(wanted as usize)
    }

    pub(super) fn is_present(&self, block: u64) -> bool {
        u32::try_from(block).is_ok_and(|block| self.present.contains(block))
    }

    /// Returns the end of the run of blocks from `at` that are all present, or all
    /// absent.
    fn run_end(&self, at: u64, present: bool) -> u64 {
        let Ok(block) = u32::try_from(at / BS) else {
            return u64::MAX;
        };
        let mut rest = self.present.range(block..);
        if !present {
            return rest.next().map_or(u64::MAX, |next| u64::from(next) * BS);
        }
        let run = rest.next_range().map_or(block, |run| *run.end());
        (u64::from(run) + 1) * BS
    }

    pub(super) fn read_data<L: Lower>(
        &self,
        ctx: &Ctx<'_, L>,
        ino: u64,
        offset: u64,
        buf: &mut [u8],
    ) -> Result<(), OverlayError> {
        let n = self.data_file(ctx, ino)?.read_at(buf, offset)?;
        if n < buf.len() {
            let block = u32::try_from((offset + n as u64) / BS).unwrap_or(u32::MAX);
            return Err(OverlayError::MissingBlock { ino, block });
        }
        Ok(())
    }

    pub(super) fn read_base<L: Lower>(
        &self,
        ctx: &Ctx<'_, L>,
        offset: u64,
        buf: &mut [u8],
    ) -> Result<(), OverlayError> {
        let below = self.base_len.saturating_sub(offset).min(buf.len() as u64) as usize;
        let (base, beyond) = buf.split_at_mut(below);
        if !base.is_empty() {
            ctx.read_lower_exact(self.node, offset, base)?;
        }
        beyond.fill(0);
        Ok(())
    }

    /// Writes all of `buf`, completing its first and last block.
    pub fn write<L: Lower>(
        &mut self,
        ctx: &Ctx<'_, L>,
        ino: u64,
        offset: u64,
        buf: &[u8],
    ) -> Result<(), OverlayError> {
        if buf.is_empty() {
            return Ok(());
        }
        let end = offset
            .checked_add(buf.len() as u64)
            .ok_or(OverlayError::TooLarge)?;
        let first = u32::try_from(offset / BS).map_err(|_| OverlayError::TooLarge)?;
        let last = u32::try_from((end - 1) / BS).map_err(|_| OverlayError::TooLarge)?;
        self.data_file(ctx, ino)?;
        if end > self.size {
            self.zero_tail(ctx, ino)?;
        }
        let fill_head = !offset.is_multiple_of(BS) && !self.present.contains(first);
        let fill_tail = !end.is_multiple_of(BS) && !self.present.contains(last);
        if fill_head || fill_tail {
            let start = if fill_head {
                u64::from(first) * BS
            } else {
                offset
            };
            let stop = if fill_tail {
                (u64::from(last) + 1) * BS
            } else {
                end
            };
            let mut whole = vec![0; (stop - start) as usize];
            if fill_head {
                self.fill(ctx, ino, first, start, &mut whole)?;
            }
            if fill_tail && (last != first || !fill_head) {
                self.fill(ctx, ino, last, start, &mut whole)?;
            }
            let from = (offset - start) as usize;
            if let Some(part) = whole.get_mut(from..from + buf.len()) {
                part.copy_from_slice(buf);
            }
            self.write_data(&whole, start)?;
        } else {
            self.write_data(buf, offset)?;
        }
        self.mark(first, last);
        self.grow(end);
        self.mtime_ns = now_ns();
        Ok(())
    }

    /// Reads the current content of `block` into its place in `whole`, which starts at
    /// `start`.
    fn fill<L: Lower>(
        &self,
        ctx: &Ctx<'_, L>,
        ino: u64,
        block: u32,
        start: u64,
        whole: &mut [u8],
    ) -> Result<(), OverlayError> {
        let at = u64::from(block) * BS;
        let from = (at - start) as usize;
        if let Some(part) = whole.get_mut(from..from + BLOCK_SIZE) {
            self.read(ctx, ino, at, part)?;
        }
        Ok(())
    }

    /// Returns the data file, opening or creating it on first use.
    pub fn data_file<L: Lower>(
        &self,
        ctx: &Ctx<'_, L>,
        ino: u64,
    ) -> Result<&Arc<dyn DataFile>, OverlayError> {
        if let Some(data) = self.data.get() {
            return Ok(data);
        }
        let storage = ctx.diff()?.storage();
        // Do not recreate an existing file: even if no block is present, a crash may
        // undo a truncation that is not committed yet.
        let data = match storage.open(ino) {
            Err(e) if e.kind() == ErrorKind::NotFound && self.present.is_empty() => {
                storage.create(ino)?
            }
            other => other?,
        };
        Ok(self.data.get_or_init(|| data))
    }

    /// Releases the descriptor; the data file is reopened on demand.
    pub fn close(&mut self) {
        self.data = OnceLock::new();
    }

    /// Returns the data file, if the file has any bytes there, even if nothing was
    /// written since it was opened: another process may have written and closed the
    /// file, as PostgreSQL's backends do before a checkpoint.
    pub fn unsynced<L: Lower>(
        &self,
        ctx: &Ctx<'_, L>,
        ino: u64,
    ) -> Result<Option<Arc<dyn DataFile>>, OverlayError> {
        if self.present.is_empty() {
            return Ok(self.data.get().cloned());
        }
        self.data_file(ctx, ino).cloned().map(Some)
    }

    pub(super) fn write_data(&self, buf: &[u8], offset: u64) -> Result<(), OverlayError> {
        let data = self.data.get().ok_or(OverlayError::NotFound)?;
        Ok(data.write_all_at(buf, offset)?)
    }

    pub(super) fn mark(&mut self, first: u32, last: u32) {
        self.small.written(first, last);
        for chunk in first / BLOCKS_PER_CHUNK..=last / BLOCKS_PER_CHUNK {
            let start = chunk * BLOCKS_PER_CHUNK;
            let end = start + (BLOCKS_PER_CHUNK - 1);
            if self.present.insert_range(first.max(start)..=last.min(end)) > 0 {
                self.dirty.insert(chunk);
            }
        }
    }

    pub(super) fn grow(&mut self, end: u64) {
        if end > self.size {
            self.size = end;
            self.changed = true;
        }
    }

    /// Returns the first offset at or after `offset` whose block has data (of the diff
    /// or the image), or is a hole.
    pub fn seek(&self, offset: u64, data: bool) -> Option<u64> {
        let mut at = offset;
        while at < self.size {
            let present = self.is_present(at / BS);
            if (present || at < self.base_len) == data {
                return Some(at);
            }
            let run = self.run_end(at, present);
            at = if present || at >= self.base_len {
                run
            } else {
                run.min(self.base_len)
            };
        }
        (!data && offset < self.size).then_some(self.size)
    }

    /// Copies every missing block from the image to the data file, so that it holds the
    /// whole file.
    pub fn complete<L: Lower>(
        &mut self,
        ctx: &Ctx<'_, L>,
        ino: u64,
    ) -> Result<Arc<dyn DataFile>, OverlayError> {
        let data = self.data_file(ctx, ino)?.clone();
        let mut at = 0;
        while at < self.size {
            let present = self.is_present(at / BS);
            let stop = self.run_end(at, present).min(self.size);
            if !present {
                let mut bytes = vec![0; (stop - at) as usize];
                self.read(ctx, ino, at, &mut bytes)?;
                data.write_all_at(&bytes, at)?;
            }
            at = stop;
        }
        data.set_len(self.size)?;
        data.set_mtime(self.mtime_ns)?;
        Ok(data)
    }
}
