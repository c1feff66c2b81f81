//! The index itself: runs of blocks, and the locations of their records.

use std::ops::Range;

use super::records::Records;
use crate::pg::BlockNumber;

/// A run of consecutive blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) block: u32,
    /// Index of the run's first page among the stored pages.
    pub(super) first: u32,
}

/// The pages of one stored data file, and their locations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageIndex {
    pub(super) runs: Box<[Run]>,
    pub(super) records: Records,
    pub(super) truncate_to: Option<BlockNumber>,
}

impl PageIndex {
    /// Returns the number of stored pages.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether no page is stored.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the runs of consecutive blocks, ascending: the blocks, and the index of
    /// the first of them among the stored pages.
    pub fn runs(&self) -> impl Iterator<Item = (Range<u32>, u32)> + '_ {
        let pages = u32::try_from(self.len()).unwrap_or(u32::MAX);
        self.runs.iter().enumerate().map(move |(at, run)| {
            let end = self.runs.get(at + 1).map_or(pages, |next| next.first);
            (run.block..run.block + (end - run.first), run.first)
        })
    }

    /// Returns the index of this block among the stored pages, if it is stored.
    #[must_use]
    pub fn find(&self, block: BlockNumber) -> Option<u32> {
        let after = self.runs.partition_point(|run| run.block <= block.0);
        let run = self.runs.get(after.checked_sub(1)?)?;
        let end = match self.runs.get(after) {
            Some(next) => next.first,
            None => u32::try_from(self.len()).ok()?,
        };
        Some(run.first + (block.0 - run.block)).filter(|&index| index < end)
    }

    /// Returns the locations of the pages.
    #[must_use]
    pub fn records(&self) -> &Records {
        &self.records
    }

    /// Returns the locations of the pages, without their block numbers.
    #[must_use]
    pub fn into_records(self) -> Records {
        self.records
    }

    /// Returns the length in blocks to which a truncation marker at the end truncates the
    /// file.
    #[must_use]
    pub fn truncate_to(&self) -> Option<BlockNumber> {
        self.truncate_to
    }
}
