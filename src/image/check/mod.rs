//! Thorough checks of an image's files, beyond those made when reading: each stored file
//! that contributes to the image is read once, from end to end, for its checksum. Each
//! page that the image shows is decoded in the process and compared with its entry in
//! `page_header_map`.
//!
//! A file's checksum in the content list covers all its stored bytes. For
//! `global/pg_control`, from 2.0.25 on, it is the checksum that the file itself contains
//! (`get_pgcontrol_checksum` in pg_probackup's util.c).

mod all;
mod crc;
mod group;
mod sink;

use std::ops::Range;
use std::sync::Arc;

pub use self::all::{CheckedFiles, check_each};
use self::crc::{CRC32C_SINCE, Crc};
use self::group::{Group, groups};
pub use self::sink::{Batch, CheckSink, Checked, Content};
use super::error::{ImageError, PageFault};
use super::segment::{Given, Part, SegmentMap};
use super::stored::{CHUNK, Layered, display_path};
use super::tree::{NodeId, NodeKind};
use super::view::Image;
use crate::catalog::pages::{PageIndex, PageStamp};
use crate::catalog::store::StoreFile;
use crate::pg::control::ControlFile;
use crate::pg::page::{Page, PageHeader};
use crate::pg::{BLOCK_SIZE, BlockNumber};

/// The control file, which is checked against the checksum it contains.
const PG_CONTROL: &[u8] = b"global/pg_control";

/// A file to check.
#[derive(Debug, Clone, Copy)]
pub struct CheckItem {
    /// Its index in the target's content list.
    pub(super) entry: usize,
    /// Its node; `None` for a file that restore reads but does not write into PGDATA.
    pub node: Option<NodeId>,
    /// Approximate number of stored bytes to read for it.
    pub weight: u64,
}

impl Image {
    /// Returns all files that a restore would write or read, the largest first.
    #[must_use]
    pub fn check_items(&self) -> Vec<CheckItem> {
        let list = &self.target().list;
        let nodes = (0..self.node_count() as u32).map(NodeId);
        let mut files: Vec<(usize, NodeId)> = nodes
            .filter(|node| self.kind(*node) == NodeKind::File)
            .filter_map(|node| Some((self.tree.entry(node)?, node)))
            .collect();
        files.sort_unstable();
        let node_of = |entry: usize| {
            let found = files.binary_search_by_key(&entry, |(entry, _)| *entry);
            found.ok().map(|at| files[at].1)
        };
        let is_file = |entry: &usize| !list.entry(*entry).is_directory();
        let mut items: Vec<CheckItem> = (0..list.len())
            .filter(is_file)
            .map(|entry| CheckItem {
                entry,
                node: node_of(entry),
                weight: self.weight(entry),
            })
            .collect();
        items.sort_by_key(|item| std::cmp::Reverse(item.weight));
        items
    }

    /// Whether an item represents a node.
    #[must_use]
    pub fn is_item_of(&self, item: &CheckItem, node: NodeId) -> bool {
        item.node == Some(node)
    }

    /// Returns the number of stored bytes, over all layers, that a file may need.
    fn weight(&self, entry: usize) -> u64 {
        let wanted = self.target().list.entry(entry);
        let sizes = self.layers.iter().filter_map(|layer| {
            let found = layer.list.find(wanted.path, wanted.external_dir_num)?;
            u64::try_from(layer.list.entry(found).size).ok()
        });
        match wanted.is_datafile {
            true => sizes.fold(0, u64::saturating_add),
            false => sizes.max().unwrap_or(0),
        }
    }

    /// Checks one file, and reports everything that is wrong to the sink.
    ///
    /// ```
    /// use pbkfs::catalog::{BackupRef, Catalog};
    /// use pbkfs::chain::Chain;
    /// use pbkfs::image::{CheckSink, Checked, Image, ImageOptions};
    ///
    /// # let unpacked = include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc_catalog.rs"));
    /// # let root = unpacked.path().join("catalog");
    /// let instance = Catalog::open(&root)?.instance("main")?;
    /// let chain = Chain::resolve("main", &instance.backups()?, &BackupRef::Latest)?;
    /// let image = Image::open(&chain, &ImageOptions::default())?;
    ///
    /// let mut damage = Vec::new();
    /// let mut sink = CheckSink {
    ///     damage: &mut |error| damage.push(error),
    ///     goes_on: &|_bytes_read| true,
    ///     content: None,
    /// };
    /// let mut checked = Checked::default();
    /// for item in image.check_items() {
    ///     checked += image.check(&item, &mut sink);
    /// }
    /// println!("{} pages, {} of them bad", checked.pages, damage.len());
    /// assert!(damage.is_empty());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn check(&self, item: &CheckItem, sink: &mut CheckSink<'_>) -> Checked {
        if !self.target().backup.place.keeps_copies() {
            return self.check_once(item, sink);
        }
        // A copy may be damaged where the catalog is not.
        let mut damage = Vec::new();
        let goes_on = sink.goes_on;
        let mut give = |offset: u64, bytes: &[u8]| sink.give(offset, bytes);
        let mut first = CheckSink {
            damage: &mut |error| damage.push(error),
            goes_on,
            content: Some(&mut give),
        };
        let checked = self.check_once(item, &mut first);
        if damage.is_empty() {
            return checked;
        }
        self.forget_copies(item);
        self.check_once(item, sink)
    }

    fn check_once(&self, item: &CheckItem, sink: &mut CheckSink<'_>) -> Checked {
        let mut checked = Checked::default();
        let outcome = match item.node.filter(|node| self.is_paged(*node)) {
            Some(node) => self.check_paged(node, sink, &mut checked),
            None => self.check_whole(item.entry, sink, &mut checked),
        };
        if let Err(error) = outcome {
            (sink.damage)(error);
        }
        checked
    }

    fn check_whole(
        &self,
        entry: usize,
        sink: &mut CheckSink<'_>,
        checked: &mut Checked,
    ) -> Result<(), ImageError> {
        let wanted = self.target().list.entry(entry);
        let Some((layer, found)) = self.whole_source_of(&wanted)? else {
            return Ok(());
        };
        let file = self.open_for_check(layer, found)?;
        let Layered { backup, entry } = self.layered(layer, found);
        let length = file.length;
        checked.image_bytes = length;
        let has_own_crc = entry.path == PG_CONTROL && backup.program_version >= CRC32C_SINCE;
        if has_own_crc && length <= BLOCK_SIZE as u64 {
            let mut bytes = vec![0; usize::try_from(length).unwrap_or(BLOCK_SIZE)];
            self.read_stored(layer, found, &*file.file, 0, &mut bytes)?;
            checked.stored_bytes = length;
            sink.give(0, &bytes);
            let control = ControlFile::parse(&bytes).map_err(|source| ImageError::Control {
                path: display_path(&entry),
                backup: backup.id.clone(),
                source,
            })?;
            return self.compare(layer, found, control.crc);
        }
        let mut crc = Crc::of(backup);
        let mut buffer = Vec::new();
        let mut at = 0;
        while at < length {
            let piece = at..length.min(at + CHUNK);
            if !self.read_on(&file, piece.clone(), &mut buffer, &mut crc, sink, checked)? {
                return Ok(());
            }
            sink.give(at, &buffer);
            at = piece.end;
        }
        self.compare(layer, found, crc.finish())
    }

    fn check_paged(
        &self,
        node: NodeId,
        sink: &mut CheckSink<'_>,
        checked: &mut Checked,
    ) -> Result<(), ImageError> {
        let segment = self.build_segment(node)?;
        checked.image_bytes = segment.length();
        for (part, given) in segment.parts() {
            if let Err(error) = self.check_part(&segment, part, &given, sink, checked) {
                (sink.damage)(error);
            }
        }
        Ok(())
    }

    /// Checks one stored file from end to end.
    fn check_part(
        &self,
        segment: &SegmentMap,
        part: &Part,
        given: &[Given],
        sink: &mut CheckSink<'_>,
        checked: &mut Checked,
    ) -> Result<(), ImageError> {
        let file = self.open_for_check(part.layer, part.entry)?;
        let stamps = self.stamps(part)?;
        let mut crc = Crc::of(&self.layers[part.layer].backup);
        let mut buffer = Vec::new();
        let mut at = 0;
        for (records, bytes) in groups(&part.records, file.length) {
            let from = at;
            at = bytes.end;
            if !self.read_on(&file, from..at, &mut buffer, &mut crc, sink, checked)? {
                return Ok(());
            }
            let group = Group {
                segment,
                part,
                stamps: &stamps,
                records,
                bytes: &buffer,
                start: from,
            };
            checked.pages += self.check_group(&group, given, sink);
        }
        if self.read_on(&file, at..file.length, &mut buffer, &mut crc, sink, checked)? {
            self.compare(part.layer, part.entry, crc.finish())?;
        }
        Ok(())
    }

    /// Returns the header map's entries for a part's pages; empty if it has none.
    fn stamps(&self, part: &Part) -> Result<Vec<PageStamp>, ImageError> {
        let Layered { backup, entry } = self.layered(part.layer, part.entry);
        if !PageIndex::is_mapped(backup, &entry) {
            return Ok(Vec::new());
        }
        let map = self.open_header_map(part.layer, &entry)?;
        PageIndex::stamps(&*map, &entry).map_err(|source| ImageError::Index {
            path: display_path(&entry),
            backup: backup.id.clone(),
            source,
        })
    }

    /// Checks the pages of a group that the image shows, and returns their number.
    fn check_group(&self, group: &Group<'_>, given: &[Given], sink: &mut CheckSink<'_>) -> u64 {
        let (start, end) = (group.records.start, group.records.end);
        let first = given.partition_point(|run| run.records.end <= start);
        let runs = given.iter().skip(first);
        let mut pages = 0;
        let mut page = [0; BLOCK_SIZE];
        for run in runs.take_while(|run| run.records.start < end) {
            for record in run.records.start.max(start)..run.records.end.min(end) {
                let block = BlockNumber(run.block + (record - run.records.start));
                pages += 1;
                match self.check_page(group, record, block, &mut page) {
                    Ok(()) => sink.give(block.offset(), &page),
                    Err(fault) => {
                        let place = group.part.records.place(record).unwrap_or_default();
                        (sink.damage)(self.bad_page(group.part, block, place.start, fault));
                    }
                }
            }
        }
        pages
    }

    fn check_page(
        &self,
        group: &Group<'_>,
        record: u32,
        block: BlockNumber,
        page: &mut Page,
    ) -> Result<(), PageFault> {
        let part = group.part;
        let payload = part.records.payload(group.record(record), block)?;
        let alg = part.codec.decode(payload, page)?;
        self.counters.pages(alg).add(1);
        let found = PageStamp::of(page, block.absolute(group.segment.segno));
        let stored = PageHeader::of(page).checksum();
        if self.layers[part.layer].backup.checksums && stored != found.checksum {
            let computed = found.checksum;
            return Err(PageFault::Checksum { stored, computed });
        }
        match group.stamps.get(record as usize) {
            Some(recorded) if *recorded != found => Err(PageFault::Stamp {
                recorded: *recorded,
                found,
            }),
            _ => Ok(()),
        }
    }

    /// Reads a range of a stored file into the buffer. Afterwards the buffer holds the
    /// whole range if that fits into one chunk, and otherwise its last chunk. Returns
    /// `false` if the sink cancelled the check.
    fn read_on(
        &self,
        file: &OpenFile,
        range: Range<u64>,
        buffer: &mut Vec<u8>,
        crc: &mut Crc,
        sink: &CheckSink<'_>,
        checked: &mut Checked,
    ) -> Result<bool, ImageError> {
        let mut at = range.start;
        while at < range.end {
            // A record may be slightly longer than a chunk, and is not split.
            let most = CHUNK + 2 * BLOCK_SIZE as u64;
            let length = (range.end - at).min(most);
            buffer.resize(usize::try_from(length).unwrap_or(0), 0);
            self.read_stored(file.layer, file.entry, &*file.file, at, buffer)?;
            crc.add(buffer);
            checked.stored_bytes += length;
            if !(sink.goes_on)(length) {
                return Ok(false);
            }
            at += length;
        }
        Ok(true)
    }

    fn compare(&self, layer: usize, entry: usize, computed: u32) -> Result<(), ImageError> {
        let Layered { backup, entry } = self.layered(layer, entry);
        if computed == entry.crc {
            return Ok(());
        }
        Err(ImageError::Checksum {
            path: display_path(&entry),
            backup: backup.id.clone(),
            recorded: entry.crc,
            computed,
        })
    }

    /// Opens a stored file, whose size must be as recorded.
    fn open_for_check(&self, layer: usize, entry_index: usize) -> Result<OpenFile, ImageError> {
        let file = self.open_entry(layer, entry_index, 0..CHUNK)?;
        let Layered { backup, entry } = self.layered(layer, entry_index);
        let length = file.length();
        let length = length.map_err(|source| self.stored_error(layer, entry_index, source))?;
        let expected = u64::try_from(entry.size).unwrap_or(0);
        if length != expected {
            return Err(ImageError::Long {
                path: display_path(&entry),
                backup: backup.id.clone(),
                expected,
                found: length,
            });
        }
        file.expect_sequential();
        Ok(OpenFile {
            file,
            layer,
            entry: entry_index,
            length,
        })
    }
}

struct OpenFile {
    file: Arc<dyn StoreFile>,
    layer: usize,
    entry: usize,
    length: u64,
}
