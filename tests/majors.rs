//! Each major version knows every setting that a clone's server is started with, and
//! accepts its value. `postgres -C` reads them all, as for a start, and exits before
//! it starts anything.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::fs;
use std::path::Path;

use common::recovery::{BACKUP, sets, strs};
use common::session::LIMIT;
use common::{OsUser, PgTools, Sandbox, run};
use pbkfs::internals::server::conf::Host;
use pbkfs::internals::server::{self, Binaries, Conf};

/// Recoveries with different settings; the first is a backup's own.
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
    leaves_out_what_it_does_not_take(major, &bin_dir, &data);
}

/// Checks that only what no version accepts is left out.
fn leaves_out_what_it_does_not_take(major: &str, bin_dir: &Path, data: &Path) {
    let conf = "work_mem = 7MB\nenable_compound_index_stats = on\ntimezone = 'Europe/Nowhere'\n\
                lc_time = 'xx_XX.UTF-8'\nwal_level = blah\nmy.own = 1\nmax_connections = many\n";
    let auto = "lc_monetary = 'xx_XX.UTF-8'\nmaintenance_work_mem = '9MB'\n";
    fs::write(data.join("postgresql.conf"), conf).unwrap();
    fs::write(data.join("postgresql.auto.conf"), auto).unwrap();
    let binaries = Binaries::find(major.parse().unwrap(), Some(bin_dir)).unwrap();
    let server = server::OsUser::for_server("postgres").unwrap();
    let mut conf = Conf::read_from(&Host::default(), data).unwrap();
    conf.leave_out_refused(&binaries, server.as_ref()).unwrap();
    let main = String::from_utf8(conf.main_file()).unwrap();
    assert_eq!(
        main, "my.own = '1'\nwork_mem = '7MB'\n",
        "{:?}",
        conf.left_out
    );
    let auto = String::from_utf8(conf.new_auto_file().unwrap()).unwrap();
    assert_eq!(auto, "maintenance_work_mem = '9MB'\n");
}

fn check(bin_dir: &Path, data: &Path, settings: &[(&str, &str)]) {
    let ask = |wanted: &str| {
        let mut postgres = OsUser::postgres().command(bin_dir.join("postgres"));
        postgres.args(["-C", wanted, "-D"]).arg(data);
        for (name, value) in settings {
            let value = match *name {
                "data_directory" => data.to_str().unwrap().to_owned(),
                // A plan creates none.
                "config_file" => format!("{}/postgresql.conf", data.display()),
                _ => (*value).to_owned(),
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

/// Proves that the other tests can fail.
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
