//! What a release is made of: the version, the changelog, the crate, and the scripts in
//! `config/packaging`.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const VERSION: &str = env!("CARGO_PKG_VERSION");

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What a command says; it has to end well.
#[track_caller]
fn ok(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {stderr}");
    out(&output)
}

/// Numbers of a version, so that 1.10 comes after 1.9.
fn numbers(version: &str) -> Vec<u64> {
    version.split('.').map(|n| n.parse().unwrap()).collect()
}

/// What cargo says of this crate and its dependencies on Linux.
fn metadata() -> serde_json::Value {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["metadata", "--format-version=1", "--locked"]);
    cargo.args(["--filter-platform", "x86_64-unknown-linux-gnu"]);
    serde_json::from_str(&ok(cargo.current_dir(ROOT))).unwrap()
}

#[test]
fn rust_is_no_newer_than_the_dependencies_need() {
    let metadata = metadata();
    let packages = metadata["packages"].as_array().unwrap();
    let of_ours = |ours: bool| {
        packages
            .iter()
            .filter(move |package| (package["name"] == "pbkfs") == ours)
            .filter_map(|package| package["rust_version"].as_str())
    };
    let ours = of_ours(true).next().unwrap();
    let needed = of_ours(false)
        .max_by_key(|version| numbers(version))
        .unwrap();
    let minor = |version: &str| numbers(version)[..2].to_vec();
    assert_eq!(minor(ours), minor(needed), "Cargo.toml has {ours}");
}

/// crates.io takes 10 MB, compressed; this is what it is before.
#[test]
fn the_crate_is_small_and_has_what_it_is_built_from() {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args([
        "package",
        "--list",
        "--allow-dirty",
        "--locked",
        "--offline",
    ]);
    let list = ok(cargo.current_dir(ROOT));
    let size: u64 = list
        .lines()
        .filter_map(|name| fs::metadata(Path::new(ROOT).join(name)).ok())
        .map(|file| file.len())
        .sum();
    assert!(size < 10_000_000, "{size} bytes");
    let has = |name: &str| list.lines().any(|line| line == name);
    for name in [
        "src/main.rs",
        "man/pbkfs-safety.7",
        "LICENSE",
        "Cargo.lock",
    ] {
        assert!(has(name), "{name}");
    }
    assert!(!list.contains("catalog.tar.zst"), "{list}");
}
