//! Where the records of a data file stand, and what is in one.

use std::ops::Range;

use super::error::RecordError;
use super::{RECORD_HEADER, split_header};
use crate::pg::BlockNumber;

/// How many records stand between two whose places are kept as they are.
const STRIDE: usize = 64;

/// The places of the records of one stored data file, each right behind the
/// one before: 2 bytes a record, and 4 for every 64th.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Records {
    /// Where every [`STRIDE`]th record begins.
    anchors: Box<[u32]>,
    /// The length of each: at most a header and a page.
    lengths: Box<[u16]>,
    padded: bool,
}

impl Records {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lengths.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lengths.is_empty()
    }

    /// The bytes in the data file that the record of a stored page takes,
    /// header and padding included.
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

    /// The payload of a record that was read from the [`place`](Self::place)
    /// where `block` is stored.
    ///
    /// # Errors
    /// If another block or another length stands there.
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

    /// The bytes of memory that they take, beyond their own size.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        size_of_val(&*self.anchors) + size_of_val(&*self.lengths)
    }
}

/// Collects the places of records, in file order.
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

    /// Adds a record, which begins where the last one ends.
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
