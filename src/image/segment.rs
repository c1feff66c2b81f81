//! One data file of the image: which layer gives which block.
//!
//! The newest layer that stores a block gives it. The file is as long as the
//! highest block so found; blocks below that no layer stores are zeros. The
//! target's `n_blocks` cuts what the layers may give, and never extends it. A
//! truncation marker cuts the layer that has it and all older ones, and nothing
//! that is newer. There pg_probackup's own restore differs, and loses data
//! (`chain/risk.rs`).

use std::ops::Range;
use std::sync::Arc;

use super::stored::display_path;
use super::{Image, ImageError, NodeId};
use crate::catalog::codec::PageCodec;
use crate::catalog::page_index::{PageIndex, Records};
use crate::pg::relation::RelationFile;
use crate::pg::{BLOCK_SIZE, BlockNumber, SEGMENT_BLOCKS};

/// What one layer gives to a segment.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) layer: usize,
    /// Index into the layer's content list.
    pub(super) entry: usize,
    pub(super) codec: PageCodec,
    pub(super) records: Records,
}

/// Consecutive records of a part, and the blocks that they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Given {
    pub(super) records: Range<u32>,
    pub(super) block: u32,
}

/// Consecutive blocks that one part gives, or none: up to the next run, or
/// the end of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    block: u32,
    /// Index into the parts, or [`HOLE`].
    part: u32,
    /// The first one's index among the part's stored pages.
    first: u32,
}

/// What no part gives.
const HOLE: u32 = u32::MAX;

/// Where a range of blocks comes from.
#[derive(Debug)]
pub(super) enum Source<'a> {
    /// No layer stores them: zeros.
    Hole,
    /// Consecutive records of one layer, from the given one on.
    Stored { part: &'a Part, first: u32 },
}

/// A marker behind which newer layers, or the file's length, go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cut {
    /// The layer that has the marker.
    pub(super) layer: usize,
    /// The first block that it cuts off.
    pub(super) block: u32,
}

/// Where every block of a data file comes from.
#[derive(Debug)]
pub(super) struct SegmentMap {
    parts: Vec<Part>,
    /// All blocks, from 0 on.
    runs: Vec<Run>,
    blocks: u32,
    /// Where pg_probackup's own restore would cut it.
    pub(super) cut_by_restore: Option<Cut>,
    /// The file's number within its fork; checksums depend on it.
    pub(super) segno: u32,
}

impl SegmentMap {
    /// The file's length in blocks.
    pub(super) fn blocks(&self) -> u32 {
        self.blocks
    }

    /// The file's length in bytes.
    pub(super) fn length(&self) -> u64 {
        u64::from(self.blocks) * BLOCK_SIZE as u64
    }

    /// The sources of all blocks of a range within the file, in order.
    pub(super) fn sources(
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

    /// The parts, each with what it gives to the file, in the order in which
    /// it is stored.
    pub(super) fn parts(&self) -> impl Iterator<Item = (&Part, Vec<Given>)> + '_ {
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

    fn memory_bytes(&self) -> usize {
        let records = self.parts.iter().map(|part| part.records.memory_bytes());
        size_of::<Self>()
            + records.sum::<usize>()
            + self.parts.capacity() * size_of::<Part>()
            + self.runs.capacity() * size_of::<Run>()
    }
}

impl Image {
    /// The map of a data file, from the cache or built now. No lock is held
    /// while it is built: at worst two threads build the same.
    pub(super) fn segment(&self, node: NodeId) -> Result<Arc<SegmentMap>, ImageError> {
        if let Some(segment) = self.segments.get(&node) {
            self.counters.index_hits.add(1);
            return Ok(segment);
        }
        self.counters.index_misses.add(1);
        let segment = Arc::new(self.build_segment(node)?);
        let weight = segment.memory_bytes();
        self.segments.insert(node, Arc::clone(&segment), weight);
        Ok(segment)
    }

    pub(super) fn build_segment(&self, node: NodeId) -> Result<SegmentMap, ImageError> {
        let wanted = self.file_entry(node)?;
        let segno = RelationFile::parse(display_path(&wanted)).map_or(wanted.segno, |r| r.segno);
        let mut merger = Merger::new(wanted.n_blocks);
        let mut parts = Vec::new();
        let mut cuts = Vec::new();
        // An empty file in the target is empty, whatever its parents have.
        let layers = match wanted.size {
            0 => &[][..],
            _ => &self.layers[..],
        };
        for (number, layer) in layers.iter().enumerate().rev() {
            let Some(found) = layer.list.find(wanted.path, 0) else {
                continue;
            };
            let entry = layer.list.entry(found);
            self.check_kind(number, &entry, true)?;
            if entry.size <= 0 {
                continue;
            }
            let index = self.read_index(number, found)?;
            let is_marked = self.marked.contains(&layer.backup.id);
            if let Some(BlockNumber(block)) = index.truncate_to().filter(|_| is_marked) {
                cuts.push(Cut {
                    layer: number,
                    block,
                });
            }
            // A segment has fewer parts than a chain has backups.
            if merger.claim(parts.len() as u32, &index) {
                parts.push(Part {
                    layer: number,
                    entry: found,
                    codec: PageCodec::new(entry.compress_alg, layer.backup.program_version),
                    records: index.into_records(),
                });
            }
        }
        let (runs, blocks) = merger.finish();
        // What a marker cuts off, restore has from newer layers already.
        let cuts = cuts.into_iter().filter(|cut| cut.block < blocks);
        Ok(SegmentMap {
            parts,
            runs,
            blocks,
            cut_by_restore: cuts.min_by_key(|cut| cut.block),
            segno,
        })
    }

    fn read_index(&self, layer: usize, entry_index: usize) -> Result<PageIndex, ImageError> {
        let backup = &self.layers[layer].backup;
        let entry = self.layers[layer].list.entry(entry_index);
        let index = match PageIndex::is_mapped(backup, &entry) {
            true => PageIndex::from_header_map(&*self.open_header_map(layer, &entry)?, &entry),
            false => {
                let file = self.open_entry(layer, entry_index)?;
                PageIndex::from_records(&*file, backup.program_version)
            }
        };
        index.map_err(|source| ImageError::Index {
            path: display_path(&entry),
            backup: backup.id.clone(),
            source,
        })
    }
}

/// Who gives a block: a part, and the index among its stored pages.
#[derive(Debug, Clone, Copy)]
struct Owner {
    part: u32,
    page: u32,
}

/// Collects what each part gives, the newest part first.
struct Merger {
    owners: Vec<Option<Owner>>,
    /// Parts may give no block from here on.
    limit: u32,
    /// The file has at least so many blocks.
    floor: u32,
}

impl Merger {
    /// `n_blocks` is the target's, 0 if it is not known.
    fn new(n_blocks: u32) -> Self {
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

    /// Gives all blocks that no newer part has to this one; whether there
    /// were any.
    fn claim(&mut self, part: u32, index: &PageIndex) -> bool {
        if let Some(cut) = index.truncate_to() {
            // It cuts this part and all older ones. A file cut beyond its
            // end grows, as ftruncate does.
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

    /// The runs, and the file's length in blocks.
    fn finish(self) -> (Vec<Run>, u32) {
        // Every block within `owners` up to the last was given by a part.
        let highest = self.owners.iter().rposition(Option::is_some);
        // Not beyond a segment's blocks, so it fits.
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
    use crate::catalog::{CompressAlg, ProgramVersion};

    const OLD: ProgramVersion = ProgramVersion::new(2, 2, 0);

    /// An index over one-byte records of these blocks, perhaps with a marker.
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

    /// The merged file, as `part:first` of each block, `-` for a hole.
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
        // Every other block in a layer of its own: nothing follows on.
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
