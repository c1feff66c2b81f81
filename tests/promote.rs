//! `pbkfs promote`: a running clone becomes an ordinary data directory, with everything
//! that was committed in it.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use common::fixture::flip_byte;
use common::production::free_port;
use common::{
    Listing, Manifest, OsUser, Output, PgTools, PlainServer, Running, Sandbox, TestClone,
    assert_nothing_stays, eventually, refused, run,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(120);

fn promote(clone: &TestClone<'_>, arguments: &[&str]) -> Output {
    let mut command = clone.command("promote", &["--json"]);
    run(command.args(arguments), LIMIT)
}

fn promote_to(clone: &TestClone<'_>, to: &Path, arguments: &[&str]) -> Output {
    let to = ["--to", to.to_str().unwrap()];
    promote(clone, &[&to, arguments].concat())
}

#[track_caller]
fn done(output: Output) -> Value {
    serde_json::from_str(&output.expect_ok()).unwrap()
}

const WRITES: &str = "create sequence numbers; select nextval('numbers') from generate_series(1, 9); \
    create table written as select i, repeat('x', i % 900) as t from generate_series(1, 20000) i; \
    create index on written (i); delete from written where i % 7 = 0; \
    create table elsewhere tablespace ts_fast as select 'y' || i as t from generate_series(1, 999) i; \
    update pgbench_accounts set abalance = abalance + aid where aid % 3 = 0";

/// The answers by which two servers are compared: every table, whole.
fn answers(pg: &PgTools, conninfo: &str) -> Vec<String> {
    let tables = pg.psql(
        conninfo,
        "shop",
        "select format('%I.%I', n.nspname, c.relname) from pg_class c \
         join pg_namespace n on n.oid = relnamespace \
         where relkind in ('r', 'm') and nspname !~ '^pg_|information_schema' order by 1",
    );
    tables
        .lines()
        .map(|table| {
            let sql = format!(
                "select '{table}', count(*), sum(hashtextextended(t::text, 0)) from {table} t"
            );
            pg.psql(conninfo, "shop", &sql)
        })
        .collect()
}

/// Starts a server on a finished directory. Production's configuration must not archive
/// into production's archive.
fn start_on<'a>(pg: &'a PgTools, to: &Path) -> PlainServer<'a> {
    let conf = to.join("postgresql.auto.conf");
    let own = fs::read_to_string(&conf).unwrap() + "archive_mode = off\n";
    fs::write(&conf, own).unwrap();
    pg.start_on(to, to.parent().unwrap())
}

/// Checks a finished directory in every way that PostgreSQL offers.
#[track_caller]
fn assert_whole(pg: &PgTools, to: &Path, answers_before: &[String]) {
    let server = start_on(pg, to);
    assert_eq!(answers(pg, &server.conninfo), answers_before);
    pg.amcheck(&server.conninfo);
    pg.stop(to);
    drop(server);
    pg.checksums(to);
}

fn hydration(clone: &TestClone<'_>) -> Value {
    clone.status()[0]["hydration"].clone()
}

fn until_hydrated(clone: &TestClone<'_>) {
    eventually("the clone is hydrated", LIMIT, || {
        hydration(clone)["state"] == "complete"
    });
}

/// Promotes a clone that serves, and checks what it has become.
fn becomes_a_directory(user: OsUser) {
    let pg = common::require_everything();
    let sandbox = Sandbox::with_catalog_of(&OsUser::postgres(), "pg15-chain", user);
    let catalog = Listing::of(&sandbox.fixture.catalog);
    let backup = sandbox.fixture.newest();
    let clone = sandbox.profile(&backup).write();
    let ready = clone.up();
    pg.psql(ready.conninfo(), "shop", WRITES);
    let before = answers(&pg, ready.conninfo());
    let dir = sandbox.server_dir(&pg.user);
    let to = dir.join("data");

    let told = done(promote_to(&clone, &to, &["--at-once"]));
    assert_eq!(told["backup"], backup);
    assert_eq!(told["copied_files"], 0, "{told}");
    assert!(told["files"].as_u64() > Some(1000), "{told}");
    assert!(!clone.is_mounted());
    let overridden = told["overridden"].as_array().unwrap();
    let has = |name: &str| overridden.iter().any(|setting| setting["name"] == name);
    assert!(has("archive_mode") && has("archive_command"), "{told}");
    assert!(to.join("pg_wal").symlink_metadata().unwrap().is_dir());
    let tablespaces = told["tablespaces"].as_array().unwrap();
    assert!(!tablespaces.is_empty());
    for space in tablespaces {
        let link = to.join("pg_tblspc").join(space["oid"].to_string());
        let new = fs::read_link(link).unwrap();
        assert_eq!(new.to_str(), space["new"].as_str());
        assert!(new.symlink_metadata().unwrap().is_dir());
    }
    let control = fs::metadata(to.join("global/pg_control")).unwrap();
    assert_eq!((control.nlink(), control.uid()), (2, pg.user.uid));
    assert_whole(&pg, &to, &before);

    // The diff is the directory's now.
    refused(&clone.pbkfs("up", &[]), 5, "was promoted: it is");
    refused(
        &promote_to(&clone, &dir.join("other"), &[]),
        5,
        "was promoted",
    );
    refused(&promote(&clone, &["--abandon"]), 5, "was promoted");
    done(promote_to(&clone, &to, &[]));
    let mut cleanup = sandbox.pbkfs();
    cleanup.args(["cleanup", "--force", "-d"]);
    run(cleanup.arg(clone.diff.as_ref().unwrap()), LIMIT).expect_ok();
    let control = fs::metadata(to.join("global/pg_control")).unwrap();
    assert_eq!(control.nlink(), 1);
    assert_whole(&pg, &to, &before);
    catalog.assert_unchanged(&sandbox.fixture.catalog);
    assert_nothing_stays(&sandbox);
}

#[test]
fn a_clone_becomes_a_directory_for_root() {
    becomes_a_directory(OsUser::root());
}

#[test]
fn a_clone_becomes_a_directory_for_postgres() {
    becomes_a_directory(OsUser::postgres());
}

/// Promotes a clone of that version, and compares its answers with the live cluster's.
fn answers_as_the_cluster(fixture: &str, major: &str) {
    let pg = common::require_everything();
    let server = PgTools {
        bin: common::require_server(major),
        user: OsUser::postgres(),
    };
    let sandbox = Sandbox::root(fixture);
    let backups = sandbox.fixture.backups();
    let backup = backups.iter().rfind(|backup| backup.stream).unwrap();
    let profile = sandbox.profile(&backup.id);
    let clone = profile
        .postgres("bin_dir", &format!("{:?}", server.bin))
        .write();
    clone.up();
    let dir = sandbox.server_dir(&pg.user);
    let to = dir.join("data");
    done(promote_to(&clone, &to, &["--at-once"]));
    let running = start_on(&server, &to);
    for expectation in sandbox.fixture.expectations(&backup.id) {
        let answer = pg.psql(&running.conninfo, &expectation.db, &expectation.sql);
        assert_eq!(answer, expectation.answer, "{expectation:?}");
    }
}

#[test]
fn postgresql_17_answers() {
    answers_as_the_cluster("pg17-chain", "17");
}

#[test]
fn postgresql_18_answers() {
    answers_as_the_cluster("pg18-chain", "18");
}

#[test]
fn it_waits_until_it_is_told_to_finish() {
    let pg = common::require_everything();
    let sandbox = Sandbox::root("pg15-chain");
    let clone = sandbox.profile("latest").write();
    let ready = clone.up();
    let dir = sandbox.server_dir(&pg.user);
    let to = dir.join("data");
    let mut command = clone.command("promote", &["--json", "--to"]);
    let mut waiting = Running::spawn(command.arg(&to));
    until_hydrated(&clone);
    let now = hydration(&clone);
    assert_eq!(now["files_left"], 0, "{now}");
    assert_eq!(now["bytes_left"], 0, "{now}");
    assert_eq!(now["destination"]["to"], to.to_str().unwrap());
    let shown = clone.pbkfs("status", &[]).expect_ok();
    assert!(
        shown.contains("all of the backup is in the diff"),
        "{shown}"
    );
    assert!(!waiting.has_ended());
    assert!(!to.exists());
    // The clone goes on, and what it writes now is promoted, too.
    pg.psql(ready.conninfo(), "shop", WRITES);
    let before = answers(&pg, ready.conninfo());

    let told = done(promote(&clone, &["--finish"]));
    assert_eq!(told["directory"], to.to_str().unwrap());
    let other = waiting.wait(LIMIT);
    assert_eq!(done(other)["directory"], to.to_str().unwrap());
    assert_whole(&pg, &to, &before);
}

#[test]
fn an_interrupted_hydration_goes_on_after_down_and_up() {
    let pg = common::require_everything();
    let sandbox = Sandbox::root("pg15-chain");
    let clone = sandbox.profile("latest").write();
    clone.up();
    let dir = sandbox.server_dir(&pg.user);
    let to = dir.join("data");
    let mut command = clone.command("promote", &["--rate", "4MB", "--to"]);
    let running = Running::spawn(command.arg(&to));
    let left = || hydration(&clone)["bytes_left"].as_u64();
    eventually("it has begun", LIMIT, || left().is_some());
    let at_first = left();
    eventually("some of it is there", LIMIT, || left() < at_first);
    running.signal(Signal::SIGINT);
    refused(&running.wait(LIMIT), 3, "the same command continues");
    assert_eq!(hydration(&clone)["state"], "stopped");
    assert!(left() > Some(0));
    let reached = left();
    clone.down();

    let ready = clone.up();
    let before = answers(&pg, ready.conninfo());
    let mut command = clone.command("promote", &["--at-once", "--rate", "4MB", "--to"]);
    let running = Running::spawn(command.arg(&to));
    eventually("it goes on where it was", LIMIT, || {
        left().is_some_and(|left| Some(left) <= reached)
    });
    running.wait(LIMIT).expect_ok();
    assert_whole(&pg, &to, &before);
}

/// Hydrates the clone, and leaves it running.
fn hydrate(clone: &TestClone<'_>, to: &Path) {
    let waiting = Running::spawn(clone.command("promote", &["--to"]).arg(to));
    until_hydrated(clone);
    waiting.signal(Signal::SIGINT);
    waiting.wait(LIMIT);
}

fn needs_no_catalog(fixture: &str, user: OsUser) {
    let pg = common::require_everything();
    let sandbox = Sandbox::with_catalog_of(&OsUser::postgres(), fixture, user);
    let catalog = &sandbox.fixture.catalog;
    let before_all = Listing::of(catalog);
    let clone = sandbox.profile(&sandbox.fixture.newest()).write();
    let ready = clone.up();
    let dir = sandbox.server_dir(&pg.user);
    let to = dir.join("data");
    hydrate(&clone, &to);
    // The locks are let go while the clone serves.
    before_all.assert_unchanged(catalog);
    pg.psql(
        ready.conninfo(),
        "postgres",
        "create table kept as select 7 as i",
    );
    let away = sandbox.path("away");
    fs::rename(catalog, &away).unwrap();
    assert_eq!(
        pg.psql(ready.conninfo(), "postgres", "select i from kept"),
        "7"
    );
    clone.down();
    // What was only brought in is no change of the clone's.
    let changes = clone.pbkfs("diff", &["--json"]).expect_ok();
    let changed = changes.matches("\"changed\"").count();
    assert!(
        changes.contains("pg_control") && changed < 300,
        "{changed} in {changes}"
    );

    let ready = clone.up();
    assert_eq!(
        pg.psql(ready.conninfo(), "postgres", "select i from kept"),
        "7"
    );
    pg.amcheck(ready.conninfo());
    done(promote_to(&clone, &to, &["--at-once"]));
    let server = start_on(&pg, &to);
    assert_eq!(
        pg.psql(&server.conninfo, "postgres", "select i from kept"),
        "7"
    );
    fs::rename(&away, catalog).unwrap();
    before_all.assert_unchanged(catalog);
}

#[test]
fn a_hydrated_clone_needs_no_catalog() {
    needs_no_catalog("pg15-chain", OsUser::root());
}

#[test]
fn an_ordinary_users_hydrated_clone_needs_no_catalog() {
    needs_no_catalog("pg15-chain", OsUser::postgres());
}

/// A mount without a server lets the kernel read and write files by itself, so they become
/// whole only at its end.
#[test]
fn a_mount_without_a_server_becomes_what_restore_writes() {
    common::require_everything();
    let sandbox = Sandbox::root("pg15-chain");
    let backup = sandbox.fixture.newest();
    let clone = sandbox.profile(&backup).mount_only().write();
    clone.up();
    let to = sandbox.path("data");
    hydrate(&clone, &to);
    let kept = clone.diff.as_ref().unwrap().join(".pbkfs-catalog");
    assert!(!kept.exists(), "the catalog is still needed");
    let told = done(promote(&clone, &["--finish"]));
    assert_eq!(told["copied_files"], 0, "{told}");
    let found = Manifest::walk(&to, &OsUser::postgres())
        .without("postgresql.auto.conf")
        .without("recovery.signal");
    sandbox
        .fixture
        .manifest(&backup)
        .assert_same(&found, &backup);
}

#[test]
fn the_locks_are_kept_if_the_profile_says_so() {
    common::require_everything();
    let sandbox = Sandbox::root("pg15-chain");
    let backup = sandbox.fixture.newest();
    let clone = sandbox
        .profile(&backup)
        .with("unlock_hydrated", "false")
        .write();
    clone.up();
    let to = sandbox.path("data");
    hydrate(&clone, &to);
    let lock = sandbox.fixture.backup_dir(&backup).join("backup_ro.pid");
    assert!(lock.exists());
    clone.down();
    assert!(!lock.exists());
}

#[test]
fn a_clone_that_is_down_is_promoted_directly() {
    let pg = common::require_everything();
    let sandbox = Sandbox::root("pg15-chain");
    let clone = sandbox.profile("latest").write();
    let dir = sandbox.server_dir(&pg.user);
    let to = dir.join("data");
    refused(
        &promote_to(&clone, &to, &[]),
        2,
        "there is no clone to promote",
    );
    let ready = clone.up();
    pg.psql(ready.conninfo(), "shop", WRITES);
    let before = answers(&pg, ready.conninfo());
    clone.down();
    refused(&promote(&clone, &["--finish"]), 2, "--to DIR");
    let spaces = pg_tablespace(&sandbox);
    let mapping = format!("{spaces}={}", dir.join("fast").display());
    let told = done(promote_to(&clone, &to, &["-T", &mapping]));
    let new = told["tablespaces"][0]["new"].as_str().unwrap();
    assert_eq!(Path::new(new), dir.join("fast"));
    assert_whole(&pg, &to, &before);
}

/// The directory that the fixture's tablespace had.
fn pg_tablespace(_: &Sandbox) -> &'static str {
    "/srv/fixture/pg15-chain/ts_fast"
}

#[test]
fn another_file_system_costs_a_copy() {
    let pg = common::require_everything();
    let sandbox = Sandbox::root("pg15-chain");
    let clone = sandbox.profile("latest").write();
    let ready = clone.up();
    let before = answers(&pg, ready.conninfo());
    let disk = sandbox.small_disk("400M");
    let dir = disk.path().join("server");
    fs::create_dir(&dir).unwrap();
    pg.user.own(&dir);
    let to = dir.join("data");
    let output = promote_to(&clone, &to, &["--at-once"]);
    assert!(
        output.stderr.contains("is on another file system"),
        "{output}"
    );
    let told = done(output);
    assert_eq!(told["copied_files"], told["files"], "{told}");
    assert_whole(&pg, &to, &before);
}

/// A cluster of Debian's, whose configuration is in /etc/postgresql.
struct DebianCluster {
    name: String,
}

impl DebianCluster {
    fn new(data: &Path, sockets: &Path) -> Self {
        let name = format!("pbkfs_{}", std::process::id());
        let dir = Path::new("/etc/postgresql/15").join(&name);
        fs::create_dir_all(&dir).unwrap();
        let conf = format!(
            "data_directory = '{}'\nhba_file = '{}'\nport = {}\nlisten_addresses = ''\n\
             unix_socket_directories = '{}'\n",
            data.display(),
            dir.join("pg_hba.conf").display(),
            free_port(),
            sockets.display()
        );
        fs::write(dir.join("postgresql.conf"), conf).unwrap();
        fs::write(dir.join("pg_hba.conf"), "local all all trust\n").unwrap();
        fs::write(dir.join("start.conf"), "manual\n").unwrap();
        for path in ["", "postgresql.conf", "pg_hba.conf", "start.conf"] {
            OsUser::postgres().own(&dir.join(path));
        }
        Self { name }
    }
}

impl Drop for DebianCluster {
    fn drop(&mut self) {
        let stop = ["15", &self.name, "stop", "-m", "immediate"];
        let _ = Command::new("pg_ctlcluster").args(stop).status();
        let _ = fs::remove_dir_all(Path::new("/etc/postgresql/15").join(&self.name));
    }
}

#[test]
fn a_cluster_of_debian_is_started_with_its_configuration() {
    common::require_everything();
    let sandbox = Sandbox::root("pg15-debian");
    let clone = sandbox.profile("latest").write();
    clone.up();
    let dir = sandbox.server_dir(&OsUser::postgres());
    let to = dir.join("data");
    let told = done(promote_to(&clone, &to, &["--at-once"]));
    assert_eq!(told["start"], Value::Null, "{told}");
    let cluster = DebianCluster::new(&to, &dir);
    let told = done(promote_to(&clone, &to, &["--start"]));
    let start = format!("pg_ctlcluster 15 {} start", cluster.name);
    assert_eq!(told["start"], start);
    let pid = fs::read_to_string(to.join("postmaster.pid")).unwrap();
    assert!(pid.contains("ready"), "{pid}");
}

#[test]
fn pg_ctl_starts_what_was_promoted() {
    let pg = common::require_everything();
    let sandbox = Sandbox::root("pg15-chain");
    let clone = sandbox.profile("latest").write();
    let ready = clone.up();
    let dir = sandbox.server_dir(&pg.user);
    let to = dir.join("data");
    // What would be production's own settings.
    for (name, value) in [
        ("archive_mode", "off".to_owned()),
        ("listen_addresses", String::new()),
        ("port", free_port().to_string()),
        ("unix_socket_directories", dir.display().to_string()),
    ] {
        let set = format!("alter system set {name} = '{value}'");
        pg.psql(ready.conninfo(), "postgres", &set);
    }
    let told = done(promote_to(&clone, &to, &["--at-once", "--start"]));
    assert_eq!(told["start"], format!("pg_ctl start -D {}", to.display()));
    let pid = fs::read_to_string(to.join("postmaster.pid")).unwrap();
    pg.stop(&to);
    assert!(pid.contains("ready"), "{pid}");
}

#[test]
fn what_cannot_be_promoted_is_refused_while_the_clone_serves() {
    let pg = common::require_everything();
    let sandbox = Sandbox::root("pg15-chain");
    let to = sandbox.path("data");
    let throw_away = sandbox
        .profile_named("thrown", "latest")
        .throw_away()
        .write();
    refused(&promote_to(&throw_away, &to, &[]), 2, "has no diff_dir");

    let clone = sandbox.profile("latest").write();
    let ready = clone.up();
    let occupied = sandbox.path("occupied");
    fs::create_dir(&occupied).unwrap();
    fs::write(occupied.join("precious"), "x").unwrap();
    let output = promote_to(&clone, &occupied, &["--at-once"]);
    refused(&output, 2, "exists and is not empty");
    let nowhere = sandbox.path("nowhere/data");
    refused(
        &promote_to(&clone, &nowhere, &["--at-once"]),
        3,
        "No such file",
    );
    refused(&promote(&clone, &["--finish"]), 5, "name it with --to DIR");
    assert_eq!(pg.psql(ready.conninfo(), "shop", "select 1"), "1");
    assert_eq!(fs::read(occupied.join("precious")).unwrap(), b"x");
    clone.down();
}

#[test]
fn a_clone_in_recovery_is_not_promoted() {
    let pg = common::require_everything();
    let sandbox = common::recovery::sandbox();
    let point = &common::recovery::points(&sandbox)[0];
    let clone = sandbox.profile("latest").write();
    let ready = common::recovery::up_to(&clone, &[("name", &point.name), ("action", "pause")]);
    let to = sandbox.path("data");
    let output = promote_to(&clone, &to, &["--at-once"]);
    refused(&output, 5, "has not finished its recovery");
    assert_eq!(
        pg.psql(ready.conninfo(), "postgres", "select pg_is_in_recovery()"),
        "t"
    );
    clone.down();
}

#[test]
fn a_damaged_backup_is_told_and_the_clone_goes_on() {
    let pg = common::require_everything();
    let sandbox = Sandbox::root("pg15-debian");
    let backup = sandbox.fixture.newest();
    let clone = sandbox.profile(&backup).write();
    let ready = clone.up();
    let file = sandbox.fixture.largest_data_file(&backup);
    let middle = fs::metadata(&file.path).unwrap().len() / 2;
    flip_byte(&file.path, middle);
    let to = sandbox.path("data");
    let output = promote_to(&clone, &to, &["--at-once"]);
    refused(
        &output,
        3,
        "not all of the backup could be brought into the diff",
    );
    assert_eq!(pg.psql(ready.conninfo(), "postgres", "select 1"), "1");
    assert!(!to.exists());
    assert_eq!(hydration(&clone)["state"], "failed");
    // Repaired, it goes on.
    flip_byte(&file.path, middle);
    done(promote_to(&clone, &to, &["--at-once"]));
    assert!(to.join("PG_VERSION").exists());
}

#[test]
fn a_full_disk_is_told_before_the_clone_is_filled_up() {
    let pg = common::require_everything();
    let sandbox = Sandbox::root("pg15-chain");
    let disk = sandbox.small_disk("60M");
    let clone = sandbox
        .profile("latest")
        .diff_at(disk.path().join("diff"))
        .write();
    let ready = clone.up();
    let to = disk.path().join("data");
    refused(
        &promote_to(&clone, &to, &["--at-once"]),
        5,
        "make room there",
    );
    assert_eq!(pg.psql(ready.conninfo(), "shop", "select 1"), "1");
    disk.resize("400M");
    let before = answers(&pg, ready.conninfo());
    done(promote_to(&clone, &to, &["--at-once"]));
    pg.user.own(disk.path());
    assert_whole(&pg, &to, &before);
}

#[test]
fn kills_while_it_is_hydrated_lose_nothing_that_was_acknowledged() {
    let pg = common::require_everything();
    let sandbox = Sandbox::root("pg15-chain");
    let clone = sandbox.profile("latest").write();
    let dir = sandbox.server_dir(&pg.user);
    let to = dir.join("data");
    let mut ready = clone.up();
    let bench = format!("{} dbname=bench", ready.conninfo());
    pg.psql(ready.conninfo(), "postgres", "create database bench");
    pg.run("pgbench", &["-iq", "-s1", &bench]).expect_ok();
    pg.psql(
        ready.conninfo(),
        "bench",
        "create table acknowledged (round int)",
    );
    // Tables of the backup change, too.
    let update = "update pgbench_accounts set abalance = abalance + 1 where aid % 5 = ";
    for round in 1..=5 {
        let load = Running::spawn(&mut pg.pgbench(ready.conninfo(), "bench", 60));
        let mut command = clone.command("promote", &["--rate", "6MB", "--to"]);
        let promoting = Running::spawn(command.arg(&to));
        let left = || hydration(&clone)["bytes_left"].as_u64();
        eventually("it is hydrated", LIMIT, || left().is_some());
        pg.psql(ready.conninfo(), "shop", &format!("{update}{}", round - 1));
        let commit = format!("insert into acknowledged values ({round})");
        pg.psql(ready.conninfo(), "bench", &commit);
        std::thread::sleep(Duration::from_millis(400 + 170 * round));
        kill(Pid::from_raw(ready.pid), Signal::SIGKILL).unwrap();
        refused(
            &promoting.wait(LIMIT),
            3,
            "was stopped before it was promoted",
        );
        drop(load);
        ready = clone.up();
        let rounds = pg.psql(
            ready.conninfo(),
            "bench",
            "select count(*) from acknowledged",
        );
        assert_eq!(rounds, round.to_string());
        assert_eq!(pg.imbalance(ready.conninfo(), "bench"), "0|0");
    }
    let before = answers(&pg, ready.conninfo());
    let sums = pg.psql(
        ready.conninfo(),
        "bench",
        "select count(*), sum(delta) from pgbench_history",
    );
    done(promote_to(&clone, &to, &["--at-once"]));
    let server = start_on(&pg, &to);
    assert_eq!(answers(&pg, &server.conninfo), before);
    let after = pg.psql(
        &server.conninfo,
        "bench",
        "select count(*), sum(delta) from pgbench_history",
    );
    assert_eq!(after, sums);
    assert_eq!(pg.imbalance(&server.conninfo, "bench"), "0|0");
    pg.amcheck(&server.conninfo);
}

#[test]
fn the_story_of_the_example_comes_true() {
    common::require_everything();
    let program = Path::new(env!("CARGO_BIN_EXE_pbkfs"));
    let path = std::env::var("PATH").unwrap();
    let path = format!("{}:{path}", program.parent().unwrap().display());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/instant-recovery/story.sh");
    let output = run(Command::new(script).env("PATH", path), LIMIT);
    let told = output.stderr.contains("production runs on");
    assert!(output.status.success() && told, "{output}");
}

#[test]
fn a_killed_cut_over_is_completed_or_undone() {
    let pg = common::require_everything();
    let sandbox = Sandbox::root("pg15-chain");
    let clone = sandbox.profile("latest").write();
    let ready = clone.up();
    pg.psql(ready.conninfo(), "shop", WRITES);
    let before = answers(&pg, ready.conninfo());
    let dir = sandbox.server_dir(&pg.user);
    let to = dir.join("data");
    hydrate(&clone, &to);
    clone.down();

    let staged = dir.join(".data.pbkfs-part");
    let moments: [&dyn Fn() -> bool; 4] = [
        &|| staged.exists(),
        &|| staged.join("base").exists(),
        &|| {
            staged
                .join("base/1")
                .read_dir()
                .is_ok_and(|dir| dir.count() > 100)
        },
        &|| to.exists(),
    ];
    let (mut undone, mut interrupted) = (0, 0);
    for moment in moments {
        let mut running = Running::spawn(clone.command("promote", &["--to"]).arg(&to));
        while !moment() && !running.has_ended() {
            std::thread::yield_now();
        }
        running.signal(Signal::SIGKILL);
        running.wait(LIMIT);
        let up = clone.pbkfs("up", &["--detach"]);
        if up.code() == Some(0) {
            clone.down();
            continue;
        }
        if to.exists() {
            // It was complete but for the record.
            break;
        }
        interrupted += 1;
        refused(&up, 5, "was interrupted");
        clone.pbkfs("promote", &["--abandon"]).expect_ok();
        undone += 1;
        assert!(sandbox.leftovers(&to).is_empty());
        let ready = clone.up();
        assert_eq!(answers(&pg, ready.conninfo()), before);
        clone.down();
    }
    println!("{interrupted} were interrupted, {undone} undone");
    assert!(undone > 0, "no moment was hit");
    done(promote_to(&clone, &to, &[]));
    assert!(sandbox.leftovers(&to).is_empty());
    assert_whole(&pg, &to, &before);
}
