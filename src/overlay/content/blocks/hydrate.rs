//! Bringing the blocks that the data file lacks into it, until it holds the whole file.

use std::ops::Range;
use std::sync::Arc;

use nix::fcntl::FallocateFlags;

use super::BS;
use super::bytes::Blocks;
use crate::diff::DataFile;
use crate::overlay::content::ctx::Ctx;
use crate::overlay::error::OverlayError;
use crate::overlay::lower::Lower;
use crate::pg::BLOCK_SIZE;

/// A block of zeros, which takes no space.
const ZEROS: [u8; BLOCK_SIZE] = [0; BLOCK_SIZE];

/// Blocks that the data file lacked, with their bytes.
pub struct Lacking {
    first: u32,
    bytes: Vec<u8>,
    /// How much of the image was visible when they were read.
    base_len: u64,
    /// Whether they are the image's own, without the changes of small blocks.
    of_image: bool,
}

impl Lacking {
    /// Returns the number of the block after them.
    pub fn end(&self) -> u32 {
        let count = (self.bytes.len() / BLOCK_SIZE) as u32;
        self.first.saturating_add(count)
    }

    /// Returns their size in bytes.
    pub fn len(&self) -> u64 {
        self.bytes.len() as u64
    }
}

impl Blocks {
    /// Lets no more blocks become small: they would have to be brought in again.
    pub fn keep_full(&mut self) {
        self.small.end();
    }

    /// Returns the number of blocks that the data file lacks.
    pub fn lacking(&self) -> u64 {
        let blocks = self.size.div_ceil(BS);
        let held = u32::try_from(blocks).map_or(self.present.len(), |end| {
            self.present.range_cardinality(..end)
        });
        blocks.saturating_sub(held)
    }

    /// Reads up to `count` adjacent blocks that the data file lacks, from block `from`
    /// on. Returns `Ok(None)` if it lacks none there.
    pub fn read_lacking<L: Lower>(
        &self,
        ctx: &Ctx<'_, L>,
        ino: u64,
        from: u32,
        count: u32,
    ) -> Result<Option<Lacking>, OverlayError> {
        let Some(run) = self.next_lacking(from, count) else {
            return Ok(None);
        };
        let mut bytes = vec![0; (run.end - run.start) as usize * BLOCK_SIZE];
        // The file may end within the last block, of which the rest stays zeros.
        self.read(ctx, ino, u64::from(run.start) * BS, &mut bytes)?;
        Ok(Some(Lacking {
            first: run.start,
            bytes,
            base_len: self.base_len,
            of_image: false,
        }))
    }

    fn next_lacking(&self, from: u32, count: u32) -> Option<Range<u32>> {
        let end = u32::try_from(self.size.div_ceil(BS)).unwrap_or(u32::MAX);
        let mut start = from;
        let mut held = self.present.range(from..);
        while let Some(run) = held.next_range() {
            if *run.start() > start {
                let stop = (*run.start()).min(start.saturating_add(count)).min(end);
                return (start < stop).then_some(start..stop);
            }
            start = run.end().checked_add(1)?;
        }
        let stop = start.saturating_add(count).min(end);
        (start < stop).then_some(start..stop)
    }

    /// Puts the image's own bytes from `offset` on, a multiple of the block size, in the
    /// data file, where it lacks them and they are still visible. Returns their number.
    /// A block that is small, or of which only a part was passed, is left out.
    pub fn put_image<L: Lower>(
        &mut self,
        ctx: &Ctx<'_, L>,
        ino: u64,
        offset: u64,
        bytes: &[u8],
    ) -> Result<u64, OverlayError> {
        let Ok(first) = u32::try_from(offset / BS) else {
            return Ok(0);
        };
        let visible = self.base_len.saturating_sub(offset);
        let visible = visible.min(bytes.len() as u64) as usize;
        let is_end = offset + visible as u64 == self.base_len;
        let whole = match is_end {
            true => visible,
            false => visible - visible % BLOCK_SIZE,
        };
        let mut bytes = bytes.get(..whole).unwrap_or_default().to_vec();
        bytes.resize(whole.next_multiple_of(BLOCK_SIZE), 0);
        let before = self.present.len();
        let lacking = Lacking {
            first,
            bytes,
            base_len: self.base_len,
            of_image: true,
        };
        self.put(ctx, ino, &lacking)?;
        Ok((self.present.len() - before) * BS)
    }

    /// Puts blocks in the data file, except those that were written since they were
    /// read. Returns `Ok(false)` if the file was truncated since then, and the
    /// bytes may no longer be its own.
    pub fn put<L: Lower>(
        &mut self,
        ctx: &Ctx<'_, L>,
        ino: u64,
        lacking: &Lacking,
    ) -> Result<bool, OverlayError> {
        if self.base_len != lacking.base_len {
            return Ok(false);
        }
        let data = self.data_file(ctx, ino)?.clone();
        let end = u32::try_from(self.size.div_ceil(BS)).unwrap_or(u32::MAX);
        let blocks = (lacking.first..end).zip(lacking.bytes.chunks_exact(BLOCK_SIZE));
        // Adjacent blocks of a kind, all zeros or not, are put together.
        let mut run: Option<(Range<u32>, bool)> = None;
        for (block, bytes) in blocks {
            let is_zero = bytes == ZEROS;
            match &mut run {
                _ if self.present.contains(block) => {}
                _ if lacking.of_image && self.small.held().contains(block) => {}
                Some((run, zero)) if run.end == block && *zero == is_zero => run.end += 1,
                _ => {
                    if let Some(done) = run.replace((block..block + 1, is_zero)) {
                        self.put_run(&data, lacking, done)?;
                    }
                }
            }
        }
        if let Some(done) = run {
            self.put_run(&data, lacking, done)?;
        }
        Ok(true)
    }

    fn put_run(
        &mut self,
        data: &Arc<dyn DataFile>,
        lacking: &Lacking,
        (run, is_zero): (Range<u32>, bool),
    ) -> Result<(), OverlayError> {
        let at = u64::from(run.start) * BS;
        let len = (run.end - run.start) as usize * BLOCK_SIZE;
        let from = (run.start - lacking.first) as usize * BLOCK_SIZE;
        let bytes = lacking.bytes.get(from..from + len).unwrap_or_default();
        match is_zero {
            true => put_zeros(data, at, bytes)?,
            false => data.write_all_at(bytes, at)?,
        }
        self.mark(run.start, run.end - 1);
        Ok(())
    }

    /// Cuts the data file to the file's size and gives it the file's time, before it is
    /// recorded as whole. It must hold all blocks, and a truncation must be committed.
    pub fn close_up<L: Lower>(
        &mut self,
        ctx: &Ctx<'_, L>,
        ino: u64,
    ) -> Result<Arc<dyn DataFile>, OverlayError> {
        let data = self.data_file(ctx, ino)?.clone();
        data.set_len(self.size)?;
        data.set_mtime(self.mtime_ns)?;
        // As long as it is not whole, its last block must be filled before it grows.
        self.stale_tail = true;
        Ok(data)
    }

    /// Cuts the data file of a file that is recorded as whole once more: it may have
    /// grown since [`Blocks::close_up`].
    pub fn end_at_size(&self, data: &Arc<dyn DataFile>) {
        let ended = data
            .set_len(self.size)
            .and_then(|()| data.set_mtime(self.mtime_ns));
        if let Err(error) = ended {
            // What is left after its end are zeros.
            tracing::warn!(%error, "cannot cut a hydrated file to its size");
        }
    }
}

/// Makes blocks of the data file zeros, without space for them. The file may hold bytes
/// there that no longer count.
fn put_zeros(data: &Arc<dyn DataFile>, at: u64, zeros: &[u8]) -> Result<(), OverlayError> {
    let end = at + zeros.len() as u64;
    let len = data.stat()?.len;
    if at < len {
        let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        match data.allocate(hole, at, end - at) {
            Err(e) if e.raw_os_error() == Some(nix::libc::EOPNOTSUPP) => {
                data.write_all_at(zeros, at)?;
            }
            other => other?,
        }
    }
    if len < end {
        data.set_len(end)?;
    }
    Ok(())
}
