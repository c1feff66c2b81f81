//! A block-wise file's length and space: cutting, growing, reserving, zeroing.

use std::collections::BTreeSet;
use std::io::ErrorKind;

use nix::fcntl::FallocateFlags;

use super::bytes::Blocks;
use super::{BS, MAX_BLOCKS};
use crate::diff::{BLOCKS_PER_CHUNK, now_ns};
use crate::overlay::content::ctx::Ctx;
use crate::overlay::error::OverlayError;
use crate::overlay::lower::Lower;

impl Blocks {
    /// Whether the block that the file's end cuts has bytes behind the end.
    pub fn has_stale_tail(&self) -> bool {
        self.stale_tail && self.tail().is_some()
    }

    /// The space that the file would take by itself, in units of 512 bytes:
    /// all that shows through of the image, and the blocks behind it.
    pub fn space(&self) -> u64 {
        let image = self.base_len.div_ceil(BS);
        let behind = match u32::try_from(image) {
            Ok(image) => self.present.range_cardinality(image..),
            Err(_) => 0,
        };
        let blocks = image + behind;
        match blocks == self.size.div_ceil(BS) {
            // No hole anywhere.
            true => self.size.div_ceil(512),
            false => blocks * (BS / 512),
        }
    }

    /// The rest of the present block that the file's end cuts.
    fn tail(&self) -> Option<std::ops::Range<u64>> {
        let rest = self.size % BS;
        (rest > 0 && self.is_present(self.size / BS)).then(|| self.size..self.size - rest + BS)
    }

    /// Cuts or extends. Cutting leaves the data file alone: until the new
    /// length is committed, the old blocks are what a crash would bring back.
    pub fn set_len<L: Lower>(
        &mut self,
        ctx: &Ctx<'_, L>,
        ino: u64,
        size: u64,
    ) -> Result<(), OverlayError> {
        if size.div_ceil(BS) > MAX_BLOCKS {
            return Err(OverlayError::TooLarge);
        }
        if size > self.size {
            self.zero_tail(ctx, ino)?;
        }
        if size < self.size {
            let keep = size.div_ceil(BS);
            if !size.is_multiple_of(BS) {
                self.enlarge(ctx, ino, size / BS)?;
            }
            if let Ok(first) = u32::try_from(keep) {
                self.dirty.extend(self.small.cut(first));
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
            self.stale_tail = true;
        }
        self.changed |= size != self.size;
        self.size = size;
        self.mtime_ns = now_ns();
        Ok(())
    }

    /// Zeros what a cut has left behind the file's end. Before the file
    /// grows: then the zeros are its content, whatever a crash brings back.
    /// Otherwise only after the cut was committed.
    pub fn zero_tail<L: Lower>(&mut self, ctx: &Ctx<'_, L>, ino: u64) -> Result<(), OverlayError> {
        if let Some(tail) = self.tail().filter(|_| self.stale_tail) {
            let zeros = vec![0; (tail.end - tail.start) as usize];
            self.data_file(ctx, ino)?.write_all_at(&zeros, tail.start)?;
        }
        self.stale_tail = false;
        Ok(())
    }

    /// Gives the space behind the last present block back. Only after a
    /// commit of the state that no longer has the blocks there.
    pub fn trim<L: Lower>(&mut self, ctx: &Ctx<'_, L>, ino: u64) -> Result<(), OverlayError> {
        if !self.excess || !self.is_clean() {
            return Ok(());
        }
        let needed = self
            .present
            .max()
            .map_or(0, |last| (u64::from(last) + 1) * BS);
        match ctx.diff()?.storage().open(ino) {
            Ok(data) if data.stat()?.len > needed => data.set_len(needed)?,
            // An image file may have been cut without ever being written.
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(e.into()),
            _ => {}
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
        if range.end.div_ceil(BS) > MAX_BLOCKS {
            return Err(OverlayError::TooLarge);
        }
        let data = self.data_file(ctx, ino)?;
        let flags = FallocateFlags::FALLOC_FL_KEEP_SIZE;
        match data.allocate(flags, range.start, range.end - range.start) {
            // Without reservations the writes themselves find out.
            Err(e) if e.raw_os_error() == Some(nix::libc::EOPNOTSUPP) => {}
            other => other?,
        }
        if !keep_size {
            if range.end > self.size {
                self.zero_tail(ctx, ino)?;
            }
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
