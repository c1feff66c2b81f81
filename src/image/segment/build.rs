//! Builds and caches the map of a data file.

use std::sync::Arc;

use super::map::{Cut, Part, SegmentMap};
use super::merge::Merger;
use crate::catalog::pages::{PageCodec, PageIndex};
use crate::catalog::store::with_fresh;
use crate::image::error::ImageError;
use crate::image::stored::{CHUNK, display_path};
use crate::image::tree::NodeId;
use crate::image::view::Image;
use crate::pg::BlockNumber;
use crate::pg::relation::RelationFile;

impl Image {
    /// Returns the map of a data file, from the cache or newly built. No lock is held
    /// while it is built: at worst, two threads build the same map.
    pub(in crate::image) fn segment(&self, node: NodeId) -> Result<Arc<SegmentMap>, ImageError> {
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

    pub(in crate::image) fn build_segment(&self, node: NodeId) -> Result<SegmentMap, ImageError> {
        let wanted = self.file_entry(node)?;
        let segno = RelationFile::parse(display_path(&wanted)).map_or(wanted.segno, |r| r.segno);
        let mut merger = Merger::new(wanted.n_blocks);
        let mut parts = Vec::new();
        let mut cuts = Vec::new();
        // A file that is empty in the target is empty, whatever its parents contain.
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
            // A segment has no more parts than its chain has backups.
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
        // Restore has already written the blocks beyond a marker from newer layers.
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
            true => {
                let map = self.open_header_map(layer, &entry)?;
                with_fresh(&*map, entry.in_header_map(), || {
                    PageIndex::from_header_map(&*map, &entry)
                })
            }
            false => {
                let file = self.open_entry(layer, entry_index, 0..CHUNK)?;
                with_fresh(&*file, 0..u64::MAX, || {
                    PageIndex::from_records(&*file, backup.program_version)
                })
            }
        };
        index.map_err(|source| ImageError::Index {
            path: display_path(&entry),
            backup: backup.id.clone(),
            source,
        })
    }
}
