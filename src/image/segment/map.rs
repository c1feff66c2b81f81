//! Maps each block to the part that provides it.

use std::ops::Range;

use crate::catalog::pages::{PageCodec, Records};
use crate::pg::BLOCK_SIZE;

/// What one layer contributes to a segment.
#[derive(Debug)]
pub(in crate::image) struct Part {
    pub(in crate::image) layer: usize,
    /// Index into the layer's content list.
    pub(in crate::image) entry: usize,
    pub(in crate::image) codec: PageCodec,
    pub(in crate::image) records: Records,
}

/// Consecutive records of a part, and the number of the first block that they hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::image) struct Given {
    pub(in crate::image) records: Range<u32>,
    pub(in crate::image) block: u32,
}

/// Consecutive blocks provided by one part, or by none: up to the next run or the end of
/// the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) block: u32,
    /// Index into the parts, or [`HOLE`].
    pub(super) part: u32,
    /// Index of the first block among the part's stored pages.
    pub(super) first: u32,
}

/// Marks blocks that no part provides.
pub(super) const HOLE: u32 = u32::MAX;

/// The source of a range of blocks.
#[derive(Debug)]
pub(in crate::image) enum Source<'a> {
    /// No layer stores the blocks: they are zeros.
    Hole,
    /// Consecutive records of one layer, starting with the given one.
    Stored { part: &'a Part, first: u32 },
}

/// A truncation marker beyond which newer layers, or the file's length, extend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::image) struct Cut {
    /// The layer that contains the marker.
    pub(in crate::image) layer: usize,
    /// The first block that it truncates.
    pub(in crate::image) block: u32,
}

/// The source of every block of a data file.
#[derive(Debug)]
pub(in crate::image) struct SegmentMap {
    pub(super) parts: Vec<Part>,
    /// The runs of all blocks, from 0 on.
    pub(super) runs: Vec<Run>,
    pub(super) blocks: u32,
    /// Where pg_probackup's own restore would truncate the file.
    pub(in crate::image) cut_by_restore: Option<Cut>,
    /// The file's number within its fork, on which checksums depend.
    pub(in crate::image) segno: u32,
}

impl SegmentMap {
    /// Returns the file's length in blocks.
    pub(in crate::image) fn blocks(&self) -> u32 {
        self.blocks
    }

    /// Returns the file's length in bytes.
    pub(in crate::image) fn length(&self) -> u64 {
        u64::from(self.blocks) * BLOCK_SIZE as u64
    }

    /// Returns the sources of all blocks in a range within the file, in order.
    pub(in crate::image) fn sources(
        &self,
        range: Range<u32>,
    ) -> impl Iterator<Item = (Range<u32>, Source<'_>)> + '_ {
        let end = range.end;
        let mut at = range.start;
        let mut next = self.runs.partition_point(|run| run.block <= at);
        std::iter::from_fn(move || {
            if at >= end {
                return None;
            }
            let start = at;
            let run = next.checked_sub(1).and_then(|this| self.runs.get(this))?;
            at = self.runs.get(next).map_or(end, |run| run.block.min(end));
            next += 1;
            let source = match self.parts.get(run.part as usize) {
                Some(part) => Source::Stored {
                    part,
                    first: run.first + (start - run.block),
                },
                None => Source::Hole,
            };
            Some((start..at, source))
        })
    }

    /// Returns the parts, each with what it contributes to the file, in stored order.
    pub(in crate::image) fn parts(&self) -> impl Iterator<Item = (&Part, Vec<Given>)> + '_ {
        (0..).zip(&self.parts).map(|(number, part)| {
            let ends = self.runs.iter().skip(1).map(|next| next.block);
            let runs = self.runs.iter().zip(ends.chain([self.blocks]));
            let of_part = runs.filter(|(run, _)| run.part == number);
            let given = of_part.map(|(run, end)| Given {
                records: run.first..run.first + (end - run.block),
                block: run.block,
            });
            (part, given.collect())
        })
    }

    pub(super) fn memory_bytes(&self) -> usize {
        let records = self.parts.iter().map(|part| part.records.memory_bytes());
        size_of::<Self>()
            + records.sum::<usize>()
            + self.parts.capacity() * size_of::<Part>()
            + self.runs.capacity() * size_of::<Run>()
    }
}
