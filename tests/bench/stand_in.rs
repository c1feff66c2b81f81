//! The work that pg_probackup is designed to do, for comparison: it was not available
//! for measurement.

use std::fs;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;

use flate2::{Decompress, FlushDecompress};
use pbkfs::catalog::content::{ContentList, FileEntry};
use pbkfs::catalog::pages::PageCodec;
use pbkfs::catalog::{Backup, CompressAlg};
use pbkfs::chain::Chain;
use pbkfs::pg::page::{Page, PageHeader, PageVerdict, verify};
use pbkfs::pg::{BLOCK_SIZE, BlockNumber};

/// Size of a record's header: two integers, the block number and the payload size.
const RECORD_HEADER: usize = 8;

/// Validates every member with so many threads, and returns the number of stored bytes.
pub fn validate(chain: &Chain, threads: usize) -> u64 {
    let lists = chain
        .layers()
        .iter()
        .map(|backup| ContentList::read(backup).unwrap());
    let lists: Vec<_> = lists.collect();
    let files = chain.layers().iter().zip(&lists);
    let files: Vec<_> = files
        .flat_map(|(backup, list)| list.iter().map(move |entry| (backup, entry)))
        .filter(|(_, entry)| !entry.is_directory() && entry.size > 0)
        .collect();
    let (next, stored) = (AtomicUsize::new(0), AtomicU64::new(0));
    let work = || {
        while let Some((backup, entry)) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
            let bytes = fs::read(entry.stored_in(backup)).unwrap();
            stored.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            // pg_control's checksum is computed differently, at the same low cost.
            let right = crc32c::crc32c(&bytes) == entry.crc || entry.path == b"global/pg_control";
            assert!(right, "{}", String::from_utf8_lossy(entry.path));
            if entry.is_datafile {
                validate_pages(backup, entry, &bytes);
            }
        }
    };
    thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    stored.into_inner()
}

fn validate_pages(backup: &Backup, entry: &FileEntry<'_>, mut bytes: &[u8]) {
    let codec = PageCodec::new(entry.compress_alg, backup.program_version);
    let mut zlib = Decompress::new(true);
    let mut page: Page = [0; BLOCK_SIZE];
    let number = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().unwrap());
    while !bytes.is_empty() {
        let (header, rest) = bytes.split_at(RECORD_HEADER);
        let (block, length) = (number(&header[..4]), number(&header[4..]) as usize);
        let (payload, rest) = rest.split_at(length);
        bytes = rest;
        if entry.compress_alg == CompressAlg::Zlib && length < BLOCK_SIZE {
            // With a streaming decoder, as in pg_probackup.
            zlib.reset(true);
            zlib.decompress(payload, &mut page, FlushDecompress::Finish)
                .unwrap();
        } else {
            codec.decode(payload, &mut page).unwrap();
        }
        let header = PageHeader::of(&page);
        assert!(header.is_sane() || header.upper() == 0);
        if backup.checksums {
            let verdict = verify(&page, BlockNumber(block).absolute(entry.segno));
            assert!(!matches!(verdict, PageVerdict::Mismatch { .. }));
        }
    }
}

/// Formats the minimum, the median and the maximum as columns.
pub fn columns(mut values: Vec<f64>, digits: usize) -> String {
    values.sort_by(f64::total_cmp);
    let (least, most) = (values[0], values[values.len() - 1]);
    let middle = values[values.len() / 2];
    format!("{least:.digits$} | {middle:.digits$} | {most:.digits$}")
}
