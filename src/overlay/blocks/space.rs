//! A block-wise file's length and space: cutting, growing, reserving, zeroing.

use std::collections::BTreeSet;

use nix::fcntl::FallocateFlags;

use super::{BS, Blocks};
use crate::diff::BLOCKS_PER_CHUNK;
use crate::overlay::OverlayError;
use crate::overlay::attr::now_ns;
use crate::overlay::content::Ctx;
use crate::overlay::lower::Lower;

impl Blocks {
    /// Whether cutting at `size` leaves bytes of a present block behind the
    /// end, which must read as zeros should the file grow again.
    pub fn cut_leaves_tail(&self, size: u64) -> bool {
        size < self.size && !size.is_multiple_of(BS) && self.is_present(size / BS)
    }

    /// Cuts or extends. The data file is left alone: until the new length is
    /// committed, the old blocks are what a crash would bring back.
    pub fn set_len(&mut self, size: u64) {
        if size < self.size {
            let keep = size.div_ceil(BS);
            if let Ok(first) = u32::try_from(keep) {
                let chunks: BTreeSet<u32> = self
                    .present
                    .range(first..)
                    .map(|b| b / BLOCKS_PER_CHUNK)
                    .collect();
                self.present.remove_range(first..);
                self.dirty.extend(chunks);
            }
            self.base_len = self.base_len.min(size);
            self.excess = true;
        }
        self.changed |= size != self.size;
        self.size = size;
        self.mtime_ns = now_ns();
    }

    /// Zeros the rest of the block that `size` cuts. Only after the cut was
    /// committed.
    pub fn zero_tail(&mut self) -> Result<(), OverlayError> {
        let rest = self.size.next_multiple_of(BS) - self.size;
        if rest > 0 && self.is_present(self.size / BS) {
            self.write_data(&vec![0; rest as usize], self.size)?;
        }
        Ok(())
    }

    /// Gives the space behind the last present block back. Only after a
    /// commit of the state that no longer has the blocks there.
    pub fn trim(&mut self) -> Result<(), OverlayError> {
        if !self.excess || !self.is_clean() {
            return Ok(());
        }
        if let Some(data) = self.data.get() {
            let needed = self
                .present
                .max()
                .map_or(0, |last| (u64::from(last) + 1) * BS);
            if data.stat()?.len > needed {
                data.set_len(needed)?;
            }
        }
        self.excess = false;
        Ok(())
    }

    /// Reserves space for a range, so that later writes to it do not meet a
    /// full disk; extends the file unless `keep_size`.
    pub fn reserve<L: Lower>(
        &mut self,
        ctx: &Ctx<'_, L>,
        ino: u64,
        range: std::ops::Range<u64>,
        keep_size: bool,
    ) -> Result<(), OverlayError> {
        let data = self.data_file(ctx, ino)?;
        let flags = FallocateFlags::FALLOC_FL_KEEP_SIZE;
        match data.allocate(flags, range.start, range.end - range.start) {
            // Without reservations the writes themselves find out.
            Err(e) if e.raw_os_error() == Some(nix::libc::EOPNOTSUPP) => {}
            other => other?,
        }
        if !keep_size {
            self.grow(range.end);
            self.mtime_ns = now_ns();
        }
        Ok(())
    }

    /// Makes the bytes of a range below the file's end read as zeros.
    pub fn zero<L: Lower>(
        &mut self,
        ctx: &Ctx<'_, L>,
        ino: u64,
        range: std::ops::Range<u64>,
    ) -> Result<(), OverlayError> {
        const STEP: u64 = 1 << 20;
        let zeros = vec![0; STEP as usize];
        let end = range.end.min(self.size);
        let mut at = range.start;
        while at < end {
            // Steps end on a multiple of 1 MiB, so that only the range's own
            // ends can need filling up.
            let stop = (at / STEP + 1).saturating_mul(STEP).min(end);
            if let Some(part) = zeros.get(..(stop - at) as usize) {
                self.write(ctx, ino, at, part)?;
            }
            at = stop;
        }
        Ok(())
    }
}
