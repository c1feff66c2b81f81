//! Measures how long `pbkfs verify` takes for the pages of a backup, compared with
//! the work that `pg_probackup validate` is designed to do for the same chain: one
//! thread reads each stored file of each member once, computes its checksum, and in
//! the same pass decodes and checks each page (`validate_file_pages` in data.c, with
//! the default `-j 1`). pg_probackup was not available for measurement, so that work
//! is done here in process, from buffers that hold whole files.
//!
//! ```text
//! cargo bench --locked --bench verify [-- ROUNDS [CATALOG INSTANCE]]
//! ```
//! Both run alternately, so that a busy moment of the machine affects both alike.
//! Uses the newest backup, of a bundled catalog unless another one is named.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod fixture;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use flate2::{Decompress, FlushDecompress};
use pbkfs::catalog::content::{ContentList, FileEntry};
use pbkfs::catalog::pages::PageCodec;
use pbkfs::catalog::{Backup, BackupRef, Catalog, CompressAlg};
use pbkfs::chain::Chain;
use pbkfs::pg::page::{Page, PageHeader, PageVerdict, verify};
use pbkfs::pg::{BLOCK_SIZE, BlockNumber};

/// Size of a record's header: two integers, the block number and the payload size.
const RECORD_HEADER: usize = 8;

/// Validates every member, and returns the number of stored bytes.
fn validate(chain: &Chain) -> u64 {
    let mut stored = 0;
    for backup in chain.layers() {
        for entry in ContentList::read(backup).unwrap().iter() {
            if entry.is_directory() || entry.size <= 0 {
                continue;
            }
            let bytes = fs::read(entry.stored_in(backup)).unwrap();
            stored += bytes.len() as u64;
            // pg_control's checksum is computed differently, at the same low cost.
            let right = crc32c::crc32c(&bytes) == entry.crc || entry.path == b"global/pg_control";
            assert!(right, "{}", String::from_utf8_lossy(entry.path));
            if entry.is_datafile {
                validate_pages(backup, &entry, &bytes);
            }
        }
    }
    stored
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

/// Runs `pbkfs verify` for the pages alone, and returns the size of the merged image.
fn run_verify(profile: &Path) -> u64 {
    let output = Command::new(env!("CARGO_BIN_EXE_pbkfs"))
        .args(["verify", "--json"])
        .arg(profile)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    document["backups"][0]["image_bytes"].as_u64().unwrap()
}

/// Formats the minimum, the median and the maximum as columns.
fn columns(mut values: Vec<f64>, digits: usize) -> String {
    values.sort_by(f64::total_cmp);
    let (least, most) = (values[0], values[values.len() - 1]);
    let middle = values[values.len() / 2];
    format!("{least:.digits$} | {middle:.digits$} | {most:.digits$}")
}

fn main() {
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| a != "--bench")
        .collect();
    let rounds: usize = arguments.first().map_or(9, |text| text.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let (catalog, instance) = match arguments.get(1..) {
        Some([catalog, instance]) => (PathBuf::from(catalog), instance.as_str()),
        _ => (fixture::unpack("pg15-chain", dir.path()), "main"),
    };
    let profile = dir.path().join("profile.toml");
    let text = format!(
        "catalog = {catalog:?}\ninstance = {instance:?}\nmetadata = \"native\"\n\
         target = \"mnt\"\nlock_backups = false\n\
         [verify]\nstart = false\nstate_dir = \"state\"\n"
    );
    fs::write(&profile, text).unwrap();
    let opened = Catalog::open(&catalog).unwrap().instance(instance).unwrap();
    let backups = opened.backups().unwrap();
    let chain = Chain::resolve(instance, &backups, &BackupRef::Latest).unwrap();

    let (mut stored, mut image) = (0, 0);
    let (mut theirs, mut ours) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let begun = Instant::now();
        stored = validate(&chain);
        theirs.push(begun.elapsed().as_secs_f64());
        let begun = Instant::now();
        image = run_verify(&profile);
        ours.push(begun.elapsed().as_secs_f64());
    }
    let ids: Vec<String> = chain.ids().iter().map(ToString::to_string).collect();
    println!(
        "Chain {}: {stored} bytes stored, {image} in the image; {rounds} rounds.\n",
        ids.join(" > ")
    );
    println!("| | min | median | max |\n|---|---|---|---|");
    let rate = |times: &[f64]| times.iter().map(|t| image as f64 / 1e6 / t).collect();
    println!(
        "| validate's work, MB of image a second | {} |",
        columns(rate(&theirs), 0)
    );
    println!(
        "| `pbkfs verify`, MB of image a second | {} |",
        columns(rate(&ours), 0)
    );
    let ratios = theirs.iter().zip(&ours).map(|(a, b)| a / b).collect();
    println!("| how many times as fast | {} |", columns(ratios, 2));
}
