//! Page decoding: the time that the image takes, compared with what the codec's library
//! alone takes for the same bytes. The pages are real and come from a bundled catalog.
//!
//! Run it with `cargo bench --bench decode`. Besides criterion's figures it prints one
//! line per codec, which `tests/bench/run.sh` puts into its table: the fastest of many
//! runs that alternate between the library and the image. On a busy machine the means of
//! two benchmarks cannot be compared, but these can.

#![allow(missing_docs, clippy::unwrap_used)]

#[path = "../tests/bench/fixture.rs"]
mod fixture;

use std::cell::RefCell;
use std::fs;
use std::hint::black_box;
use std::time::Instant;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use pbkfs::catalog::encode::{DataFileWriter, PageEncoder};
use pbkfs::catalog::pages::PageCodec;
use pbkfs::catalog::{BackupId, BackupRef, Catalog, CompressAlg, ProgramVersion};
use pbkfs::chain::Chain;
use pbkfs::image::{Image, ImageOptions, NodeId};
use pbkfs::pg::page::Page;
use pbkfs::pg::{BLOCK_SIZE, BlockNumber};
use tempfile::TempDir;

/// A FULL backup of a cluster with checksums, and its largest table.
const BACKUP: &str = "TOW7KG";

/// Bytes of pages decoded at a time: the most that the kernel requests at once.
/// `tests/bench/run.sh` relies on it.
const LENGTH: usize = 1 << 20;

/// How often each is timed to compute the ratio of the two.
const TURNS: usize = 500;

struct Catalogs {
    dir: TempDir,
}

impl Catalogs {
    fn unpack() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fixture::unpack("pg15-chain", dir.path());
        Self { dir }
    }

    fn image(&self) -> Image {
        let catalog = Catalog::open(&self.dir.path().join("catalog")).unwrap();
        let backups = catalog.instance("main").unwrap().backups().unwrap();
        let wanted = BackupRef::Id(BackupId(BACKUP.to_owned()));
        let chain = Chain::resolve("main", &backups, &wanted).unwrap();
        Image::open(&chain, &ImageOptions::default()).unwrap()
    }

    /// Rewrites one of the backup's files with another codec.
    fn recode(&self, path: &str, content: &[u8], alg: CompressAlg) {
        let backup = self.dir.path().join("catalog/backups/main").join(BACKUP);
        let mut bytes = Vec::new();
        let mut encoder = PageEncoder::new(alg, 1);
        let version = ProgramVersion::new(2, 5, 16);
        let mut writer = DataFileWriter::new(&mut bytes, &mut encoder, 0, version);
        for (block, page) in (0..).zip(content.as_chunks::<BLOCK_SIZE>().0) {
            writer.push(BlockNumber(block), page).unwrap();
        }
        writer.finish().unwrap();
        fs::write(backup.join("database").join(path), &bytes).unwrap();
        // Without the number of headers, the records themselves are scanned.
        let list = backup.join("backup_content.control");
        let edited: String = fs::read_to_string(&list)
            .unwrap()
            .lines()
            .map(
                |line| match line.contains(&format!("\"path\":\"{path}\"")) {
                    true => format!(
                        "{{\"path\":\"{path}\", \"size\":\"{}\", \"mode\":\"33152\", \
                     \"is_datafile\":\"1\", \"crc\":\"0\", \"compress_alg\":\"{alg}\"}}\n",
                        bytes.len()
                    ),
                    false => format!("{line}\n"),
                },
            )
            .collect();
        fs::write(&list, edited).unwrap();
        let control = backup.join("backup.control");
        let lines = fs::read_to_string(&control).unwrap();
        let kept: Vec<_> = lines
            .lines()
            .filter(|l| !l.starts_with("content-crc"))
            .collect();
        fs::write(&control, kept.join("\n") + "\n").unwrap();
    }
}

/// Returns the image's largest file under `base`, and its content.
fn largest(image: &Image) -> (NodeId, Vec<u8>) {
    let nodes = (0..image.node_count() as u32).map(NodeId);
    let paged = nodes.filter(|&node| image.is_paged(node) && image.path(node).starts_with("base"));
    let node = paged.max_by_key(|&node| image.len(node).unwrap()).unwrap();
    let mut content = vec![0; image.len(node).unwrap() as usize];
    image.read_at(node, 0, &mut content).unwrap();
    (node, content)
}

/// Returns the library's own call for one page.
fn by_library(alg: CompressAlg) -> impl Fn(&[u8], &mut Page) {
    let zlib = RefCell::new(libdeflater::Decompressor::new());
    let zstd = RefCell::new(zstd::bulk::Decompressor::new().unwrap());
    move |payload, page| match alg {
        CompressAlg::None => page.copy_from_slice(payload),
        _ if payload.len() == BLOCK_SIZE => page.copy_from_slice(payload),
        CompressAlg::Zlib => {
            zlib.borrow_mut().zlib_decompress(payload, page).unwrap();
        }
        // Our own code: no library decodes a bare stream.
        CompressAlg::Pglz => {
            let codec = PageCodec::new(alg, ProgramVersion::new(2, 5, 16));
            codec.decode(payload, page).unwrap();
        }
        CompressAlg::Lz4 => {
            lz4_flex::block::decompress_into(payload, page).unwrap();
        }
        CompressAlg::Zstd => {
            let mut zstd = zstd.borrow_mut();
            zstd.decompress_to_buffer(payload, page.as_mut_slice())
                .unwrap();
        }
    }
}

fn decode(criterion: &mut Criterion) {
    let catalogs = Catalogs::unpack();
    let image = catalogs.image();
    let (node, content) = largest(&image);
    let path = image.path(node).to_str().unwrap().to_owned();
    assert!(content.len() >= LENGTH);
    for alg in [
        CompressAlg::None,
        CompressAlg::Zlib,
        CompressAlg::Pglz,
        CompressAlg::Lz4,
        CompressAlg::Zstd,
    ] {
        catalogs.recode(&path, &content, alg);
        let image = catalogs.image();
        let mut encoder = PageEncoder::new(alg, 1);
        let pages = content[..LENGTH].as_chunks::<BLOCK_SIZE>().0;
        let payloads: Vec<Vec<u8>> = pages.iter().map(|p| encoder.encode(p).to_vec()).collect();
        let mut output = vec![0; LENGTH];

        let mut group = criterion.benchmark_group(alg.to_string());
        group.throughput(Throughput::Bytes(LENGTH as u64));
        let library = by_library(alg);
        let decode_alone = |output: &mut [u8]| {
            let pages = output.as_chunks_mut::<BLOCK_SIZE>().0;
            for (payload, page) in payloads.iter().zip(pages) {
                library(black_box(payload), page);
            }
        };
        let read = |output: &mut [u8]| {
            image.read_at(node, 0, black_box(output)).unwrap();
        };
        for turn in [&decode_alone as &dyn Fn(&mut [u8]), &read] {
            output.fill(0);
            turn(&mut output);
            assert!(output == content[..LENGTH]);
        }
        group.bench_function("library", |bencher| {
            bencher.iter(|| decode_alone(&mut output));
        });
        group.bench_function("image", |bencher| bencher.iter(|| read(&mut output)));
        group.finish();

        let [library, image] = fastest(&mut output, &[&decode_alone, &read]);
        println!("fastest {alg} library {library} image {image}");
    }
}

/// A way to decode.
type Decode<'a> = dyn Fn(&mut [u8]) + 'a;

/// Returns the time in nanoseconds of the fastest run of each, out of many alternating
/// runs.
fn fastest<const N: usize>(output: &mut [u8], of: &[&Decode<'_>; N]) -> [u128; N] {
    let mut fastest = [u128::MAX; N];
    for _ in 0..TURNS {
        for (fastest, turn) in fastest.iter_mut().zip(of) {
            let begin = Instant::now();
            turn(output);
            *fastest = begin.elapsed().as_nanos().min(*fastest);
        }
    }
    fastest
}

criterion_group!(benches, decode);
criterion_main!(benches);
