//! Reads files: those stored whole, and data files, by turning stored records into pages.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::atomic::Ordering;

use super::error::{BadPage, ImageError, PageFault};
use super::segment::{Part, SegmentMap, Source};
use super::stored::{CHUNK, Layered, display_path};
use super::tree::NodeId;
use super::view::{Image, UNKNOWN};
use crate::catalog::store::{StoreFile, with_fresh};
use crate::pg::page::{self, Page, PageVerdict};
use crate::pg::{BLOCK_SIZE, BlockNumber};

thread_local! {
    /// Stored bytes that are about to be decoded.
    static CHUNK_BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Image {
    /// Returns a file's length in bytes.
    ///
    /// # Errors
    /// If the node is not a file, or if its length cannot be determined because a stored
    /// file is missing, too short or damaged.
    pub fn len(&self, node: NodeId) -> Result<u64, ImageError> {
        let cell = self.lengths.get(node.0 as usize);
        if let Some(known) = cell.map(|cell| cell.load(Ordering::Relaxed))
            && known != UNKNOWN
        {
            return Ok(known);
        }
        let found = match self.is_paged(node) {
            true => self.segment(node).map(|segment| segment.length()),
            false => self.whole_length(node),
        };
        let length = self.counted(found)?;
        if let Some(cell) = cell {
            cell.store(length, Ordering::Relaxed);
        }
        Ok(length)
    }

    /// Reads from a file at a byte offset, up to the end of `buf` or of the file, and
    /// returns the number of bytes read.
    ///
    /// # Errors
    /// If the node is not a file, or if any requested byte cannot be read exactly as it
    /// was backed up. The content of `buf` is then unspecified.
    pub fn read_at(&self, node: NodeId, offset: u64, buf: &mut [u8]) -> Result<usize, ImageError> {
        self.counters.reads.add(1);
        let read = match self.is_paged(node) {
            true => self.read_paged(node, offset, buf),
            false => self.read_whole(node, offset, buf),
        };
        let count = self.counted(read)?;
        self.counters.bytes.add(count as u64);
        Ok(count)
    }

    fn read_whole(&self, node: NodeId, offset: u64, buf: &mut [u8]) -> Result<usize, ImageError> {
        let length = self.len(node)?;
        let Some((layer, entry)) = self.whole_source(node)? else {
            return Ok(0);
        };
        let left = usize::try_from(length.saturating_sub(offset)).unwrap_or(usize::MAX);
        let wanted = left.min(buf.len());
        let read = offset..offset.saturating_add(wanted as u64);
        let file = self.open_entry(layer, entry, read)?;
        self.read_stored(layer, entry, &*file, offset, &mut buf[..wanted])?;
        Ok(wanted)
    }

    fn read_paged(&self, node: NodeId, offset: u64, buf: &mut [u8]) -> Result<usize, ImageError> {
        let segment = self.segment(node)?;
        let left = segment.length().saturating_sub(offset);
        let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(buf.len());
        if wanted == 0 {
            return Ok(0);
        }
        let mut output = Output {
            buf: &mut buf[..wanted],
            offset,
        };
        for (blocks, source) in segment.sources(output.blocks()) {
            match source {
                Source::Hole => output.zero(blocks),
                Source::Stored { part, first } => {
                    self.read_run(&segment, part, first, blocks, &mut output)?;
                }
            }
        }
        Ok(wanted)
    }

    /// Decodes consecutive records of one layer, one chunk at a time.
    fn read_run(
        &self,
        segment: &SegmentMap,
        part: &Part,
        first: u32,
        blocks: Range<u32>,
        output: &mut Output<'_>,
    ) -> Result<(), ImageError> {
        let place = |index| part.records.place(index).unwrap_or_default();
        let last = first + (blocks.end - blocks.start).saturating_sub(1);
        let wanted = place(first).start..place(last).end;
        let file = self.open_entry(part.layer, part.entry, wanted)?;
        let mut at = blocks.start;
        while at < blocks.end {
            let index = first + (at - blocks.start);
            let count = records_in_chunk(part, index, blocks.end - at);
            let run = RecordRun {
                segment,
                part,
                index,
                blocks: at..at + count,
            };
            let bytes = run.record(0).start..run.record(count - 1).end;
            CHUNK_BUFFER.with_borrow_mut(|chunk| {
                with_fresh(&*file, bytes, || {
                    self.read_chunk(&run, &*file, chunk, output)
                })
            })?;
            at += count;
        }
        Ok(())
    }

    fn read_chunk(
        &self,
        run: &RecordRun<'_>,
        file: &dyn StoreFile,
        chunk: &mut Vec<u8>,
        output: &mut Output<'_>,
    ) -> Result<(), ImageError> {
        let part = run.part;
        let start = run.record(0).start;
        let end = run.record(run.blocks.end - run.blocks.start - 1).end;
        let length = usize::try_from(end.saturating_sub(start)).unwrap_or(0);
        chunk.resize(length, 0);
        self.read_stored(part.layer, part.entry, file, start, chunk)?;
        for (step, block) in (0..).zip(run.blocks.clone()) {
            let place = run.record(step);
            let from = usize::try_from(place.start.saturating_sub(start)).unwrap_or(length);
            let to = usize::try_from(place.end.saturating_sub(start)).unwrap_or(length);
            let record = chunk.get(from..to).unwrap_or_default();
            let block = BlockNumber(block);
            output
                .page(block, |page| self.decode(run, record, block, page))
                .map_err(|fault| self.bad_page(part, block, place.start, fault))?;
        }
        Ok(())
    }

    /// Decodes a record and performs every check that it permits.
    fn decode(
        &self,
        run: &RecordRun<'_>,
        record: &[u8],
        block: BlockNumber,
        page: &mut Page,
    ) -> Result<(), PageFault> {
        let payload = run.part.records.payload(record, block)?;
        let alg = run.part.codec.decode(payload, page)?;
        self.counters.pages(alg).add(1);
        if self.verify_checksums && self.layers[run.part.layer].backup.checksums {
            let place = block.absolute(run.segment.segno);
            if let PageVerdict::Mismatch { stored, computed } = page::verify(page, place) {
                return Err(PageFault::Checksum { stored, computed });
            }
        }
        Ok(())
    }

    #[cold]
    pub(super) fn bad_page(
        &self,
        part: &Part,
        block: BlockNumber,
        offset: u64,
        fault: PageFault,
    ) -> ImageError {
        let Layered { backup, entry } = self.layered(part.layer, part.entry);
        ImageError::Page(Box::new(BadPage {
            path: display_path(&entry),
            backup: backup.id.clone(),
            block,
            offset,
            fault,
        }))
    }
}

/// Records of consecutive blocks that are read in one go.
struct RecordRun<'a> {
    segment: &'a SegmentMap,
    part: &'a Part,
    /// Index of the first record.
    index: u32,
    blocks: Range<u32>,
}

impl RecordRun<'_> {
    /// Returns the byte range of the record `step` after the first. The map contains no
    /// index beyond the part's records; if it did, the empty range would cause an error
    /// later.
    fn record(&self, step: u32) -> Range<u64> {
        let place = self.part.records.place(self.index + step);
        place.unwrap_or_default()
    }
}

/// Returns how many of the `wanted` records from `index` on fit into one chunk; at least
/// one.
fn records_in_chunk(part: &Part, index: u32, wanted: u32) -> u32 {
    let place = |step| part.records.place(index + step).unwrap_or_default();
    let start = place(0).start;
    let fits = |step: &u32| place(*step).end.saturating_sub(start) <= CHUNK;
    let count = (1..wanted).take_while(fits).count();
    // At most `wanted`, so it fits.
    1 + count as u32
}

/// The caller's buffer and its offset in the file.
struct Output<'a> {
    buf: &'a mut [u8],
    /// Offset in the file of the buffer's first byte.
    offset: u64,
}

impl Output<'_> {
    /// Returns the blocks that the buffer touches. The buffer is within one segment, so
    /// their numbers fit.
    fn blocks(&self) -> Range<u32> {
        let end = self.offset + self.buf.len() as u64;
        let block = BLOCK_SIZE as u64;
        (self.offset / block) as u32..end.div_ceil(block) as u32
    }

    /// Returns the part of the buffer that corresponds to these bytes of the file.
    fn part(&self, bytes: Range<u64>) -> Range<usize> {
        let within = |byte: u64| {
            let at = byte.saturating_sub(self.offset);
            usize::try_from(at).map_or(self.buf.len(), |at| at.min(self.buf.len()))
        };
        within(bytes.start)..within(bytes.end)
    }

    fn zero(&mut self, blocks: Range<u32>) {
        let bytes = BlockNumber(blocks.start).offset()..BlockNumber(blocks.end).offset();
        let part = self.part(bytes);
        self.buf[part].fill(0);
    }

    /// Lets `fill` write a block: directly into the buffer if the whole block is
    /// requested, otherwise into a temporary page.
    fn page<E>(
        &mut self,
        block: BlockNumber,
        fill: impl FnOnce(&mut Page) -> Result<(), E>,
    ) -> Result<(), E> {
        let start = block.offset();
        let part = self.part(start..start + BLOCK_SIZE as u64);
        if let Ok(page) = <&mut Page>::try_from(&mut self.buf[part.clone()]) {
            return fill(page);
        }
        let mut page = [0; BLOCK_SIZE];
        fill(&mut page)?;
        // Less than a page, because the buffer starts or ends within it.
        let skipped = self.offset.saturating_sub(start) as usize;
        let wanted = &page[skipped..skipped + part.len()];
        self.buf[part].copy_from_slice(wanted);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(offset: u64, length: usize) -> Vec<u8> {
        let mut buf = vec![0xFF; length];
        let mut output = Output {
            buf: &mut buf,
            offset,
        };
        for block in output.blocks() {
            let result: Result<(), ()> = output.page(BlockNumber(block), |page| {
                page.fill(block as u8);
                page[0] = 0xEE;
                Ok(())
            });
            result.unwrap();
        }
        buf
    }

    #[test]
    fn pages_land_where_they_belong() {
        assert_eq!(filled(8192, 8192)[..3], [0xEE, 1, 1]);
        assert_eq!(filled(8190, 4), [0, 0, 0xEE, 1]);
        assert_eq!(filled(8193, 2), [1, 1]);
        let three = filled(8191, 8194);
        assert_eq!(three[..3], [0, 0xEE, 1]);
        assert_eq!(three[8192..], [1, 0xEE]);
    }

    #[test]
    fn zeros_too() {
        let mut buf = [7; 6];
        let mut output = Output {
            buf: &mut buf,
            offset: 8189,
        };
        output.zero(1..2);
        assert_eq!(buf, [7, 7, 7, 0, 0, 0]);
    }
}
