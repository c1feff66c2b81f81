//! The size and space of a block-wise file: truncation, extension, reservation,
//! zeroing.

use std::io::ErrorKind;

use nix::fcntl::FallocateFlags;

use super::bytes::Blocks;
use super::{BS, MAX_BLOCKS};
use crate::diff::{BLOCKS_PER_CHUNK, now_ns};
use crate::overlay::content::ctx::Ctx;
use crate::overlay::error::OverlayError;
use crate::overlay::lower::Lower;

impl Blocks {
    /// Whether the block that the file's end truncates may hold bytes past the end.
    pub fn has_stale_tail(&self) -> bool {
        self.stale_tail && self.tail().is_some()
    }

    /// Returns the space that the file would take if it stood alone, in units of 512
    /// bytes: the visible part of the image, and the blocks after it.
    pub fn space(&self) -> u64 {
        let image = self.base_len.div_ceil(BS);
        let behind = match u32::try_from(image) {
            Ok(image) => self.present.range_cardinality(image..),
            Err(_) => 0,
        };
        let blocks = image + behind;
        match blocks == self.size.div_ceil(BS) {
            // There is no hole.
            true => self.size.div_ceil(512),
            false => blocks * (BS / 512),
        }
    }

    /// Returns the rest of the present block that the file's end truncates.
    fn tail(&self) -> Option<std::ops::Range<u64>> {
        let rest = self.size % BS;
        (rest > 0 && self.is_present(self.size / BS)).then(|| self.size..self.size - rest + BS)
    }

    /// Truncates or extends. Truncation leaves the data file alone: until the new size
    /// is committed, a crash brings the old blocks back.
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
                let chunks = self.present.range(first..).map(|b| b / BLOCKS_PER_CHUNK);
                self.dirty.extend(chunks);
                self.present.remove_range(first..);
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

    /// Zeros what a truncation left after the file's end. This is safe before the file
    /// is extended, because the zeros are then its content whatever a crash brings
    /// back. Otherwise it is safe only once the truncation is committed.
    pub fn zero_tail<L: Lower>(&mut self, ctx: &Ctx<'_, L>, ino: u64) -> Result<(), OverlayError> {
        if let Some(tail) = self.tail().filter(|_| self.stale_tail) {
            let zeros = vec![0; (tail.end - tail.start) as usize];
            self.data_file(ctx, ino)?.write_all_at(&zeros, tail.start)?;
        }
        self.stale_tail = false;
        Ok(())
    }

    /// Frees the space after the last present block. Only safe once a state without
    /// blocks there is committed.
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
            // A truncated image file that was never written has no data file.
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(e.into()),
            _ => {}
        }
        self.excess = false;
        Ok(())
    }

    /// Reserves space for a range, so that later writes to it do not fail on a full
    /// disk. Extends the file unless `keep_size`.
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
            // Without a reservation, the writes themselves report a full disk.
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
            // Steps end at multiples of 1 MiB, so that at most the range's own ends
            // need completing.
            let stop = (at / STEP + 1).saturating_mul(STEP).min(end);
            if let Some(part) = zeros.get(..(stop - at) as usize) {
                self.write(ctx, ino, at, part)?;
            }
            at = stop;
        }
        Ok(())
    }
}
