//! Measures how long `wal-get` takes for a compressed segment of 16 MB, compared with
//! one stream decode and with a plain copy of the same segment. pg_probackup's
//! archive-get is also one stream decode (`gzread`); it was not available for
//! measurement, so the decodes stand in for it.
//!
//! ```text
//! cargo bench --locked --bench wal_get [-- ROUNDS]
//! ```
//! All ways run alternately, so that a busy moment of the machine affects all alike;
//! each ratio is within one round. Prints a table for `RESULTS.md`.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod fixture;

use std::fs::{self, File};
use std::io::{BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use pbkfs::catalog::Catalog;
use pbkfs::catalog::wal::{Fetched, WalArchive};

/// The default level of `archive-push --compress`.
const LEVEL: u32 = 1;

/// The size of the chunks of `wal-get`.
const CHUNK: usize = 256 << 10;

/// A way to get the segment to [`Sample::out`].
type Way = fn(&Sample);

const WAYS: [(&str, Way); 6] = [
    ("plain copy, in process", Sample::copy),
    ("one decode, in process", Sample::decode),
    ("wal-get, in process", Sample::fetch),
    ("`cp`", Sample::run_cp),
    ("`gzip -dc`", Sample::run_gzip),
    ("`pbkfs wal-get`", Sample::run_wal_get),
];

/// The pairs that are compared, by their indexes in [`WAYS`].
const RATIOS: [(usize, usize); 4] = [(2, 1), (2, 0), (5, 4), (5, 3)];

struct Sample {
    catalog: PathBuf,
    archive: WalArchive,
    name: String,
    stored: PathBuf,
    plain: PathBuf,
    out: PathBuf,
}

impl Sample {
    /// Takes the fixture's fullest segment: the others are mostly zeros, unlike any
    /// archive that is worth measuring.
    fn new(dir: &Path) -> Sample {
        let catalog = fixture::unpack("pg17-chain", dir);
        let instance = Catalog::open(&catalog).unwrap().instance("main").unwrap();
        let archive = WalArchive::open(&instance).unwrap();
        let (_, name) = archive
            .names()
            .unwrap()
            .into_iter()
            .filter(|name| name.len() == 24)
            .map(|name| (compressed(&archive.dir().join(&name)).len(), name))
            .max()
            .unwrap();
        let stored = archive.dir().join(format!("{name}.gz"));
        let plain = dir.join("plain");
        fs::rename(archive.dir().join(&name), &plain).unwrap();
        fs::write(&stored, compressed(&plain)).unwrap();
        Sample {
            out: dir.join("out"),
            catalog,
            archive,
            name,
            stored,
            plain,
        }
    }

    fn pour(&self, mut from: impl Read) {
        let mut out = File::create(&self.out).unwrap();
        let mut chunk = vec![0; CHUNK];
        loop {
            match from.read(&mut chunk).unwrap() {
                0 => break,
                count => out.write_all(&chunk[..count]).unwrap(),
            }
        }
    }

    fn copy(&self) {
        self.pour(File::open(&self.plain).unwrap());
    }

    fn decode(&self) {
        let stored = File::open(&self.stored).unwrap();
        self.pour(MultiGzDecoder::new(BufReader::with_capacity(CHUNK, stored)));
    }

    fn fetch(&self) {
        let fetched = self.archive.fetch(&self.name, &self.out).unwrap();
        assert_eq!(fetched, Fetched::Delivered);
    }

    fn run_cp(&self) {
        run(Command::new("cp").arg(&self.plain).arg(&self.out));
    }

    fn run_gzip(&self) {
        let out = File::create(&self.out).unwrap();
        run(Command::new("gzip")
            .arg("-dc")
            .arg(&self.stored)
            .stdout(out));
    }

    fn run_wal_get(&self) {
        run(Command::new(env!("CARGO_BIN_EXE_pbkfs"))
            .args(["wal-get", "--instance", "main", "-B"])
            .arg(&self.catalog)
            .arg(&self.name)
            .arg(&self.out));
    }
}

fn compressed(path: &Path) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(LEVEL));
    encoder.write_all(&fs::read(path).unwrap()).unwrap();
    encoder.finish().unwrap()
}

fn run(command: &mut Command) {
    assert!(command.status().unwrap().success(), "{command:?}");
}

/// Formats the minimum, the median and the maximum as columns.
fn columns(mut values: Vec<f64>, digits: usize) -> String {
    values.sort_by(f64::total_cmp);
    let middle = values[values.len() / 2];
    let ends = (values[0], values[values.len() - 1]);
    format!(
        "{:.digits$} | {middle:.digits$} | {:.digits$}",
        ends.0, ends.1
    )
}

fn main() {
    let rounds: usize = std::env::args()
        .skip(1)
        .find_map(|argument| argument.parse().ok())
        .unwrap_or(15);
    let dir = tempfile::tempdir().unwrap();
    let sample = Sample::new(dir.path());
    let content = fs::read(&sample.plain).unwrap();
    let mut times = vec![Vec::<Duration>::new(); WAYS.len()];
    for _ in 0..rounds {
        for ((name, way), times) in WAYS.iter().zip(&mut times) {
            let _ = fs::remove_file(&sample.out);
            let begun = Instant::now();
            way(&sample);
            times.push(begun.elapsed());
            assert!(
                fs::read(&sample.out).unwrap() == content,
                "{name} returned something else"
            );
        }
    }
    println!(
        "Segment {}: {} bytes, {} compressed (level {LEVEL}); {rounds} rounds.\n",
        sample.name,
        content.len(),
        fs::metadata(&sample.stored).unwrap().len(),
    );
    println!("| | min | median | max |\n|---|---|---|---|");
    for ((name, _), times) in WAYS.iter().zip(&times) {
        let millis = times.iter().map(|time| time.as_secs_f64() * 1e3).collect();
        println!("| {name}, ms | {} |", columns(millis, 1));
    }
    for (mine, other) in RATIOS {
        let ratio = |(a, b): (&Duration, &Duration)| a.as_secs_f64() / b.as_secs_f64();
        let ratios = times[mine].iter().zip(&times[other]).map(ratio).collect();
        let (mine, other) = (WAYS[mine].0, WAYS[other].0);
        println!("| {mine} / {other} | {} |", columns(ratios, 2));
    }
}
