//! The files under `examples/` that are for other programs.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use common::run;

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
    let mut verify = Command::new("systemd-analyze");
    verify.args(["verify", "--man=no", "--recursive-errors=no"]);
    for unit in [
        "pbkfs-verify@.service",
        "pbkfs-verify@.timer",
        "pbkfs@.service",
    ] {
        let text = read(&format!("../config/packaging/systemd/{unit}"));
        let text = text.replace("=pbkfs ", concat!("=", env!("CARGO_BIN_EXE_pbkfs"), " "));
        let instance = dir.path().join(unit.replace('@', "@main"));
        fs::write(&instance, text).unwrap();
        verify.arg(instance);
    }
    let output = verify.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(!said.contains("@main"), "{said}");
}

/// Checks that verify makes each metric that is named.
#[track_caller]
fn metrics_exist(named: &str) {
    let source =
        fs::read_to_string(Path::new(ROOT).join("src/verify/report/prometheus.rs")).unwrap();
    let is_name = |c: char| c.is_ascii_lowercase() || c == '_';
    let names: Vec<&str> = named
        .match_indices("pbkfs_verify_")
        .map(|(at, prefix)| {
            named[at + prefix.len()..]
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

/// Runs Prometheus' own tool in a directory; it has to be content.
#[track_caller]
fn promtool(dir: &Path, arguments: &[&str]) {
    let mut command = Command::new(common::require_promtool());
    command.args(arguments).current_dir(dir);
    run(&mut command, Duration::from_secs(60)).expect_ok();
}

#[test]
fn alerts_are_on_metrics_that_exist() {
    metrics_exist(&read("monitoring/pbkfs.rules.yml"));
    let dir = Path::new(ROOT).join("examples/monitoring");
    promtool(&dir, &["check", "rules", "pbkfs.rules.yml"]);
}

/// Among them: a backup that was found bad, over seven nights.
#[test]
fn alerts_are_raised_when_they_should_be() {
    let dir = Path::new(ROOT).join("examples/monitoring");
    promtool(&dir, &["test", "rules", "pbkfs.rules.test.yml"]);
    let (rules, tests) = (
        read("monitoring/pbkfs.rules.yml"),
        read("monitoring/pbkfs.rules.test.yml"),
    );
    let mut alerts = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "));
    let untested = alerts.find(|alert| !tests.contains(&format!("alertname: {alert}")));
    assert_eq!(untested, None);
}

#[test]
fn the_dashboard_shows_metrics_that_exist() {
    let text = read("monitoring/pbkfs.dashboard.json");
    metrics_exist(&text);
    let dashboard: serde_json::Value = serde_json::from_str(&text).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    // Each question as a rule, since promtool reads those.
    let mut rules = String::from("groups:\n- name: dashboard\n  rules:\n");
    let mut cells = std::collections::BTreeSet::new();
    for panel in panels {
        let title = panel["title"].as_str().unwrap();
        let at = |key: &str| panel["gridPos"][key].as_u64().unwrap();
        for (x, y) in (at("x")..at("x") + at("w"))
            .flat_map(|x| (at("y")..at("y") + at("h")).map(move |y| (x, y)))
        {
            assert!(x < 24 && cells.insert((x, y)), "{title} lies on another");
        }
        for target in panel["targets"].as_array().unwrap() {
            let expr = serde_json::to_string(&target["expr"]).unwrap();
            rules.push_str(&format!("  - {{record: a, expr: {expr}}}\n"));
        }
    }
    let ids: std::collections::BTreeSet<u64> =
        panels.iter().map(|p| p["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len());
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("dashboard.yml"), rules).unwrap();
    promtool(
        dir.path(),
        &["check", "rules", "--lint=none", "dashboard.yml"],
    );
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
    pbkfs::internals::profile::Profile::parse(&profile, Path::new("/p/main.toml")).unwrap();
}
