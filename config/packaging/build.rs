//! Tells the program what it is built from and for, which `pbkfs --version` shows.
//!
//! The commit is what `PBKFS_COMMIT` says (`HASH of DATE`, set by the release's script),
//! else what cargo wrote into a published crate, else what git says of this directory.
//! None of them has to be there. No time of day and no path gets into the program, so
//! that the same sources make the same bytes.

use std::path::Path;
use std::process::Command;
use std::{env, fs};

/// What the program depends on: if git finds a change in there, it is not the commit's.
const SOURCES: [&str; 5] = ["Cargo.lock", "Cargo.toml", "config", "man", "src"];

fn main() {
    println!("cargo::rerun-if-env-changed=PBKFS_COMMIT");
    println!("cargo::rerun-if-changed=config/packaging/build.rs");
    let commit = told().or_else(packaged).or_else(of_git);
    let commit = commit.unwrap_or_else(|| "unknown".to_owned());
    println!("cargo::rustc-env=PBKFS_BUILT_FROM={commit}");
    println!("cargo::rustc-env=PBKFS_BUILT_FOR={}", build());
}

fn told() -> Option<String> {
    env::var("PBKFS_COMMIT")
        .ok()
        .filter(|commit| !commit.is_empty())
}

/// The commit of a crate that `cargo package` made: `{"git": {"sha1": "HASH"}, ..}`, and
/// `"dirty": true` if it was made in spite of changes.
fn packaged() -> Option<String> {
    let text = fs::read_to_string(".cargo_vcs_info.json").ok()?;
    let (_, rest) = text.split_once("\"sha1\"")?;
    let hash = rest.split('"').nth(1)?;
    let changed = if text.contains("\"dirty\"") {
        ", with changes"
    } else {
        ""
    };
    Some(format!("{hash}{changed}"))
}

/// Asked in release builds only: a commit would make cargo build all tests anew.
fn of_git() -> Option<String> {
    if env::var("PROFILE").ok()? != "release" {
        return Some("unknown, as this is a debug build".to_owned());
    }
    // A copy of the sources may lie within somebody else's repository.
    if !git(&["rev-parse", "--show-prefix"])?.is_empty() {
        return None;
    }
    git(&["ls-files", "--error-unmatch", "Cargo.toml"])?;
    for source in SOURCES {
        println!("cargo::rerun-if-changed={source}");
    }
    // Each commit and checkout adds a line to the first; a new clone has only the other.
    for file in ["logs/HEAD", "HEAD"] {
        let file = git(&["rev-parse", "--git-path", file])?;
        if Path::new(&file).exists() {
            println!("cargo::rerun-if-changed={file}");
        }
    }
    let commit = git(&["log", "-1", "--date=short-local", "--format=%H of %cd"])?;
    let mut changes = vec!["status", "--porcelain", "--untracked-files=no", "--"];
    changes.extend(SOURCES);
    match git(&changes)?.is_empty() {
        true => Some(commit),
        false => Some(format!("{commit}, with changes")),
    }
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git")
        .args(arguments)
        .env("TZ", "UTC")
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

/// `x86_64-unknown-linux-gnu, release, rustc 1.95.0 (59807616e 2026-04-14)`
fn build() -> String {
    let value = |name| env::var(name).unwrap_or_else(|_| "unknown".to_owned());
    let rustc = Command::new(value("RUSTC")).arg("--version").output();
    let rustc = rustc.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    let rustc = rustc.unwrap_or_else(|_| "an unknown rustc".to_owned());
    format!("{}, {}, {rustc}", value("TARGET"), value("PROFILE"))
}
