//! Builds a page index from either source.

use std::io;

use super::lookup::{PageIndex, Run};
use super::records::Places;
use super::{PageIndexError, RECORD_HEADER};
use crate::catalog::store::StoreFile;
use crate::pg::{BLOCK_SIZE, BlockNumber, SEGMENT_BLOCKS};

/// Collects records in file order, and refuses invalid ones.
pub(super) struct Builder {
    runs: Vec<Run>,
    places: Places,
    /// The lowest block that the next record may have.
    next_block: u32,
    /// End of the last record.
    pub(super) end: u32,
}

impl Builder {
    pub(super) fn with_capacity(records: usize) -> Self {
        Self {
            runs: Vec::new(),
            places: Places::with_capacity(records),
            next_block: 0,
            end: 0,
        }
    }

    pub(super) fn push(&mut self, block: i32, start: i64, end: i64) -> Result<(), PageIndexError> {
        let wrong = |why| self.error(block, start, why);
        let number = u32::try_from(block).map_err(|_| wrong("with a negative block number"))?;
        if number >= SEGMENT_BLOCKS {
            return Err(wrong("beyond the end of a segment"));
        }
        if number < self.next_block {
            return Err(wrong("which is not after the block before it"));
        }
        let (Ok(from), Ok(to)) = (u32::try_from(start), u32::try_from(end)) else {
            return Err(wrong("an offset that no data file has"));
        };
        let header = RECORD_HEADER as u32;
        let index = self.places.len() as u32;
        if (from != self.end && index > 0) || to <= from.saturating_add(header) {
            return Err(wrong("where there is no room for it"));
        }
        let length = u16::try_from(to - from).ok();
        let length = length.filter(|&length| usize::from(length) <= RECORD_HEADER + BLOCK_SIZE);
        let length = length.ok_or_else(|| wrong("with more bytes than a page has"))?;
        if number != self.next_block || self.runs.is_empty() {
            self.runs.push(Run {
                block: number,
                first: index,
            });
        }
        self.places.push(from, length);
        self.next_block = number + 1;
        self.end = to;
        Ok(())
    }

    pub(super) fn error(&self, block: i32, offset: i64, why: &'static str) -> PageIndexError {
        PageIndexError::Record {
            index: self.places.len(),
            block,
            offset,
            why,
        }
    }

    pub(super) fn finish(self, truncate_to: Option<BlockNumber>, padded: bool) -> PageIndex {
        PageIndex {
            runs: self.runs.into_boxed_slice(),
            records: self.places.finish(padded),
            truncate_to,
        }
    }
}

/// A file read at ascending offsets through one buffer.
pub(super) struct Window<'a> {
    file: &'a dyn StoreFile,
    start: u64,
    buffer: Vec<u8>,
}

impl<'a> Window<'a> {
    const SIZE: usize = 256 << 10;

    pub(super) fn new(file: &'a dyn StoreFile) -> Self {
        Self {
            file,
            start: 0,
            buffer: Vec::new(),
        }
    }

    pub(super) fn header_at(&mut self, offset: u64) -> io::Result<[u8; RECORD_HEADER]> {
        if let Some(header) = self.held(offset) {
            return Ok(header);
        }
        self.buffer.resize(Self::SIZE, 0);
        let mut filled = 0;
        while filled < RECORD_HEADER {
            let (_, rest) = self.buffer.split_at_mut(filled);
            match self.file.read_at(rest, offset + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.buffer.truncate(filled);
        self.start = offset;
        self.held(offset)
            .ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    fn held(&self, offset: u64) -> Option<[u8; RECORD_HEADER]> {
        let at = usize::try_from(offset.checked_sub(self.start)?).ok()?;
        self.buffer.get(at..)?.first_chunk().copied()
    }
}
