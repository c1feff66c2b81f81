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
mod stand_in;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use pbkfs::catalog::{BackupRef, Catalog};
use pbkfs::chain::Chain;
use stand_in::{columns, validate};

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
        stored = validate(&chain, 1);
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
