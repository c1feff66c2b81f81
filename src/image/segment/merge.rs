//! Merges the parts, the newest first.

use super::map::{HOLE, Run};
use crate::catalog::pages::PageIndex;
use crate::pg::SEGMENT_BLOCKS;

/// The provider of a block: a part, and the index among its stored pages.
#[derive(Debug, Clone, Copy)]
struct Owner {
    part: u32,
    page: u32,
}

/// Collects the contribution of each part, starting with the newest.
pub(super) struct Merger {
    owners: Vec<Option<Owner>>,
    /// The first block that parts may no longer provide.
    limit: u32,
    /// The minimum length of the file in blocks.
    floor: u32,
}

impl Merger {
    /// Creates a merger; `n_blocks` is the target's, or 0 if unknown.
    pub(super) fn new(n_blocks: u32) -> Self {
        let limit = match n_blocks {
            0 => SEGMENT_BLOCKS,
            _ => n_blocks.min(SEGMENT_BLOCKS),
        };
        Self {
            owners: Vec::new(),
            limit,
            floor: 0,
        }
    }

    /// Assigns to this part all its blocks that no newer part provides, and returns
    /// whether there were any.
    pub(super) fn claim(&mut self, part: u32, index: &PageIndex) -> bool {
        if let Some(cut) = index.truncate_to() {
            // It truncates this part and all older ones. A file truncated beyond its end
            // is extended, as by ftruncate.
            self.limit = self.limit.min(cut.0);
            self.floor = self.floor.max(self.limit);
        }
        let mut claimed = false;
        for (blocks, first) in index.runs() {
            let end = blocks.end.min(self.limit);
            if self.owners.len() < end as usize {
                self.owners.resize(end as usize, None);
            }
            for (block, page) in (blocks.start..end).zip(first..) {
                let owner = &mut self.owners[block as usize];
                if owner.is_none() {
                    *owner = Some(Owner { part, page });
                    claimed = true;
                }
            }
        }
        claimed
    }

    /// Returns the runs, and the file's length in blocks.
    pub(super) fn finish(self) -> (Vec<Run>, u32) {
        // The highest block in `owners` that a part provides.
        let highest = self.owners.iter().rposition(Option::is_some);
        // At most the blocks of a segment, so it fits.
        let blocks = self.floor.max(highest.map_or(0, |at| at as u32 + 1));
        let mut runs: Vec<Run> = Vec::new();
        for block in 0..blocks {
            let owner = self.owners.get(block as usize).copied().flatten();
            let (part, first) = owner.map_or((HOLE, 0), |owner| (owner.part, owner.page));
            let goes_on = runs.last().is_some_and(|run| {
                run.part == part && (part == HOLE || run.first + (block - run.block) == first)
            });
            if !goes_on {
                runs.push(Run { block, part, first });
            }
        }
        runs.shrink_to_fit();
        (runs, blocks)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::catalog::pages::PageCodec;
    use crate::catalog::{CompressAlg, ProgramVersion};
    use crate::image::segment::{Part, SegmentMap, Source};

    const OLD: ProgramVersion = ProgramVersion::new(2, 2, 0);

    /// Builds an index over one-byte records of these blocks, optionally with a marker.
    fn index(blocks: impl IntoIterator<Item = u32>, cut: Option<u32>) -> PageIndex {
        let mut bytes = Vec::new();
        for block in blocks {
            bytes.extend(block.to_le_bytes());
            bytes.extend(1_u32.to_le_bytes());
            bytes.extend([0; 8]);
        }
        if let Some(cut) = cut {
            bytes.extend(cut.to_le_bytes());
            bytes.extend((-2_i32).to_le_bytes());
        }
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        PageIndex::from_records(&file, OLD).unwrap()
    }

    /// Returns the merged file as `part:first` for each block, `-` for a hole.
    fn merged(n_blocks: u32, newest_first: Vec<PageIndex>) -> String {
        let mut merger = Merger::new(n_blocks);
        for (number, index) in newest_first.iter().enumerate() {
            merger.claim(number as u32, index);
        }
        let (runs, blocks) = merger.finish();
        let part = |index: PageIndex| Part {
            layer: 0,
            entry: 0,
            codec: PageCodec::new(CompressAlg::None, OLD),
            records: index.into_records(),
        };
        let map = SegmentMap {
            parts: newest_first.into_iter().map(part).collect(),
            runs,
            blocks,
            cut_by_restore: None,
            segno: 0,
        };
        let mut text = Vec::new();
        for (range, source) in map.sources(0..blocks) {
            for step in 0..range.end - range.start {
                text.push(match source {
                    Source::Hole => "-".to_owned(),
                    Source::Stored { part, first } => {
                        let number = map.parts.iter().position(|p| std::ptr::eq(p, part));
                        format!("{}:{}", number.unwrap(), first + step)
                    }
                });
            }
        }
        text.join(" ")
    }

    #[test]
    fn the_newest_layer_gives_a_block() {
        let layers = vec![index([1, 2], None), index([2, 4], None), index(0..6, None)];
        assert_eq!(merged(6, layers), "2:0 0:0 0:1 2:3 1:1 2:5");
    }

    #[test]
    fn blocks_that_nobody_stores_are_holes() {
        let layers = vec![index([4], None), index([1], None)];
        assert_eq!(merged(100, layers), "- 1:0 - - 0:0");
    }

    #[test]
    fn the_block_count_cuts_and_never_extends() {
        let layers = || vec![index([0], None), index(0..5, None)];
        assert_eq!(merged(3, layers()), "0:0 1:1 1:2");
        assert_eq!(merged(50, layers()), "0:0 1:1 1:2 1:3 1:4");
        assert_eq!(merged(0, layers()), "0:0 1:1 1:2 1:3 1:4");
        assert_eq!(merged(0, vec![]), "");
    }

    #[test]
    fn a_truncation_cuts_itself_and_what_is_older() {
        let layers = vec![
            index([5], None),
            index([0, 3], Some(2)),
            index([1, 4], None),
        ];
        assert_eq!(merged(0, layers), "1:0 2:0 - - - 0:0");
        let layers = vec![index([0], Some(3)), index(0..9, Some(1))];
        assert_eq!(merged(0, layers), "0:0 - -");
    }

    #[test]
    fn any_range_can_be_asked_for() {
        let layers = vec![index([2, 3, 7], None), index([0, 1, 3], None)];
        let mut merger = Merger::new(0);
        for (number, index) in layers.iter().enumerate() {
            merger.claim(number as u32, index);
        }
        let (runs, blocks) = merger.finish();
        assert_eq!(blocks, 8);
        let part = |index: PageIndex| Part {
            layer: 0,
            entry: 0,
            codec: PageCodec::new(CompressAlg::None, OLD),
            records: index.into_records(),
        };
        let map = SegmentMap {
            parts: layers.into_iter().map(part).collect(),
            runs,
            blocks,
            cut_by_restore: None,
            segno: 0,
        };
        let ranges = |range| map.sources(range).map(|(r, _)| r).collect::<Vec<_>>();
        assert_eq!(ranges(0..8), [0..2, 2..4, 4..7, 7..8]);
        assert_eq!(ranges(1..3), [1..2, 2..3]);
        assert_eq!(ranges(5..7), [5..7, 7..8][..1]);
        assert!(ranges(3..3).is_empty());
        let first = map.sources(3..4).next().unwrap();
        assert!(matches!(first.1, Source::Stored { first: 1, .. }));
    }

    #[test]
    fn a_page_takes_a_few_bytes_of_memory() {
        let blocks = 10_000;
        // Alternate blocks come from different layers, so no two records are consecutive.
        let layers = [index((0..blocks).step_by(2), None), index(0..blocks, None)];
        let bytes = |layers: &[PageIndex]| {
            let mut merger = Merger::new(0);
            for (number, index) in layers.iter().enumerate() {
                merger.claim(number as u32, index);
            }
            let part = |index: &PageIndex| Part {
                layer: 0,
                entry: 0,
                codec: PageCodec::new(CompressAlg::None, OLD),
                records: index.clone().into_records(),
            };
            let (runs, blocks) = merger.finish();
            let parts = layers.iter().map(part).collect();
            let map = SegmentMap {
                parts,
                runs,
                blocks,
                cut_by_restore: None,
                segno: 0,
            };
            map.memory_bytes() as f64 / f64::from(blocks)
        };
        assert!(bytes(&layers[1..]) < 2.2);
        assert!(bytes(&layers) < 16.0);
    }
}
