//! The encoder, compared with what the real pg_probackup wrote: decoding and
//! re-encoding reproduces everything except what a compressor may choose.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::FileExt;

use pbkfs::catalog::content::{ContentList, FileEntry};
use pbkfs::catalog::encode::{
    DataFileWriter, HeaderMapWriter, PageEncoder, StoredPages, write_content_line, write_control,
};
use pbkfs::catalog::{Backup, CompressAlg};
use pbkfs::pg::{BLOCK_SIZE, BlockNumber};

use crate::fixture::{Fixture, content, node};

/// Size of a page header in the map, in bytes.
const HEADER: usize = 24;

#[test]
fn content_lists_and_control_files_come_out_the_same() {
    for name in [
        "pg15-chain",
        "pg15-debian",
        "pg15-hazards",
        "pg15-ptrack",
        "pg17-chain",
        "pg18-chain",
    ] {
        let fixture = Fixture::unpack_without_relations(name);
        for backup in fixture.metadata() {
            let listed = fs::read_to_string(backup.content().name()).unwrap();
            let listed: BTreeSet<&str> = listed.lines().collect();
            let mut written = Vec::new();
            for entry in ContentList::read(&backup).unwrap().iter() {
                write_content_line(&mut written, &entry).unwrap();
            }
            let written = String::from_utf8(written).unwrap();
            assert_eq!(written.lines().collect::<BTreeSet<_>>(), listed, "{name}");

            let mut written = Vec::new();
            write_control(&mut written, &backup).unwrap();
            let control = fs::read_to_string(backup.dir.join("backup.control")).unwrap();
            // `Backup` leaves out what a clone does not need.
            let known = |line: &&str| {
                !["primary_conninfo", "external-dirs"]
                    .iter()
                    .any(|key| line.starts_with(key))
            };
            let wanted: Vec<&str> = control.lines().filter(known).collect();
            let written = String::from_utf8(written).unwrap();
            assert_eq!(written.lines().collect::<Vec<_>>(), wanted, "{name}");
        }
    }
}

/// One stored data file, and its line in the backup's content list.
struct Stored<'a> {
    entry: FileEntry<'a>,
    bytes: Vec<u8>,
    headers: Vec<u8>,
}

impl<'a> Stored<'a> {
    fn read(backup: &Backup, entry: FileEntry<'a>) -> Self {
        let path = std::str::from_utf8(entry.path).unwrap();
        let map = fs::File::open(backup.header_map().name()).unwrap();
        let mut stream = vec![0; entry.hdr_size as usize];
        map.read_exact_at(&mut stream, entry.hdr_off).unwrap();
        let mut headers = vec![0; (entry.n_headers as usize + 1) * HEADER];
        let mut zlib = libdeflater::Decompressor::new();
        zlib.zlib_decompress(&stream, &mut headers).unwrap();
        Self {
            entry,
            bytes: fs::read(backup.file(path).name()).unwrap(),
            headers,
        }
    }
}

/// Re-encodes the data files of a FULL backup, and passes each to `show` together
/// with what pg_probackup stored.
fn encode_again(fixture: &Fixture, id: &str, show: impl Fn(&Stored<'_>, &StoredPages, &[u8])) {
    let backup = fixture.metadata().into_iter().find(|b| b.id.0 == id);
    let backup = backup.unwrap();
    let image = fixture.image(id);
    let list = ContentList::read(&backup).unwrap();
    let mut files = 0;
    for entry in list.iter().filter(|entry| entry.n_headers > 0) {
        let path = std::str::from_utf8(entry.path).unwrap();
        if path.starts_with("pg_tblspc/") {
            // The image has them at another path.
            continue;
        }
        let mut encoder = PageEncoder::new(entry.compress_alg, backup.compress_level);
        let mut bytes = Vec::new();
        let version = backup.program_version;
        let mut writer = DataFileWriter::new(&mut bytes, &mut encoder, entry.segno, version);
        let pages = content(&image, node(&image, path));
        for (block, page) in (0..).zip(pages.as_chunks::<BLOCK_SIZE>().0) {
            writer.push(BlockNumber(block), page).unwrap();
        }
        let again = writer.finish().unwrap();
        show(&Stored::read(&backup, entry), &again, &bytes);
        files += 1;
    }
    assert!(files > 100);
}

#[test]
fn raw_pages_are_stored_byte_for_byte() {
    let fixture = Fixture::unpack("pg15-chain");
    encode_again(&fixture, "TOW7KG", |stored, again, bytes| {
        let entry = &stored.entry;
        assert_eq!(entry.compress_alg, CompressAlg::None);
        assert!(bytes == stored.bytes);
        assert!(again.headers == stored.headers);
        assert_eq!(
            (again.length as i64, again.crc, again.count),
            (entry.size, entry.crc, entry.n_headers)
        );
        let part = HeaderMapWriter::new(Vec::new())
            .append(&again.headers)
            .unwrap();
        assert_eq!((part.offset, part.crc), (0, entry.hdr_crc));
    });
}

#[test]
fn compressed_pages_differ_by_no_more_than_their_lengths() {
    let fixture = Fixture::unpack("pg15-chain");
    encode_again(&fixture, "TOW7J7", |stored, again, _| {
        assert_eq!(stored.entry.compress_alg, CompressAlg::Zlib);
        let without_position = |headers: &[u8]| {
            let (headers, rest) = headers.as_chunks::<HEADER>();
            assert!(rest.is_empty());
            let rest = headers.iter().map(|h| [&h[..12], &h[16..]].concat());
            rest.collect::<Vec<_>>()
        };
        assert_eq!(
            without_position(&again.headers),
            without_position(&stored.headers)
        );
    });
}
