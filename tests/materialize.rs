//! `pbkfs materialize`: the directory is what pg_probackup's restore writes, and exists
//! completely or not at all.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::fixture::flip_byte;
use common::{
    Listing, Manifest, OsUser, Output, PgTools, Running, Sandbox, TestClone, assert_nothing_stays,
    eventually, recovery, refused, run,
};
use nix::sys::signal::Signal;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(120);

fn materialize(clone: &TestClone<'_>, to: &Path, arguments: &[&str]) -> Output {
    let mut command = clone.command("materialize", &["--json", "--to"]);
    command.arg(to).args(arguments);
    run(&mut command, LIMIT)
}

#[track_caller]
fn done(output: Output) -> Value {
    serde_json::from_str(&output.expect_ok()).unwrap()
}

#[track_caller]
fn assert_as_restored(sandbox: &Sandbox, backup: &str, to: &Path, owner: &OsUser) {
    let found = Manifest::walk(to, owner)
        .without("postgresql.auto.conf")
        .without("recovery.signal");
    sandbox.fixture.manifest(backup).assert_same(&found, backup);
}

/// Kills a materialization to `to` as soon as it has come so far.
fn kill_when(clone: &TestClone<'_>, to: &Path, mut is_so_far: impl FnMut() -> bool) {
    let mut command = clone.command("materialize", &["--json", "--jobs", "1", "--to"]);
    let mut running = Running::spawn(command.arg(to));
    eventually("it has come so far", LIMIT, || {
        assert!(!running.has_ended(), "it was faster than this test");
        is_so_far()
    });
    running.signal(Signal::SIGKILL);
    running.wait(LIMIT);
}

/// Materializes each backup of the fixture as `user`, one after the other.
fn matches_restore(fixture: &str, user: OsUser) {
    common::require_everything();
    let sandbox = Sandbox::new(fixture, user);
    let catalog = Listing::of(&sandbox.fixture.catalog);
    let owner = OsUser::postgres();
    for backup in sandbox.fixture.backups() {
        if !sandbox.fixture.is_restored_whole(&backup.id) {
            continue;
        }
        let clone = sandbox.profile(&backup.id).throw_away().write();
        let to = sandbox.path(&format!("data-{}", backup.id));
        let told = done(materialize(&clone, &to, &["--no-sync"]));
        assert_eq!(told["backup"], backup.id);
        assert_eq!(told["recovers"], !backup.stream);
        assert_as_restored(&sandbox, &backup.id, &to, &owner);

        let root = fs::metadata(&to).unwrap();
        assert_eq!(
            root.uid(),
            owner.uid,
            "PostgreSQL requires that it owns PGDATA"
        );
        assert_eq!(to.join("recovery.signal").exists(), !backup.stream);
        let conf = fs::read_to_string(to.join("postgresql.auto.conf")).unwrap();
        assert!(conf.contains(&format!("of backup {}", backup.id)), "{conf}");
        assert_eq!(
            conf.contains("\nrestore_command = "),
            !backup.stream,
            "{conf}"
        );
        assert_eq!(sandbox.leftovers(&to), [""; 0].map(PathBuf::from));
    }
    catalog.assert_unchanged(&sandbox.fixture.catalog);
    assert_nothing_stays(&sandbox);
}

#[test]
fn pg15_chain_as_root() {
    matches_restore("pg15-chain", OsUser::root());
}

#[test]
fn pg15_chain_as_postgres() {
    matches_restore("pg15-chain", OsUser::postgres());
}

#[test]
fn pg15_debian_as_postgres() {
    matches_restore("pg15-debian", OsUser::postgres());
}

#[test]
fn pg15_hazards_as_root() {
    matches_restore("pg15-hazards", OsUser::root());
}

#[test]
fn pg15_old_as_root() {
    matches_restore("pg15-old", OsUser::root());
}

#[test]
fn pg15_ptrack_as_postgres() {
    matches_restore("pg15-ptrack", OsUser::postgres());
}

#[test]
fn pg17_chain_as_root() {
    matches_restore("pg17-chain", OsUser::root());
}

#[test]
fn pg18_chain_as_postgres() {
    matches_restore("pg18-chain", OsUser::postgres());
}

/// Starts the server of that version on the newest STREAM backup, with pbkfs out of the
/// way, and compares its answers with the live cluster's.
fn a_server_answers(fixture: &str, server: &PgTools) {
    let pg = common::require_everything();
    let sandbox = Sandbox::root(fixture);
    let backups = sandbox.fixture.backups();
    let backup = backups.iter().rfind(|backup| backup.stream).unwrap();
    let clone = sandbox.profile(&backup.id).throw_away().write();
    let dir = sandbox.server_dir(&pg.user);
    let to = dir.join("data");
    done(materialize(&clone, &to, &[]));
    // Production's configuration must not archive into production's archive.
    let mut conf = fs::read_to_string(to.join("postgresql.auto.conf")).unwrap();
    conf += "archive_mode = off\n";
    fs::write(to.join("postgresql.auto.conf"), conf).unwrap();
    let running = server.start_on(&to, &dir);
    for expectation in sandbox.fixture.expectations(&backup.id) {
        let answer = pg.psql(&running.conninfo, &expectation.db, &expectation.sql);
        assert_eq!(answer, expectation.answer, "{expectation:?}");
    }
    if server.bin == pg.bin {
        pg.amcheck(&running.conninfo);
        pg.stop(&to);
        drop(running);
        pg.checksums(&to);
    }
}

#[test]
fn postgresql_15_answers() {
    a_server_answers("pg15-chain", &common::require_everything());
}

#[test]
fn postgresql_17_answers() {
    let bin = common::require_server("17");
    let user = OsUser::postgres();
    a_server_answers("pg17-chain", &PgTools { bin, user });
}

#[test]
fn postgresql_18_answers() {
    let bin = common::require_server("18");
    let user = OsUser::postgres();
    a_server_answers("pg18-chain", &PgTools { bin, user });
}

#[test]
fn a_target_in_the_archive_is_reached() {
    let pg = common::require_everything();
    let sandbox = recovery::sandbox();
    let [_, point, _] = recovery::points(&sandbox);
    let clone = sandbox.profile(recovery::BACKUP).throw_away().write();
    let dir = sandbox.server_dir(&pg.user);
    let to = dir.join("data");
    let target = format!("recovery.name={}", point.name);
    let told = done(materialize(&clone, &to, &["--set", &target]));
    assert_eq!(told["recovers"], true);
    let conf = fs::read_to_string(to.join("postgresql.auto.conf")).unwrap();
    let name = format!("recovery_target_name = '{}'\n", point.name);
    assert!(conf.contains(&name), "{conf}");
    let server = pg.start_on(&to, &dir);
    eventually("the server has promoted", LIMIT, || {
        pg.psql(&server.conninfo, "postgres", "select pg_is_in_recovery()") == "f"
    });
    recovery::assert_at(&pg, &server.conninfo, &point);
}

#[test]
fn what_a_kill_left_is_continued() {
    common::require_everything();
    let sandbox = Sandbox::root("pg15-chain");
    let backup = sandbox.fixture.newest();
    let clone = sandbox.profile(&backup).throw_away().write();
    let to = sandbox.path("data");
    let journal = to.with_file_name(".data.pbkfs-part.journal");
    kill_when(&clone, &to, || {
        fs::read_to_string(&journal).is_ok_and(|text| text.lines().count() > 100)
    });
    assert!(!to.exists());
    assert_eq!(sandbox.leftovers(&to).len(), 2);

    let told = done(materialize(&clone, &to, &[]));
    assert!(told["resumed_files"].as_u64().unwrap() >= 100, "{told}");
    assert_as_restored(&sandbox, &backup, &to, &OsUser::postgres());
    assert_eq!(sandbox.leftovers(&to).len(), 0);
    assert_nothing_stays(&sandbox);
}

#[test]
fn what_a_kill_left_of_another_backup_is_replaced() {
    common::require_everything();
    let sandbox = Sandbox::root("pg15-chain");
    let backups = sandbox.fixture.backups();
    let to = sandbox.path("data");
    let first = sandbox.profile(&backups[0].id).throw_away().write();
    let staged = to.with_file_name(".data.pbkfs-part");
    kill_when(&first, &to, || staged.join("base").exists());
    let newest = sandbox.fixture.newest();
    let other = sandbox.profile_named("other", &newest).throw_away().write();
    let told = done(materialize(&other, &to, &[]));
    assert_eq!(told["resumed_files"], 0);
    assert_as_restored(&sandbox, &newest, &to, &OsUser::postgres());
    assert_eq!(sandbox.leftovers(&to).len(), 0);
}

#[test]
fn a_damaged_backup_is_no_directory() {
    common::require_everything();
    let sandbox = Sandbox::root("pg15-debian");
    let backup = sandbox.fixture.newest();
    let clone = sandbox.profile(&backup).throw_away().write();
    let file = sandbox.fixture.largest_data_file(&backup);
    let middle = fs::metadata(&file.path).unwrap().len() / 2;
    flip_byte(&file.path, middle);
    let to = sandbox.path("data");
    let output = materialize(&clone, &to, &[]);
    refused(&output, 4, "the backup is damaged");
    assert!(output.stderr.contains(&file.name), "{output}");
    assert!(!to.exists());
    // Repaired, it is continued.
    flip_byte(&file.path, middle);
    let told = done(materialize(&clone, &to, &[]));
    assert!(told["resumed_files"].as_u64().unwrap() > 100, "{told}");
    assert_as_restored(&sandbox, &backup, &to, &OsUser::postgres());
}

#[test]
fn what_is_in_the_way_is_left_alone() {
    common::require_everything();
    let sandbox = Sandbox::root("pg15-debian");
    let clone = sandbox.profile("latest").throw_away().write();
    let to = sandbox.path("data");
    fs::create_dir(&to).unwrap();
    fs::write(to.join("precious"), "x").unwrap();
    refused(&materialize(&clone, &to, &[]), 2, "exists and is not empty");
    assert_eq!(fs::read(to.join("precious")).unwrap(), b"x");

    let file = sandbox.path("file");
    fs::write(&file, "x").unwrap();
    refused(&materialize(&clone, &file, &[]), 2, "is not a directory");
    let link = sandbox.path("link");
    symlink(&to, &link).unwrap();
    refused(&materialize(&clone, &link, &[]), 2, "is not a directory");
    for refused in [&to, &file, &link] {
        assert_eq!(sandbox.leftovers(refused).len(), 0);
    }

    let staged = sandbox.path(".other.pbkfs-part");
    fs::create_dir(&staged).unwrap();
    fs::write(staged.join("precious"), "x").unwrap();
    let other = sandbox.path("other");
    refused(&materialize(&clone, &other, &[]), 2, "is in the way");
    assert_eq!(fs::read(staged.join("precious")).unwrap(), b"x");

    let disk = sandbox.small_disk("64M");
    refused(
        &materialize(&clone, disk.path(), &[]),
        2,
        "is a mount point",
    );
    let nowhere = sandbox.path("nowhere/data");
    refused(&materialize(&clone, &nowhere, &[]), 3, "No such file");

    // An empty directory is replaced.
    let empty = sandbox.path("empty");
    fs::create_dir(&empty).unwrap();
    done(materialize(&clone, &empty, &[]));
    assert!(empty.join("PG_VERSION").exists());
}

#[test]
fn a_full_disk_is_told_before_anything_is_written() {
    common::require_everything();
    let sandbox = Sandbox::root("pg15-chain");
    let clone = sandbox.profile("latest").throw_away().write();
    let disk = sandbox.small_disk("16M");
    let to = disk.path().join("data");
    refused(&materialize(&clone, &to, &[]), 3, "are needed and");
    assert!(!to.exists());
    assert_eq!(sandbox.leftovers(&to).len(), 0);
    disk.resize("300M");
    let tablespace = "/srv/fixture/pg15-chain/ts_fast";
    let mapping = format!("{tablespace}={}", disk.path().join("fast").display());
    let told = done(materialize(&clone, &to, &["-T", &mapping]));
    assert_eq!(told["tablespaces"][0]["old"], tablespace);
    let link = fs::read_link(
        to.join("pg_tblspc")
            .join(told["tablespaces"][0]["oid"].to_string()),
    );
    assert_eq!(link.unwrap(), disk.path().join("fast"));
    assert!(fs::read_dir(disk.path().join("fast")).unwrap().count() > 0);
}

#[test]
fn a_mapping_must_fit_the_backup() {
    common::require_everything();
    let sandbox = Sandbox::root("pg15-chain");
    let clone = sandbox.profile("latest").throw_away().write();
    let to = sandbox.path("data");
    let unknown = materialize(&clone, &to, &["-T", "/nowhere=/srv/x"]);
    refused(
        &unknown,
        2,
        "has no tablespace in /nowhere; it has /srv/fixture",
    );
    let inside = format!(
        "/srv/fixture/pg15-chain/ts_fast={}",
        to.join("ts").display()
    );
    let inside = materialize(&clone, &to, &["-T", &inside]);
    refused(&inside, 2, "would contain each other");
    assert!(!to.exists());
    assert_eq!(sandbox.leftovers(&to).len(), 0);
}

/// The answers by which two servers are compared.
fn answers(pg: &PgTools, conninfo: &str) -> Vec<String> {
    [
        "select count(*), sum(abalance) from pgbench_accounts",
        "select count(*), sum(i), max(t) from written",
        "select count(*), min(t) from elsewhere",
        "select count(*) from pg_class",
        // After a crash, a sequence skips the numbers that it had logged ahead.
        "select last_value >= 9, is_called from numbers",
    ]
    .map(|sql| pg.psql(conninfo, "shop", sql))
    .to_vec()
}

const WRITES: &str = "create sequence numbers; select nextval('numbers') from generate_series(1, 9); \
    create table written as select i, repeat('x', i % 900) as t from generate_series(1, 20000) i; \
    create index on written (i); delete from written where i % 7 = 0; \
    create table elsewhere tablespace ts_fast as select 'y' || i as t from generate_series(1, 999) i; \
    update pgbench_accounts set abalance = abalance + aid where aid % 3 = 0";

fn becomes_what_the_clone_was(user: OsUser, is_killed: bool) {
    let pg = common::require_everything();
    let sandbox = Sandbox::with_catalog_of(&OsUser::postgres(), "pg15-chain", user);
    let backup = sandbox.fixture.newest();
    let clone = sandbox.profile(&backup).write();
    let before = if is_killed {
        let (running, ready) = clone.up_in_foreground();
        pg.psql(ready.conninfo(), "shop", WRITES);
        let before = answers(&pg, ready.conninfo());
        running.signal(Signal::SIGKILL);
        running.wait(LIMIT);
        // It clears up, and leaves the diff as the kill did.
        clone.pbkfs("down", &[]).expect_ok();
        before
    } else {
        let ready = clone.up();
        pg.psql(ready.conninfo(), "shop", WRITES);
        let before = answers(&pg, ready.conninfo());
        let dir = sandbox.path("early");
        refused(&materialize(&clone, &dir, &[]), 5, "in use");
        assert_eq!(sandbox.leftovers(&dir).len(), 0);
        clone.down();
        before
    };
    let dir = sandbox.server_dir(&pg.user);
    let to = dir.join("data");
    // An unprivileged user writes where that user may.
    let told = done(materialize(&clone, &to, &[]));
    assert_eq!(told["diff"], clone.diff.as_ref().unwrap().to_str().unwrap());
    assert_eq!(told["recovers"], false);
    assert!(to.join("pg_wal").symlink_metadata().unwrap().is_dir());
    let server = pg.start_on(&to, &dir);
    assert_eq!(answers(&pg, &server.conninfo), before);
    pg.amcheck(&server.conninfo);
    pg.stop(&to);
    drop(server);
    pg.checksums(&to);

    let again = dir.join("again");
    let at = materialize(&clone, &again, &["--at", "2026-11-22 08:00:00+00"]);
    refused(&at, 2, "--at also needs --from-backup");
    let plain = sandbox.path("plain");
    let told = done(materialize(&clone, &plain, &["--from-backup"]));
    assert_eq!(told["diff"], Value::Null);
    assert_as_restored(&sandbox, &backup, &plain, &OsUser::postgres());
    assert_nothing_stays(&sandbox);
}

#[test]
fn a_kept_diff_becomes_a_directory_for_root() {
    becomes_what_the_clone_was(OsUser::root(), false);
}

#[test]
fn a_kept_diff_becomes_a_directory_for_postgres() {
    becomes_what_the_clone_was(OsUser::postgres(), false);
}

#[test]
fn a_killed_clone_becomes_a_directory() {
    becomes_what_the_clone_was(OsUser::root(), true);
}
