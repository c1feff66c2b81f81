//! A data file's part of `page_header_map`: its entries, or the stream that
//! holds them.

#![no_main]

use std::os::unix::fs::FileExt;

use libdeflater::{CompressionLvl, Compressor};
use libfuzzer_sys::fuzz_target;
use pbkfs::catalog::content::FileEntry;
use pbkfs::catalog::pages::PageIndex;
use pbkfs_fuzz::{choice, data_file, file_of};

/// Size of an entry in bytes.
const ENTRY: usize = 24;

fuzz_target!(|bytes: &[u8]| {
    let (how, bytes) = choice(bytes);
    match how % 2 {
        0 => read(bytes, bytes.len() as u32, u32::from(how), 0),
        _ => {
            let mut stream = vec![0; bytes.len() + 1024];
            let length = Compressor::new(CompressionLvl::fastest())
                .zlib_compress(bytes, &mut stream)
                .expect("there is room");
            let headers = (bytes.len() / ENTRY).saturating_sub(1) as u32;
            let end = bytes
                .len()
                .checked_sub(ENTRY)
                .and_then(|at| bytes.get(at + 12..at + 16));
            let end = end.map_or(0, |end| {
                i32::from_le_bytes(end.try_into().expect("four bytes"))
            });
            stream.truncate(length);
            let entry = FileEntry {
                hdr_crc: crc32c::crc32c(bytes),
                ..described(length as u32, headers, i64::from(end))
            };
            index(&stream, &entry);
        }
    }
});

fn described(hdr_size: u32, n_headers: u32, size: i64) -> FileEntry<'static> {
    FileEntry {
        n_headers,
        hdr_size,
        ..data_file(size)
    }
}

/// Reads a stream, also with a wrong size and page count in the content list.
fn read(stream: &[u8], hdr_size: u32, n_headers: u32, size: i64) {
    index(stream, &described(hdr_size, n_headers, size));
    let lying = u32::from_le_bytes(*stream.first_chunk().unwrap_or(&[0; 4]));
    index(stream, &described(lying, lying.rotate_left(16), size));
}

fn index(stream: &[u8], entry: &FileEntry<'_>) {
    let map = file_of(stream);
    let _ = PageIndex::stamps(&map, entry);
    let Ok(index) = PageIndex::from_header_map(&map, entry) else {
        return;
    };
    let pages = index.len() as u32;
    let end = (0..pages)
        .filter_map(|page| index.records().place(page))
        .next_back();
    assert!(end.is_none_or(|place| i64::try_from(place.end) == Ok(entry.size)));
    let _ = map.read_at(&mut [0], 0);
}
