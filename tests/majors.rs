//! Every setting that a clone's server is started with is one that its major
//! version knows, with a value that it takes. `postgres -C` reads them all, as
//! for a start, and ends before it starts anything.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::fs;
use std::path::Path;

use common::recovery::{BACKUP, sets, strs};
use common::session::LIMIT;
use common::{OsUser, PgTools, Sandbox, run};

/// Recoveries whose settings differ; the first is a backup's own.
const RECOVERIES: [&[(&str, &str)]; 5] = [
    &[],
    &[("target", "latest"), ("timeline", "latest")],
    &[("name", "also_good"), ("action", "pause")],
    &[("xid", "1272"), ("inclusive", "false")],
    &[("time", "2026-11-22 07:31:23Z"), ("timeline", "1")],
];

fn takes_every_setting(major: &str) {
    common::require_root();
    let bin_dir = match major {
        "15" => common::require_postgres().bin,
        _ => common::require_server(major),
    };
    let sandbox = Sandbox::root("pg15-chain");
    for id in sandbox.fixture.backups().iter().map(|backup| &backup.id) {
        let control = sandbox.fixture.backup_dir(id).join("backup.control");
        let text = fs::read_to_string(&control).unwrap();
        assert!(text.contains("server-version = 15"));
        let text = text.replace("server-version = 15", &format!("server-version = {major}"));
        fs::write(&control, text).unwrap();
    }
    let data = sandbox.path("data");
    fs::create_dir(&data).unwrap();
    fs::write(data.join("postgresql.conf"), "").unwrap();
    for recovery in RECOVERIES {
        let clone = sandbox
            .profile(BACKUP)
            .throw_away()
            .postgres("bin_dir", &format!("{bin_dir:?}"))
            .setting("work_mem", "64MB")
            .write();
        let arguments = [vec!["--json".to_owned()], sets(recovery)].concat();
        let plan = clone.pbkfs("plan", &strs(&arguments)).expect_ok();
        let plan: serde_json::Value = serde_json::from_str(&plan).unwrap();
        let settings = plan["settings"].as_array().unwrap();
        assert!(settings.len() > 20, "{plan}");
        let settings: Vec<(&str, &str)> = settings
            .iter()
            .map(|s| (s["name"].as_str().unwrap(), s["value"].as_str().unwrap()))
            .collect();
        check(&bin_dir, &data, &settings);
    }
}

fn check(bin_dir: &Path, data: &Path, settings: &[(&str, &str)]) {
    let ask = |wanted: &str| {
        let mut postgres = OsUser::postgres().command(bin_dir.join("postgres"));
        postgres.args(["-C", wanted, "-D"]).arg(data);
        for (name, value) in settings {
            let value = match *name {
                "data_directory" => data.to_str().unwrap(),
                _ => value,
            };
            postgres.args(["-c", &format!("{name}={value}")]);
        }
        run(&mut postgres, LIMIT).expect_ok()
    };
    // In kB.
    assert_eq!(ask("work_mem").trim(), "65536");
    assert_eq!(ask("archive_mode").trim(), "off");
}

#[test]
fn version_14_takes_every_setting() {
    takes_every_setting("14");
}

#[test]
fn version_15_takes_every_setting() {
    takes_every_setting("15");
}

#[test]
fn version_16_takes_every_setting() {
    takes_every_setting("16");
}

#[test]
fn version_17_takes_every_setting() {
    takes_every_setting("17");
}

#[test]
fn version_18_takes_every_setting() {
    takes_every_setting("18");
}

/// So that the others can fail.
#[test]
fn a_setting_of_another_version_is_not_taken() {
    let pg: PgTools = common::require_postgres();
    let dir = tempfile::tempdir().unwrap();
    let mut postgres = pg.command("postgres");
    postgres.args(["-C", "port", "-c", "sync_replication_slots=off", "-D"]);
    let output = run(postgres.arg(dir.path()), LIMIT);
    assert!(
        output
            .stderr
            .contains("unrecognized configuration parameter"),
        "{output}"
    );
}
