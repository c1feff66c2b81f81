//! Every backup of every bundled catalog, when mounted, shows exactly what
//! `pg_probackup restore` wrote, while the catalog does not change except for the
//! lock that restore also takes.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::fs;

use common::{FIXTURES, Listing, Manifest, OsUser, Sandbox, TestClone, assert_nothing_stays};

/// Mounts each backup of the fixture as `user`, one after the other.
fn matches_restore(fixture: &str, user: OsUser) {
    common::require_everything();
    let sandbox = Sandbox::new(fixture, user);
    let catalog = Listing::of(&sandbox.fixture.catalog);
    let backups = sandbox.fixture.backups().into_iter();
    for backup in backups.filter(|backup| sandbox.fixture.is_restored_whole(&backup.id)) {
        let clone = sandbox
            .profile(&backup.id)
            .throw_away()
            .mount_only()
            .write();
        let ready = clone.up();
        assert_eq!(ready.backup, backup.id);
        assert_eq!(ready.target, clone.target);
        assert!(ready.conninfo.is_none(), "no server was requested");
        assert_chain_is_locked(&clone, &backup.id);

        let wanted = sandbox.fixture.manifest(&backup.id);
        let found = Manifest::walk(&clone.target, &sandbox.user).without("postgresql.auto.conf");
        wanted.assert_same(&found, &format!("{fixture} {}", backup.id));

        clone.down();
        assert!(
            !clone.target.exists(),
            "up created the mount point, so down removes it"
        );
        assert_nothing_stays(&sandbox);
    }
    catalog.assert_unchanged(&sandbox.fixture.catalog);
}

/// Each member's `backup_ro.pid` must name a process that is visible to pg_probackup
/// when the catalog's owner runs it: it fails on one that it may not signal.
#[track_caller]
fn assert_chain_is_locked(clone: &TestClone<'_>, backup: &str) {
    let fixture = &clone.sandbox.fixture;
    for member in fixture.chain(backup) {
        let lock = fixture.backup_dir(&member).join("backup_ro.pid");
        let text = fs::read_to_string(&lock)
            .unwrap_or_else(|error| panic!("{member} is not locked for reading: {error}"));
        let pids: Vec<i32> = text.lines().map(|line| line.parse().unwrap()).collect();
        assert_eq!(pids.len(), 1, "one reader in {}: {text:?}", lock.display());

        let mut signal = fixture.owner.command("sh");
        signal.args(["-c", "kill -0 \"$1\"", "sh", &pids[0].to_string()]);
        common::run(&mut signal, common::session::LIMIT).expect_ok();
        assert!(common::process::is_alive(pids[0]));
        assert!(!fixture.backup_dir(&member).join("backup.pid").exists());
    }
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
fn pg15_debian_as_root() {
    matches_restore("pg15-debian", OsUser::root());
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
fn pg15_hazards_as_postgres() {
    matches_restore("pg15-hazards", OsUser::postgres());
}

#[test]
fn pg17_chain_as_root() {
    matches_restore("pg17-chain", OsUser::root());
}

#[test]
fn pg17_chain_as_postgres() {
    matches_restore("pg17-chain", OsUser::postgres());
}

#[test]
fn pg15_old_as_root() {
    matches_restore("pg15-old", OsUser::root());
}

#[test]
fn pg15_ptrack_as_root() {
    matches_restore("pg15-ptrack", OsUser::root());
}

#[test]
fn pg15_ptrack_as_postgres() {
    matches_restore("pg15-ptrack", OsUser::postgres());
}

#[test]
fn pg18_chain_as_root() {
    matches_restore("pg18-chain", OsUser::root());
}

/// The tests above name each fixture explicitly, so that they can run in parallel.
#[test]
fn twenty_six_backups_are_covered() {
    let root = OsUser::root();
    let count: usize = FIXTURES
        .iter()
        .map(|name| {
            let dir = tempfile::tempdir().unwrap();
            let fixture = common::Fixture::unpack(name, dir.path(), &root);
            let backups = fixture.backups().into_iter();
            backups
                .filter(|backup| fixture.is_restored_whole(&backup.id))
                .count()
        })
        .sum();
    assert_eq!(count, 26);
}

/// The usual case in production: root mounts, and another user owns the catalog.
#[test]
fn root_holds_the_lock_as_the_owner_of_the_catalog() {
    common::require_everything();
    let owner = OsUser::postgres();
    let sandbox = Sandbox::with_catalog_of(&owner, "pg15-debian", OsUser::root());
    let catalog = Listing::of(&sandbox.fixture.catalog);
    let backup = sandbox.fixture.newest();
    let clone = sandbox.profile(&backup).mount_only().write();
    clone.up();
    assert_chain_is_locked(&clone, &backup);
    clone.down();
    assert_nothing_stays(&sandbox);
    catalog.assert_unchanged(&sandbox.fixture.catalog);
}

/// `latest` is the newest backup, and the lock can be turned off.
#[test]
fn latest_without_a_lock() {
    common::require_everything();
    let sandbox = Sandbox::root("pg15-debian");
    let clone = sandbox
        .profile("latest")
        .with("lock_backups", "false")
        .mount_only()
        .write();
    let newest = sandbox.fixture.newest();
    assert_eq!(clone.up().backup, newest);
    assert!(
        !sandbox
            .fixture
            .backup_dir(&newest)
            .join("backup_ro.pid")
            .exists()
    );
    clone.down();
    assert_nothing_stays(&sandbox);
}
