//! The files under `examples/` that are for other programs.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::process::Command;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn read(name: &str) -> String {
    fs::read_to_string(Path::new(ROOT).join("examples").join(name)).unwrap()
}

/// Only where systemd is installed, which a container seldom has.
#[test]
fn systemd_takes_the_units() {
    if which::which("systemd-analyze").is_err() {
        println!("systemd-analyze is not installed, so the units were not verified");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for unit in ["pbkfs-verify@.service", "pbkfs-verify@.timer"] {
        let text = read(&format!("systemd/{unit}"));
        let text = text.replace("/usr/local/bin/pbkfs", env!("CARGO_BIN_EXE_pbkfs"));
        fs::write(dir.path().join(unit.replace('@', "@main")), text).unwrap();
    }
    let output = Command::new("systemd-analyze")
        .args(["verify", "--man=no", "--recursive-errors=no"])
        .arg(dir.path().join("pbkfs-verify@main.service"))
        .arg(dir.path().join("pbkfs-verify@main.timer"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(!said.contains("pbkfs-verify@"), "{said}");
}

#[test]
fn alerts_are_on_metrics_that_exist() {
    let rules = read("monitoring/pbkfs.rules.yml");
    let source = fs::read_to_string(Path::new(ROOT).join("src/verify/prometheus.rs")).unwrap();
    let is_name = |c: char| c.is_ascii_lowercase() || c == '_';
    let names: Vec<&str> = rules
        .match_indices("pbkfs_verify_")
        .map(|(at, prefix)| {
            rules[at + prefix.len()..]
                .split(|c| !is_name(c))
                .next()
                .unwrap()
        })
        .collect();
    assert!(names.len() >= 3);
    for name in names {
        // A family with a label of its own is named in one piece.
        let is_made = |name: &str| source.contains(&format!("\"{name}\""));
        let whole = format!("verify_{name}");
        assert!(is_made(name) || is_made(&whole), "no metric {name}");
    }
}

#[test]
fn the_profile_of_the_job_is_one() {
    let job = read("kubernetes/cronjob.yaml");
    let (_, rest) = job.split_once("main.toml: |\n").unwrap();
    let (profile, _) = rest.split_once("---").unwrap();
    let profile: String = profile
        .lines()
        .map(|line| format!("{}\n", line.trim()))
        .collect();
    pbkfs::profile::parse(&profile, Path::new("/p/main.toml")).unwrap();
}
