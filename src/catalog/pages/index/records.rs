//! The locations of a data file's records, and the content of a record.

use std::ops::Range;

use super::error::RecordError;
use super::{RECORD_HEADER, split_header};
use crate::pg::BlockNumber;

/// Interval between records whose offsets are stored.
const STRIDE: usize = 64;

/// The locations of the records in one stored data file, each of which directly follows
/// the one before: 2 bytes per record, and 4 for every 64th.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Records {
    /// Offset of every [`STRIDE`]th record.
    anchors: Box<[u32]>,
    /// Length of each record: at most a header and a page.
    lengths: Box<[u16]>,
    padded: bool,
}

impl Records {
    /// Returns the number of records.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lengths.len()
    }

    /// Whether there are no records.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lengths.is_empty()
    }

    /// Returns the byte range in the data file of the record of a stored page, including
    /// its header and padding.
    #[must_use]
    pub fn place(&self, index: u32) -> Option<Range<u64>> {
        let index = index as usize;
        let length = u64::from(*self.lengths.get(index)?);
        let anchor = index / STRIDE;
        let between = self.lengths.get(anchor * STRIDE..index)?;
        let between: u64 = between.iter().map(|&length| u64::from(length)).sum();
        let start = u64::from(*self.anchors.get(anchor)?) + between;
        Some(start..start + length)
    }

    /// Returns the payload of a record that was read from its [`place`](Self::place),
    /// where `block` is stored.
    ///
    /// # Errors
    /// If the record has another block or another length.
    pub fn payload<'a>(
        &self,
        record: &'a [u8],
        block: BlockNumber,
    ) -> Result<&'a [u8], RecordError> {
        let Some((header, rest)) = record.split_first_chunk::<RECORD_HEADER>() else {
            let room = record.len();
            return Err(RecordError::Length { claimed: 0, room });
        };
        let (found, claimed) = split_header(*header);
        if u32::try_from(found) != Ok(block.0) {
            return Err(RecordError::Block(found));
        }
        let wrong = RecordError::Length {
            claimed,
            room: rest.len(),
        };
        let size = usize::try_from(claimed).map_err(|_| wrong)?;
        let stored = match self.padded {
            true => size.next_multiple_of(8),
            false => size,
        };
        match rest.get(..size) {
            Some(payload) if stored == rest.len() => Ok(payload),
            _ => Err(wrong),
        }
    }

    /// Returns the memory used in bytes, beyond the size of the value itself.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        size_of_val(&*self.anchors) + size_of_val(&*self.lengths)
    }
}

/// Collects the locations of records, in file order.
pub(super) struct Places {
    anchors: Vec<u32>,
    lengths: Vec<u16>,
}

impl Places {
    pub(super) fn with_capacity(records: usize) -> Self {
        Self {
            anchors: Vec::with_capacity(records.div_ceil(STRIDE)),
            lengths: Vec::with_capacity(records),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.lengths.len()
    }

    /// Adds a record, which starts at the end of the last one.
    pub(super) fn push(&mut self, start: u32, length: u16) {
        if self.lengths.len().is_multiple_of(STRIDE) {
            self.anchors.push(start);
        }
        self.lengths.push(length);
    }

    pub(super) fn finish(self, padded: bool) -> Records {
        Records {
            anchors: self.anchors.into_boxed_slice(),
            lengths: self.lengths.into_boxed_slice(),
            padded,
        }
    }
}
