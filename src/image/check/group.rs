//! Stored records that are read and checked together.

use std::ops::Range;

use crate::catalog::pages::{PageStamp, Records};
use crate::image::segment::{Part, SegmentMap};
use crate::image::stored::CHUNK;

/// Records that were read in one go.
pub(super) struct Group<'a> {
    pub(super) segment: &'a SegmentMap,
    pub(super) part: &'a Part,
    pub(super) stamps: &'a [PageStamp],
    pub(super) records: Range<u32>,
    pub(super) bytes: &'a [u8],
    /// Offset in the stored file of the first byte.
    pub(super) start: u64,
}

impl Group<'_> {
    /// Returns the bytes of a record in the group.
    pub(super) fn record(&self, record: u32) -> &[u8] {
        let place = self.part.records.place(record).unwrap_or_default();
        let within = |byte: u64| {
            let at = byte.saturating_sub(self.start);
            usize::try_from(at).unwrap_or(usize::MAX)
        };
        let range = within(place.start)..within(place.end);
        self.bytes.get(range).unwrap_or_default()
    }
}

/// Splits all records of a file into groups of about one chunk each.
pub(super) fn groups(
    all: &Records,
    length: u64,
) -> impl Iterator<Item = (Range<u32>, Range<u64>)> + '_ {
    let count = u32::try_from(all.len()).unwrap_or(u32::MAX);
    let mut next = 0;
    let mut at = 0;
    std::iter::from_fn(move || {
        let first = next;
        let start = at;
        while next < count {
            let end = all.place(next).unwrap_or_default().end;
            if end > length || (end - start > CHUNK && next > first) {
                break;
            }
            at = end;
            next += 1;
        }
        (next > first).then_some((first..next, start..at))
    })
}
