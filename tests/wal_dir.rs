//! The server's WAL bypasses the mount and goes directly into the diff. The diff is
//! nevertheless kept, reported, moved, copied and cleaned up as a whole.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use common::session::LIMIT;
use common::{Listing, OsUser, Sandbox, TestClone, assert_nothing_stays, eventually, refused, run};

/// Returns the target of the clone's `pg_wal` link; `None` if it is a directory.
fn wal_link(clone: &TestClone<'_>) -> Option<PathBuf> {
    fs::read_link(clone.target.join("pg_wal")).ok()
}

fn wal_dir(diff: &Path) -> PathBuf {
    diff.join(".pbkfs-wal")
}

fn the_wal_is_kept_with_the_diff(user: OsUser) {
    let pg = common::require_everything();
    let sandbox = Sandbox::new("pg15-debian", user.clone());
    let catalog = Listing::of(&sandbox.fixture.catalog);
    let clone = sandbox.profile("latest").write();
    let diff = clone.diff.clone().unwrap();
    let ready = clone.up();
    let sql = |sql: &str| pg.psql(ready.conninfo(), "postgres", sql);
    sql("create table kept as select 1 as one");
    // Through the link, from inside the fence and from outside.
    let inside = sql("select count(*) > 0 from pg_ls_waldir()");
    assert_eq!(inside, "t");
    let mut link = user.command("readlink");
    let link = run(link.arg(clone.target.join("pg_wal")), LIMIT).expect_ok();
    assert_eq!(Path::new(link.trim()), wal_dir(&diff));
    let told = clone.pbkfs("diff", &[]).expect_ok();
    assert!(told.contains("pg_wal/0000"), "{told}");
    assert!(!told.contains(".pbkfs-wal"), "{told}");
    clone.down();

    let offline = clone.pbkfs("diff", &[]).expect_ok();
    assert!(offline.contains("pg_wal/0000"), "{offline}");
    let ready = clone.up();
    let kept = pg.psql(ready.conninfo(), "postgres", "select one from kept");
    assert_eq!(kept, "1");
    clone.down();

    // A mount without a server shows the same WAL.
    let set = ["--detach", "--set", "postgres.launch=false"];
    clone.pbkfs("up", &set).expect_ok();
    let mut list = user.command("ls");
    let listed = run(list.arg(clone.target.join("pg_wal/")), LIMIT).expect_ok();
    assert!(listed.contains("archive_status"), "{listed}");
    clone.down();

    assert!(wal_dir(&diff).exists());
    let mut cleanup = sandbox.pbkfs();
    cleanup.arg("cleanup").arg("-d").arg(&diff).arg("--force");
    run(&mut cleanup, LIMIT).expect_ok();
    assert!(!wal_dir(&diff).exists());
    assert_nothing_stays(&sandbox);
    catalog.assert_unchanged(&sandbox.fixture.catalog);
}

#[test]
fn the_wal_is_kept_with_the_diff_of_root() {
    the_wal_is_kept_with_the_diff(OsUser::root());
}

#[test]
fn the_wal_is_kept_with_the_diff_of_a_user() {
    the_wal_is_kept_with_the_diff(OsUser::postgres());
}

#[test]
fn a_copied_diff_has_a_wal_of_its_own() {
    let pg = common::require_everything();
    let sandbox = Sandbox::root("pg15-debian");
    let first = sandbox.profile("latest").write();
    let ready = first.up();
    let sql = "create table of_both as select 1 as one";
    pg.psql(ready.conninfo(), "postgres", sql);
    first.down();
    let diff = first.diff.clone().unwrap();
    let copied = sandbox.path("copied.diff");
    let mut copy = Command::new("cp");
    run(copy.arg("-a").arg(&diff).arg(&copied), LIMIT).expect_ok();

    let before = Listing::of(&wal_dir(&diff));
    let second = sandbox.profile_named("copy", "latest").diff_at(&copied);
    let second = second.write();
    let ready = second.up();
    assert_eq!(wal_link(&second), Some(wal_dir(&copied)));
    let sql = "create table of_one as select one from of_both; checkpoint";
    pg.psql(ready.conninfo(), "postgres", sql);
    second.down();
    before.assert_unchanged(&wal_dir(&diff));

    let ready = first.up();
    assert_eq!(wal_link(&first), Some(wal_dir(&diff)));
    let sql = "select one, to_regclass('of_one') is null from of_both";
    assert_eq!(pg.psql(ready.conninfo(), "postgres", sql), "1|t");
    first.down();
    assert_nothing_stays(&sandbox);
}

#[test]
fn without_namespaces_the_servers_user_is_let_in_if_it_can_be() {
    let pg = common::require_everything();
    let sandbox = Sandbox::root("pg15-debian");
    let clone = sandbox.profile("latest").write();
    let diff = clone.diff.clone().unwrap();
    clone.up();
    clone.down();
    let settings = ["--detach", "--json", "--set", "fence.level=settings"];
    let ready = clone.up_with(&settings[2..]);
    assert_eq!(wal_link(&clone), Some(wal_dir(&diff)));
    pg.psql(ready.conninfo(), "postgres", "create table let_in()");
    clone.down();
    // The data stays root's.
    let data = fs::metadata(diff.join("data")).unwrap();
    assert_eq!(data.permissions().mode() & 0o777, 0o700);

    let closed = sandbox.path("closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, PermissionsExt::from_mode(0o700)).unwrap();
    let hidden = sandbox
        .profile_named("hidden", "latest")
        .diff_at(closed.join("diff"))
        .write();
    let ready = hidden.up_with(&settings[2..]);
    assert_eq!(wal_link(&hidden), None, "it is written through the mount");
    pg.psql(ready.conninfo(), "postgres", "create table kept()");
    hidden.down();
    // The WAL written there is moved as soon as possible.
    let ready = hidden.up();
    assert_eq!(wal_link(&hidden), Some(wal_dir(&closed.join("diff"))));
    let found = "select to_regclass('kept') is not null";
    assert_eq!(pg.psql(ready.conninfo(), "postgres", found), "t");
    hidden.down();
    refused(
        &hidden.pbkfs("up", &settings),
        7,
        "cannot reach without namespaces",
    );
    assert_nothing_stays(&sandbox);
}

/// The link is authoritative: a directory left by a crash before the link was created
/// is removed, and a link without its directory is reported.
#[test]
fn a_directory_without_its_link_and_a_link_without_its_directory() {
    let pg = common::require_everything();
    let sandbox = Sandbox::root("pg15-debian");
    let clone = sandbox.profile("latest").write();
    let diff = clone.diff.clone().unwrap();
    let mount_only = ["--detach", "--json", "--set", "postgres.launch=false"];
    clone.up_with(&mount_only[2..]);
    clone.down();
    assert_eq!(wal_link(&clone), None);
    let half = wal_dir(&diff);
    fs::create_dir_all(half.join("archive_status")).unwrap();
    fs::write(half.join("000000010000000000000001"), "half a copy").unwrap();
    let ready = clone.up();
    assert_eq!(wal_link(&clone), Some(half.clone()));
    let intact = "select bool_and(size > 100000) from pg_ls_waldir()";
    assert_eq!(pg.psql(ready.conninfo(), "postgres", intact), "t");
    clone.down();

    // As in a copy that did not preserve owners.
    OsUser::root().own(&half);
    refused(&clone.pbkfs("up", &["--detach"]), 7, "cp -a");
    OsUser::postgres().own(&half);
    clone.up();
    clone.down();
    fs::rename(&half, sandbox.path("away")).unwrap();
    refused(&clone.pbkfs("up", &["--detach"]), 7, "does not exist");
    fs::rename(sandbox.path("away"), &half).unwrap();
    clone.up();
    clone.down();
    assert_nothing_stays(&sandbox);
}

/// The fenced server sees only its WAL of the diff.
#[test]
fn the_server_sees_no_more_of_the_diff() {
    let pg = common::require_everything();
    for user in [OsUser::root(), OsUser::postgres()] {
        let sandbox = Sandbox::new("pg15-debian", user);
        let clone = sandbox.profile("latest").write();
        let diff = clone.diff.clone().unwrap();
        let ready = clone.up();
        let seen = format!(
            "select string_agg(f, ',') from pg_ls_dir('{}') f",
            diff.display()
        );
        assert_eq!(pg.psql(ready.conninfo(), "postgres", &seen), ".pbkfs-wal");
        clone.down();
        assert_nothing_stays(&sandbox);
    }
}

/// The kernel accepts the server's writes, and learns only later that there is no
/// space for them.
fn a_full_disk_ends_the_clone(user: OsUser) {
    let pg = common::require_everything();
    let sandbox = Sandbox::new("pg15-debian", user.clone());
    let tmpfs = sandbox.small_disk("96m");
    let clone = sandbox.profile("latest").diff_at(tmpfs.path().join("diff"));
    let clone = clone.write();
    let ready = clone.up();
    let sql = |sql: &str| pg.try_psql(ready.conninfo(), "postgres", sql);
    sql("create table committed as select 1 as one").expect_ok();
    // Unlogged, so that the WAL does not fill the disk.
    sql("create unlogged table filler as \
         select g, repeat('x', 500) from generate_series(1, 400000) g");
    eventually("the session has failed and reports why", LIMIT, || {
        sql("checkpoint");
        let status = clone.pbkfs("status", &[]);
        status.stdout.contains("free some space")
    });
    clone.down();

    tmpfs.resize("512m");
    let ready = clone.up();
    let answer = pg.psql(ready.conninfo(), "postgres", "select one from committed");
    assert_eq!(answer, "1");
    for expectation in sandbox.fixture.expectations(&ready.backup) {
        let answer = pg.psql(ready.conninfo(), &expectation.db, &expectation.sql);
        assert_eq!(answer, expectation.answer);
    }
    clone.down();
    drop(tmpfs);
    assert_nothing_stays(&sandbox);
}

#[test]
fn a_full_disk_ends_the_clone_of_root() {
    a_full_disk_ends_the_clone(OsUser::root());
}

#[test]
fn a_full_disk_ends_the_clone_of_a_user() {
    a_full_disk_ends_the_clone(OsUser::postgres());
}

/// Its server does not sync, so it would never notice.
#[test]
fn a_full_disk_ends_a_throw_away_clone() {
    let pg = common::require_everything();
    let sandbox = Sandbox::root("pg15-debian");
    let tmpfs = sandbox.small_disk("96m");
    let clone = sandbox
        .profile("latest")
        .throw_away()
        .target_at(tmpfs.path().join("clone"))
        .write();
    let (running, ready) = clone.up_in_foreground();
    let output = pg.try_psql(
        ready.conninfo(),
        "postgres",
        "create unlogged table filler as \
         select g, repeat('x', 500) from generate_series(1, 400000) g",
    );
    let ended = running.wait(LIMIT + Duration::from_secs(60));
    assert_eq!(ended.code(), Some(3), "{ended}\n{output}");
    assert!(ended.stderr.contains("a write to"), "{ended}");
    drop(tmpfs);
    assert_nothing_stays(&sandbox);
}

/// There is no space for the WAL itself: PostgreSQL exits on its own.
#[test]
fn a_full_disk_under_the_wal_loses_nothing() {
    let pg = common::require_everything();
    let sandbox = Sandbox::root("pg15-debian");
    let tmpfs = sandbox.small_disk("96m");
    let clone = sandbox.profile("latest").diff_at(tmpfs.path().join("diff"));
    let clone = clone.write();
    let (running, ready) = clone.up_in_foreground();
    let sql = |sql: &str| pg.try_psql(ready.conninfo(), "postgres", sql);
    sql("create table committed as select 1 as one").expect_ok();
    let filled = sql("create table filler as \
         select g, repeat('x', 500) from generate_series(1, 400000) g");
    assert!(!filled.status.success(), "{filled}");
    let ended = running.wait(LIMIT + Duration::from_secs(60));
    let told = ["No space left on device", "a write to"];
    assert!(matches!(ended.code(), Some(3 | 7)), "{ended}");
    assert!(
        told.iter().any(|what| ended.stderr.contains(what)),
        "{ended}"
    );
    tmpfs.resize("512m");
    let ready = clone.up();
    let answer = pg.psql(ready.conninfo(), "postgres", "select one from committed");
    assert_eq!(answer, "1");
    clone.down();
    drop(tmpfs);
    assert_nothing_stays(&sandbox);
}
