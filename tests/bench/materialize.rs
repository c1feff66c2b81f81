//! Measures how long `pbkfs materialize` takes, compared with the work that
//! `pg_probackup restore -j 2` is designed to do for the same chain, and with the disk's
//! own sequential write of the same bytes.
//!
//! restore validates every member first (`stand_in::validate`), then reads and decodes
//! each page of the image once more, writes it, and syncs each file. pg_probackup was not
//! available for measurement, so two threads of this program do that work; where it
//! decodes for the second time they use pbkfs's own decoder, which is faster than
//! pg_probackup's.
//!
//! ```text
//! cargo bench --locked --bench materialize [-- ROUNDS [CATALOG INSTANCE]]
//! ```
//! All run alternately, below TMPDIR. Uses the newest backup, of a bundled catalog unless
//! another one is named.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod fixture;
mod stand_in;

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use nix::sys::resource::{UsageWho, getrusage};
use pbkfs::catalog::{BackupRef, Catalog};
use pbkfs::chain::Chain;
use pbkfs::image::{Image, ImageOptions, NodeId, NodeKind};
use stand_in::{columns, validate};

const THREADS: usize = 2;

/// Copies every file of the image below `to`, and syncs each.
fn copy(image: &Image, to: &Path) {
    let nodes = (0..image.node_count()).map(|node| NodeId(node as u32));
    let (dirs, others): (Vec<_>, Vec<_>) =
        nodes.partition(|node| image.kind(*node) == NodeKind::Directory);
    for dir in &dirs {
        fs::create_dir_all(to.join(image.path(*dir))).unwrap();
    }
    let next = AtomicUsize::new(0);
    let work = || {
        let mut buffer = vec![0; 1 << 20];
        while let Some(node) = others.get(next.fetch_add(1, Ordering::Relaxed)) {
            if image.kind(*node) != NodeKind::File {
                continue;
            }
            let file = File::create(to.join(image.path(*node))).unwrap();
            let mut at = 0;
            loop {
                let count = image.read_at(*node, at, &mut buffer).unwrap();
                if count == 0 {
                    break;
                }
                file.write_all_at(&buffer[..count], at).unwrap();
                at += count as u64;
            }
            file.sync_all().unwrap();
        }
    };
    thread::scope(|scope| (0..THREADS).for_each(|_| drop(scope.spawn(work))));
}

/// Writes so many bytes to one file, and syncs it.
fn write(bytes: u64, to: &Path) {
    let mut file = File::create(to).unwrap();
    let piece: Vec<u8> = (0..1_u32 << 20)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    let mut left = bytes;
    while left > 0 {
        let count = left.min(piece.len() as u64);
        file.write_all(&piece[..count as usize]).unwrap();
        left -= count;
    }
    file.sync_all().unwrap();
}

/// Runs `pbkfs materialize`, and returns the number of bytes it has written.
fn materialize(profile: &Path, to: &Path, arguments: &[&str]) -> u64 {
    let output = Command::new(env!("CARGO_BIN_EXE_pbkfs"))
        .args(["materialize", "--json", "--jobs", "2", "--to"])
        .arg(to)
        .args(arguments)
        .arg(profile)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    document["bytes"].as_u64().unwrap()
}

/// Returns the seconds that some work took. Earlier writes are on disk before it begins.
fn timed(dir: &Path, work: impl FnOnce()) -> f64 {
    nix::unistd::syncfs(File::open(dir).unwrap()).unwrap();
    let begun = Instant::now();
    work();
    begun.elapsed().as_secs_f64()
}

fn main() {
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| a != "--bench")
        .collect();
    let rounds: usize = arguments.first().map_or(5, |text| text.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let (catalog, instance) = match arguments.get(1..) {
        Some([catalog, instance]) => (PathBuf::from(catalog), instance.as_str()),
        _ => (fixture::unpack("pg15-chain", dir), "main"),
    };
    let profile = dir.join("profile.toml");
    let text = format!(
        "catalog = {catalog:?}\ninstance = {instance:?}\nmetadata = \"native\"\n\
         target = \"mnt\"\nlock_backups = false\n"
    );
    fs::write(&profile, text).unwrap();
    let opened = Catalog::open(&catalog).unwrap().instance(instance).unwrap();
    let backups = opened.backups().unwrap();
    let chain = Chain::resolve(instance, &backups, &BackupRef::Latest).unwrap();
    let image = Image::open(&chain, &ImageOptions::default()).unwrap();

    let to = dir.join("data");
    let mut bytes = 0;
    let (mut theirs, mut ours, mut unsynced, mut disk) = (vec![], vec![], vec![], vec![]);
    for _ in 0..rounds {
        theirs.push(timed(dir, || {
            validate(&chain, THREADS);
            copy(&image, &to);
        }));
        fs::remove_dir_all(&to).unwrap();
        ours.push(timed(dir, || bytes = materialize(&profile, &to, &[])));
        fs::remove_dir_all(&to).unwrap();
        unsynced.push(timed(dir, || {
            bytes = materialize(&profile, &to, &["--no-sync"])
        }));
        fs::remove_dir_all(&to).unwrap();
        disk.push(timed(dir, || write(bytes, &to)));
        fs::remove_file(&to).unwrap();
    }
    let ids: Vec<String> = chain.ids().iter().map(ToString::to_string).collect();
    println!(
        "Chain {}: {bytes} bytes; {rounds} rounds.\n",
        ids.join(" > ")
    );
    println!("| | min | median | max |\n|---|---|---|---|");
    let ratios = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a / b).collect();
    println!("| restore's work, s | {} |", columns(theirs.clone(), 2));
    println!("| `pbkfs materialize`, s | {} |", columns(ours.clone(), 2));
    println!(
        "| `pbkfs materialize --no-sync`, s | {} |",
        columns(unsynced.clone(), 2)
    );
    println!(
        "| one sequential write of the same bytes, synced, s | {} |",
        columns(disk.clone(), 2)
    );
    println!(
        "| materialize / restore's work, time | {} |",
        columns(ratios(&ours, &theirs), 2)
    );
    println!(
        "| materialize --no-sync / the disk, rate | {} |",
        columns(ratios(&disk, &unsynced), 2)
    );
    let peak = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap().max_rss() as f64 / 1024.0;
    println!("\nPeak memory of pbkfs: {peak:.0} MiB.");
}
