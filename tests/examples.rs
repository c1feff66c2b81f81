//! The files under `examples/` that other programs read.

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

/// Runs only if systemd is installed, which is rare in a container.
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

/// Checks that verify produces each named metric.
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
        // A metric family with its own label is named in one piece.
        let is_made = |name: &str| source.contains(&format!("\"{name}\""));
        let whole = format!("verify_{name}");
        assert!(is_made(name) || is_made(&whole), "no metric {name}");
    }
}

/// Runs promtool in a directory; it must succeed.
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

/// Includes a backup that was found bad, over seven nights.
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
    // Each query as a rule, because promtool reads rules.
    let mut rules = String::from("groups:\n- name: dashboard\n  rules:\n");
    let mut cells = std::collections::BTreeSet::new();
    for panel in panels {
        let title = panel["title"].as_str().unwrap();
        let at = |key: &str| panel["gridPos"][key].as_u64().unwrap();
        for (x, y) in (at("x")..at("x") + at("w"))
            .flat_map(|x| (at("y")..at("y") + at("h")).map(move |y| (x, y)))
        {
            assert!(x < 24 && cells.insert((x, y)), "{title} overlaps another");
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

/// As pbkfs reads them, with each kind of value that JSON has.
#[test]
fn the_role_writes_profiles_that_are_taken() {
    let built = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let tools = fs::read_dir(built.join("tools")).into_iter().flatten();
    let ansible = tools
        .map(|tool| tool.unwrap().path().join("bin/ansible-playbook"))
        .find(|program| program.exists() && program.to_str().unwrap().contains("/ansible-"))
        .expect("this test needs ansible-playbook: tests/run.sh fetches it");
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("pbkfs");
    let query = r#"select "a" from b where c <> 'd\e' -- \u{e9}"#;
    let profile = serde_json::json!({
        "catalog": "/srv/backup",
        "instance": "main",
        "target": "/srv/verify/main",
        "cache_size": 1_048_576,
        "postgres": {"port": 5555, "settings": {"work_mem": "1MB", "jit": false}},
        "verify": {
            "amcheck": ["shop", "b c"],
            "sql": [
                {"name": "one", "database": "shop", "query": query, "expect": "> 0"},
                {"name": "two", "database": "shop", "query": "select 2", "expect": 2},
            ],
        },
    });
    let variables = serde_json::json!({
        "ansible_connection": "local",
        // Ansible's own: which others are found depends on the machine.
        "ansible_python_interpreter": ansible.with_file_name("python3"),
        "pbkfs_config_dir": config,
        "pbkfs_timers": false,
        "pbkfs_profiles": {"main": profile},
    });
    fs::write(dir.path().join("variables.json"), variables.to_string()).unwrap();
    fs::write(dir.path().join("hosts"), "[backup_hosts]\nlocalhost\n").unwrap();
    let programs = Path::new(env!("CARGO_BIN_EXE_pbkfs")).parent().unwrap();
    let path = std::env::var("PATH").unwrap();
    let mut play = Command::new(&ansible);
    play.current_dir(Path::new(ROOT).join("examples/ansible"))
        .env("PATH", format!("{}:{path}", programs.display()))
        .env("ANSIBLE_LOCAL_TEMP", dir.path())
        .env("ANSIBLE_REMOTE_TEMP", dir.path())
        .env("LC_ALL", "C.UTF-8")
        .arg("--inventory")
        .arg(dir.path().join("hosts"))
        .arg("--extra-vars")
        .arg(format!("@{}", dir.path().join("variables.json").display()))
        .arg("site.yml");
    let said = run(&mut play, Duration::from_secs(120)).expect_ok();
    assert!(said.contains("failed=0"), "{said}");
    let written = fs::read_to_string(config.join("main.toml")).unwrap();
    let written: toml::Value = toml::from_str(&written).unwrap();
    assert_eq!(serde_json::to_value(&written).unwrap(), profile);
}

/// The capabilities of the job are those that the text explains.
#[test]
fn the_capabilities_of_the_job_are_explained() {
    let job = read("kubernetes/cronjob.yaml");
    let (_, rest) = job.split_once("add: [").unwrap();
    let (added, _) = rest.split_once(']').unwrap();
    let text = read("kubernetes/README.md");
    let (_, root) = text.split_once("| root |").unwrap();
    let (root, _) = root.split_once("\n\n").unwrap();
    for name in added.split(", ") {
        assert!(root.contains(&format!("`{name}`")), "{name}: {root}");
    }
    assert_eq!(added.split(", ").count(), root.matches("`").count() / 2);
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
