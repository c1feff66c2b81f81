//! Reads an index: from the header map, or from the records themselves.

use std::io;

use super::build::{Builder, Window};
use super::error::PageIndexError;
use super::lookup::PageIndex;
use super::stamp::PageStamp;
use super::{HEADER_MAP_SINCE, MAP_ENTRY, RECORD_HEADER, TRUNCATION_MARKER, split_header};
use crate::catalog::content::FileEntry;
use crate::catalog::pages::codec;
use crate::catalog::store::StoreFile;
use crate::catalog::{Backup, ProgramVersion};
use crate::pg::{BlockNumber, Lsn, SEGMENT_BLOCKS};

impl PageIndex {
    /// Whether a file's pages are listed in its backup's header map; if not, the records
    /// themselves must be scanned.
    #[must_use]
    pub fn is_mapped(backup: &Backup, entry: &FileEntry<'_>) -> bool {
        backup.program_version >= HEADER_MAP_SINCE && entry.n_headers > 0
    }

    /// Reads the index from an open `page_header_map`.
    ///
    /// # Errors
    /// If the file's part of the map cannot be read, is damaged, or
    /// contradicts itself or the content list.
    pub fn from_header_map(
        map: &dyn StoreFile,
        entry: &FileEntry<'_>,
    ) -> Result<Self, PageIndexError> {
        Self::from_map_entries(&read_map(map, entry)?, entry.size)
    }

    /// Reads what an open `page_header_map` records about each page of a file, in stored
    /// order.
    ///
    /// # Errors
    /// As for [`PageIndex::from_header_map`].
    pub fn stamps(
        map: &dyn StoreFile,
        entry: &FileEntry<'_>,
    ) -> Result<Vec<PageStamp>, PageIndexError> {
        let bytes = read_map(map, entry)?;
        let (entries, _) = bytes.as_chunks::<MAP_ENTRY>();
        let stamp = |entry: &[u8; MAP_ENTRY]| {
            let [a, b, c, d, e, f, g, h, ..] = *entry;
            PageStamp {
                lsn: Lsn(u64::from_le_bytes([a, b, c, d, e, f, g, h])),
                checksum: u16::from_le_bytes([entry[16], entry[17]]),
            }
        };
        // The last entry represents the end of the file.
        let pages = entries.len().saturating_sub(1);
        Ok(entries.iter().take(pages).map(stamp).collect())
    }

    fn from_map_entries(bytes: &[u8], file_length: i64) -> Result<Self, PageIndexError> {
        let (entries, _) = bytes.as_chunks::<MAP_ENTRY>();
        let mut builder = Builder::with_capacity(entries.len());
        let field = |entry: &[u8; MAP_ENTRY], at: usize| {
            i32::from_le_bytes([entry[at], entry[at + 1], entry[at + 2], entry[at + 3]])
        };
        for pair in entries.windows(2) {
            let [this, next] = pair else { continue };
            let (start, end) = (i64::from(field(this, 12)), i64::from(field(next, 12)));
            builder.push(field(this, 8), start, end)?;
        }
        let end = i64::from(builder.end);
        if end != file_length {
            return Err(builder.error(0, end, "which is not where the file ends"));
        }
        Ok(builder.finish(None, false))
    }

    /// Finds the pages by reading the record headers of an open data file that was
    /// written by the given pg_probackup version.
    ///
    /// # Errors
    /// If the file cannot be read or is not a sequence of records.
    pub fn from_records(
        data: &dyn StoreFile,
        version: ProgramVersion,
    ) -> Result<Self, PageIndexError> {
        let padded = version < HEADER_MAP_SINCE;
        let read_error = |offset| move |source| PageIndexError::Read { offset, source };
        let length = data.length().map_err(read_error(0))?;
        let mut window = Window::new(data);
        let mut builder = Builder::with_capacity(0);
        let mut offset = 0;
        let mut truncate_to = None;
        while offset < length {
            let header = window.header_at(offset).map_err(read_error(offset))?;
            let (block, size) = split_header(header);
            let start = offset.cast_signed();
            let wrong = |why| builder.error(block, start, why);
            if size == TRUNCATION_MARKER {
                let cut = u32::try_from(block).ok();
                let cut = cut.filter(|&cut| cut <= SEGMENT_BLOCKS);
                let cut = cut.ok_or_else(|| wrong("where no file can be truncated"))?;
                truncate_to = Some(BlockNumber(cut));
                break;
            }
            let end = match u64::try_from(size) {
                Ok(size) if padded => offset + RECORD_HEADER as u64 + size.next_multiple_of(8),
                Ok(size) => offset + RECORD_HEADER as u64 + size,
                Err(_) => return Err(wrong("with a negative length")),
            };
            if end > length {
                return Err(wrong("but the file ends before the record does"));
            }
            builder.push(block, start, end.cast_signed())?;
            offset = end;
        }
        Ok(builder.finish(truncate_to, padded))
    }

    /// Whether an open data file ends with what looks like a truncation marker. It may
    /// also be the end of a page, so only the records can confirm it.
    ///
    /// # Errors
    /// If its end cannot be read.
    pub fn ends_like_a_marker(data: &dyn StoreFile) -> io::Result<bool> {
        let Some(last) = data.length()?.checked_sub(RECORD_HEADER as u64) else {
            return Ok(false);
        };
        let mut header = [0; RECORD_HEADER];
        data.fill_at(&mut header, last)?;
        Ok(split_header(header).1 == TRUNCATION_MARKER)
    }
}

/// Reads a file's part of the header map, decompressed and checked.
fn read_map(map: &dyn StoreFile, entry: &FileEntry<'_>) -> Result<Vec<u8>, PageIndexError> {
    if entry.n_headers > SEGMENT_BLOCKS {
        return Err(PageIndexError::TooManyPages(entry.n_headers));
    }
    let offset = entry.hdr_off;
    let expected = (entry.n_headers as usize + 1) * MAP_ENTRY;
    let wrong_length = |found| PageIndexError::MapLength {
        offset,
        found,
        expected,
    };
    // A compressed stream of incompressible data is only slightly longer than the data;
    // do not allocate a buffer for a length far beyond that.
    let stream_length = entry.hdr_size as usize;
    if stream_length > expected * 2 + 1024 {
        return Err(wrong_length(stream_length));
    }
    let mut stream = vec![0; stream_length];
    map.fill_at(&mut stream, offset)
        .map_err(|source| PageIndexError::Read { offset, source })?;
    let mut bytes = vec![0; expected];
    let found = codec::inflate(&stream, &mut bytes)
        .map_err(|source| PageIndexError::Deflate { offset, source })?;
    if found != expected {
        return Err(wrong_length(found));
    }
    let computed = crc32c::crc32c(&bytes);
    if computed != entry.hdr_crc {
        return Err(PageIndexError::MapChecksum {
            offset,
            recorded: entry.hdr_crc,
            computed,
        });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::catalog::pages::RecordError;

    const OLD: ProgramVersion = ProgramVersion::new(2, 2, 0);
    const MODERN: ProgramVersion = ProgramVersion::new(2, 5, 16);

    fn record(block: i32, payload: usize, version: ProgramVersion) -> Vec<u8> {
        let mut bytes = block.to_le_bytes().to_vec();
        bytes.extend((payload as i32).to_le_bytes());
        bytes.resize(8 + payload, 7);
        if version < HEADER_MAP_SINCE {
            bytes.resize(bytes.len().next_multiple_of(8), 0);
        }
        bytes
    }

    fn marker(block: i32) -> Vec<u8> {
        [block.to_le_bytes(), TRUNCATION_MARKER.to_le_bytes()].concat()
    }

    fn scan(bytes: &[u8], version: ProgramVersion) -> Result<PageIndex, PageIndexError> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        PageIndex::from_records(&file, version)
    }

    fn why(result: Result<PageIndex, PageIndexError>) -> &'static str {
        match result {
            Err(PageIndexError::Record { why, .. }) => why,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn records_are_found_by_scanning() {
        for version in [OLD, MODERN] {
            let parts = [(3, 100), (4, 8192), (9, 13)].map(|(b, n)| record(b, n, version));
            let index = scan(&parts.concat(), version).unwrap();
            assert_eq!(index.len(), 3);
            let runs: Vec<_> = index.runs().collect();
            assert_eq!(runs, [(3..5, 0), (9..10, 2)]);
            let found = [2, 3, 4, 5, 9, 10].map(|block| index.find(BlockNumber(block)));
            assert_eq!(found, [None, Some(0), Some(1), None, Some(2), None]);
            let bytes = parts.concat();
            let place = index.records.place(2).unwrap();
            let last = &bytes[place.start as usize..place.end as usize];
            assert_eq!(last, parts[2]);
            assert_eq!(
                index.records.payload(last, BlockNumber(9)),
                Ok(&[7; 13][..])
            );
            assert_eq!(index.records.place(3), None);
        }
    }

    #[test]
    fn a_window_is_refilled_in_long_files() {
        let bytes: Vec<u8> = (0..100).flat_map(|b| record(b, 8000, MODERN)).collect();
        let index = scan(&bytes, MODERN).unwrap();
        assert_eq!(index.runs().collect::<Vec<_>>(), [(0..100, 0)]);
        assert_eq!(index.records.place(99), Some(99 * 8008..100 * 8008));
    }

    #[test]
    fn a_truncation_marker_ends_the_file() {
        let bytes = [record(1, 50, OLD), marker(2), record(0, 9, OLD)].concat();
        let index = scan(&bytes, OLD).unwrap();
        assert_eq!(index.len(), 1);
        assert_eq!(index.truncate_to(), Some(BlockNumber(2)));
    }

    #[test]
    fn impossible_records_are_refused() {
        let one = record(5, 100, MODERN);
        let again = [one.clone(), one.clone()].concat();
        assert!(why(scan(&again, MODERN)).contains("not after"));
        assert!(why(scan(&one[..50], MODERN)).contains("ends before"));
        let empty = record(0, 0, MODERN);
        assert!(why(scan(&empty, MODERN)).contains("no room"));
        let long = record(0, 8193, MODERN);
        assert!(why(scan(&long, MODERN)).contains("more bytes"));
        assert!(why(scan(&record(-1, 9, MODERN), MODERN)).contains("negative"));
        assert!(why(scan(&record(131_072, 9, MODERN), MODERN)).contains("beyond"));
        assert!(matches!(
            scan(&one[..5], MODERN),
            Err(PageIndexError::Read { offset: 0, .. })
        ));
    }

    #[test]
    fn a_record_must_be_the_one_promised() {
        let bytes = record(5, 100, MODERN);
        let index = scan(&bytes, MODERN).unwrap();
        assert!(index.records.payload(&bytes, BlockNumber(5)).is_ok());
        assert_eq!(
            index.records.payload(&bytes, BlockNumber(6)),
            Err(RecordError::Block(5))
        );
        assert_eq!(
            index.records.payload(&bytes[..60], BlockNumber(5)),
            Err(RecordError::Length {
                claimed: 100,
                room: 52
            })
        );
    }

    /// Creates a header map that contains one file's part at `offset`.
    fn map(blocks: &[(i32, i32)], end: i32, offset: u64) -> (File, u32, u32) {
        let mut bytes = Vec::new();
        for &(block, pos) in blocks.iter().chain(&[(0, end)]) {
            bytes.extend([0; 8]);
            bytes.extend(block.to_le_bytes());
            bytes.extend(pos.to_le_bytes());
            bytes.extend([0; 8]);
        }
        let mut zlib = libdeflater::Compressor::new(libdeflater::CompressionLvl::default());
        let mut stream = vec![0; 1000];
        let length = zlib.zlib_compress(&bytes, &mut stream).unwrap();
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&stream[..length], offset).unwrap();
        (file, crc32c::crc32c(&bytes), length as u32)
    }

    fn entry(
        n_headers: u32,
        size: i64,
        hdr_crc: u32,
        hdr_off: u64,
        hdr_size: u32,
    ) -> FileEntry<'static> {
        FileEntry {
            path: b"base/1/1",
            size,
            mode: 0o100_600,
            is_datafile: true,
            db_oid: 1,
            n_headers,
            hdr_crc,
            hdr_off,
            hdr_size,
            ..FileEntry::default()
        }
    }

    #[test]
    fn pages_are_found_by_the_map() {
        // Past 4 GiB, which a 32-bit offset cannot reach.
        let offset = 5 << 30;
        let (file, crc, size) = map(&[(7, 0), (8, 100), (20, 300)], 350, offset);
        let index = PageIndex::from_header_map(&file, &entry(3, 350, crc, offset, size)).unwrap();
        let runs: Vec<_> = index.runs().collect();
        assert_eq!(runs, [(7..9, 0), (20..21, 2)]);
        assert_eq!(index.records.place(2), Some(300..350));
    }

    #[test]
    fn a_damaged_map_is_refused() {
        let blocks = [(7, 0), (8, 100)];
        let (file, crc, size) = map(&blocks, 350, 0);
        let read = |entry: FileEntry<'_>| PageIndex::from_header_map(&file, &entry).unwrap_err();
        assert!(matches!(
            read(entry(2, 350, crc ^ 1, 0, size)),
            PageIndexError::MapChecksum { .. }
        ));
        assert!(matches!(
            read(entry(3, 350, crc, 0, size)),
            PageIndexError::MapLength {
                found: 72,
                expected: 96,
                ..
            }
        ));
        assert!(matches!(
            read(entry(2, 350, crc, 0, size - 4)),
            PageIndexError::Deflate { .. }
        ));
        assert!(matches!(
            read(entry(2, 350, crc, 10, size)),
            PageIndexError::Read { offset: 10, .. }
        ));
        assert!(matches!(
            read(entry(u32::MAX, 350, crc, 0, size)),
            PageIndexError::TooManyPages(_)
        ));
        // Its end is not the data file's.
        assert!(matches!(
            read(entry(2, 351, crc, 0, size)),
            PageIndexError::Record { .. }
        ));
    }

    #[test]
    fn the_index_is_compact() {
        let bytes: Vec<u8> = (0..1000).flat_map(|b| record(b, 100, MODERN)).collect();
        let index = scan(&bytes, MODERN).unwrap();
        assert_eq!(index.runs.len(), 1);
        assert!(index.records.memory_bytes() < 2 * 1000 + 100);
    }
}
