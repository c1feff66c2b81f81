//! Reading and writing files.

use nix::fcntl::FallocateFlags;
use nix::unistd::Whence;

use crate::diff::now_ns;
use crate::overlay::content::{Content, File};
use crate::overlay::error::OverlayError;
use crate::overlay::lower::Lower;
use crate::overlay::state::Overlay;
use crate::overlay::tree::Ino;

/// The operation of `fallocate` on a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FallocateMode {
    /// Reserve space, and extend the file if the range ends past it.
    Extend,
    /// Reserve space only.
    KeepSize,
    /// Make the range read as zeros, freeing its space where possible.
    PunchHole,
    /// Make the range read as zeros, extending the file unless `keep_size`.
    ZeroRange {
        /// Whether the file's size stays.
        keep_size: bool,
    },
}

/// The target of an `lseek`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SeekKind {
    /// `SEEK_DATA`.
    Data,
    /// `SEEK_HOLE`.
    Hole,
}

impl<L: Lower> Overlay<L> {
    /// Reads up to `buf.len()` bytes; fewer only at the end of the file.
    ///
    /// # Errors
    /// If any byte of the range cannot be read from the image or the diff.
    pub fn read(&self, ino: Ino, offset: u64, buf: &mut [u8]) -> Result<usize, OverlayError> {
        let file = self.file(ino)?;
        let content = file.content();
        let count = content.read(&self.ctx(), ino.0, offset, buf)?;
        self.counters.reads.add(1);
        self.counters.read_bytes.add(count as u64);
        Ok(count)
    }

    /// Writes all of `buf`.
    ///
    /// # Errors
    /// If the diff fails (`ENOSPC`), or if the rest of a partly written block cannot be
    /// read from the image.
    pub fn write(&self, ino: Ino, offset: u64, buf: &[u8]) -> Result<(), OverlayError> {
        self.diff()?;
        let file = self.file(ino)?;
        let mut content = file.content_mut();
        content.make_writable(now_ns());
        match &mut *content {
            Content::Blocks(blocks) => blocks.write(&self.ctx(), ino.0, offset, buf)?,
            Content::Whole(whole) => whole.data.write_all_at(buf, offset)?,
            Content::Image { .. } => return Err(OverlayError::ReadOnly),
        }
        self.counters.writes.add(1);
        self.counters.written_bytes.add(buf.len() as u64);
        Ok(())
    }

    pub(in crate::overlay) fn truncate(&self, ino: Ino, size: u64) -> Result<(), OverlayError> {
        let file = self.file(ino)?;
        let _syncing = file.syncing();
        if !self.cut(&file, size)? {
            return Ok(());
        }
        // This is rare: PostgreSQL truncates relations at block boundaries. The old
        // tail may only be overwritten once the truncation is committed.
        self.sync_locked(&file)?;
        match &mut *file.content_mut() {
            Content::Blocks(blocks) => blocks.zero_tail(&self.ctx(), ino.0),
            _ => Ok(()),
        }
    }

    /// Sets a file's size. Returns `Ok(true)` if the truncated block still holds bytes
    /// past the new end.
    fn cut(&self, file: &File, size: u64) -> Result<bool, OverlayError> {
        let mut content = file.content_mut();
        content.make_writable(now_ns());
        match &mut *content {
            Content::Whole(whole) => {
                whole.data.set_len(size)?;
                Ok(false)
            }
            Content::Blocks(blocks) => {
                blocks.set_len(&self.ctx(), file.ino.0, size)?;
                Ok(blocks.has_stale_tail())
            }
            Content::Image { .. } => Err(OverlayError::ReadOnly),
        }
    }

    pub(in crate::overlay) fn set_content_mtime(
        &self,
        ino: Ino,
        mtime_ns: i64,
    ) -> Result<(), OverlayError> {
        let file = self.file(ino)?;
        let mut content = file.content_mut();
        content.make_writable(mtime_ns);
        match &mut *content {
            Content::Blocks(blocks) => blocks.set_mtime(mtime_ns),
            Content::Whole(whole) => {
                whole.pristine = None;
                whole.data.set_mtime(mtime_ns)?;
            }
            Content::Image { .. } => {}
        }
        Ok(())
    }

    /// Performs `fallocate(2)`.
    ///
    /// # Errors
    /// Returns [`OverlayError::Invalid`] for an empty range. Fails if the diff fails
    /// (`ENOSPC`: then nothing was reserved).
    pub fn fallocate(
        &self,
        ino: Ino,
        offset: u64,
        len: u64,
        mode: FallocateMode,
    ) -> Result<(), OverlayError> {
        self.diff()?;
        if len == 0 {
            return Err(OverlayError::Invalid("an empty range"));
        }
        let end = offset.checked_add(len).ok_or(OverlayError::TooLarge)?;
        let file = self.file(ino)?;
        let mut content = file.content_mut();
        content.make_writable(now_ns());
        let ctx = self.ctx();
        let blocks = match &mut *content {
            Content::Whole(whole) => return Ok(whole.data.allocate(flags(mode), offset, len)?),
            Content::Blocks(blocks) => blocks,
            Content::Image { .. } => return Err(OverlayError::ReadOnly),
        };
        match mode {
            FallocateMode::Extend => blocks.reserve(&ctx, ino.0, offset..end, false),
            FallocateMode::KeepSize => blocks.reserve(&ctx, ino.0, offset..end, true),
            FallocateMode::PunchHole => blocks.zero(&ctx, ino.0, offset..end),
            FallocateMode::ZeroRange { keep_size } => {
                if !keep_size {
                    blocks.reserve(&ctx, ino.0, offset..end, false)?;
                }
                blocks.zero(&ctx, ino.0, offset..end)
            }
        }
    }

    /// Performs `lseek(2)` with `SEEK_DATA` or `SEEK_HOLE`. Holes of the image count as
    /// data: finding them is not worth reading its indexes.
    ///
    /// # Errors
    /// Returns [`OverlayError::NoSuchOffset`] past the end of the file.
    pub fn seek(&self, ino: Ino, offset: u64, kind: SeekKind) -> Result<u64, OverlayError> {
        let file = self.file(ino)?;
        let content = file.content();
        let found = match &*content {
            Content::Image { len, .. } if offset < *len => match kind {
                SeekKind::Data => Some(offset),
                SeekKind::Hole => Some(*len),
            },
            Content::Image { .. } => None,
            Content::Blocks(blocks) => blocks.seek(offset, kind == SeekKind::Data),
            Content::Whole(whole) => {
                let whence = match kind {
                    SeekKind::Data => Whence::SeekData,
                    SeekKind::Hole => Whence::SeekHole,
                };
                return Ok(whole.data.seek(offset, whence)?);
            }
        };
        found.ok_or(OverlayError::NoSuchOffset)
    }

    /// Copies a range from one file to another, or within one if the ranges do not
    /// overlap. Returns the number of bytes copied, which is lower at the end of the
    /// source.
    ///
    /// # Errors
    /// If reading or writing fails before anything was copied.
    pub fn copy_range(
        &self,
        from: (Ino, u64),
        to: (Ino, u64),
        len: u64,
    ) -> Result<u64, OverlayError> {
        const STEP: u64 = 1 << 20;
        self.diff()?;
        let mut buf = vec![0; len.min(STEP) as usize];
        let mut done = 0;
        while done < len {
            let want = (len - done).min(STEP) as usize;
            let part = buf.get_mut(..want).unwrap_or_default();
            let copied = self
                .read(from.0, from.1.saturating_add(done), part)
                .and_then(|n| {
                    let part = part.get(..n).unwrap_or_default();
                    self.write(to.0, to.1.saturating_add(done), part)
                        .map(|()| n)
                });
            match copied {
                Ok(0) => break,
                Ok(n) => done += n as u64,
                Err(_) if done > 0 => break,
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }
}

fn flags(mode: FallocateMode) -> FallocateFlags {
    let keep = FallocateFlags::FALLOC_FL_KEEP_SIZE;
    match mode {
        FallocateMode::Extend => FallocateFlags::empty(),
        FallocateMode::KeepSize => keep,
        FallocateMode::PunchHole => FallocateFlags::FALLOC_FL_PUNCH_HOLE | keep,
        FallocateMode::ZeroRange { keep_size: true } => FallocateFlags::FALLOC_FL_ZERO_RANGE | keep,
        FallocateMode::ZeroRange { keep_size: false } => FallocateFlags::FALLOC_FL_ZERO_RANGE,
    }
}
