//! The files under `examples/` that are for other programs.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

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
    let dashboard = read("monitoring/pbkfs.dashboard.json");
    let tests = read("monitoring/pbkfs.rules.test.yml");
    for text in [&rules, &dashboard, &tests] {
        metrics_exist(text);
    }
    // Each metric of the ids and of what is known is looked at.
    for name in [
        "backup_bad",
        "backups",
        "oldest_proof",
        "duration",
        "exit_code",
    ] {
        let whole = format!("pbkfs_verify_{name}");
        assert!(dashboard.contains(&whole), "no panel has {name}");
    }
}

#[test]
fn the_dashboard_has_panels_of_queries() {
    let dashboard: Value = serde_json::from_str(&read("monitoring/pbkfs.dashboard.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let mut ids: Vec<_> = panels
        .iter()
        .map(|panel| panel["id"].as_u64().unwrap())
        .collect();
    ids.dedup();
    assert_eq!(ids.len(), panels.len());
    let queries = panels
        .iter()
        .flat_map(|panel| panel["targets"].as_array().unwrap());
    let rules: Vec<Value> = queries
        .enumerate()
        .map(|(n, query)| {
            // The variable is Grafana's.
            let expr = query["expr"].as_str().unwrap().replace("$profile", ".*");
            json!({"record": format!("panel:query:{n}"), "expr": expr})
        })
        .collect();
    assert!(rules.len() >= panels.len());
    // YAML has JSON in it.
    let rules = json!({"groups": [{"name": "dashboard", "rules": rules}]});
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("rules.yml");
    fs::write(&file, rules.to_string()).unwrap();
    promtool(&["check", "rules", file.to_str().unwrap()]);
}

#[test]
fn promtool_takes_the_alerts_and_their_tests() {
    let dir = Path::new(ROOT).join("examples/monitoring");
    let file = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    let checked = promtool(&["check", "rules", &file("pbkfs.rules.yml")]);
    assert!(checked.contains("SUCCESS"), "{checked}");
    let tested = promtool(&["test", "rules", &file("pbkfs.rules.test.yml")]);
    assert!(tested.contains("SUCCESS"), "{tested}");
    let rules = read("monitoring/pbkfs.rules.yml");
    let tests = read("monitoring/pbkfs.rules.test.yml");
    for alert in rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "))
    {
        assert!(
            tests.contains(&format!("alertname: {alert}")),
            "{alert} is not tested"
        );
    }
}

/// What promtool, which tests/run.sh installs, says.
fn promtool(arguments: &[&str]) -> String {
    let ended = Command::new("promtool").args(arguments).output();
    let ended = ended.expect("promtool, of Debian's package prometheus");
    let said = [ended.stdout, ended.stderr].concat();
    let said = String::from_utf8(said).unwrap();
    assert!(ended.status.success(), "{arguments:?}: {said}");
    said
}

#[track_caller]
fn metrics_exist(rules: &str) {
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
