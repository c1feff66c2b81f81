//! `up` starts a real PostgreSQL on every backup. It answers as the live cluster did,
//! takes and keeps every kind of write, and stays undamaged.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::path::Path;

use common::postgres::LIMIT;
use common::{Listing, OsUser, PgTools, Sandbox, assert_nothing_stays, refused, run};

/// Starts a clone of each backup of the fixture, and runs the queries of its oracle.
fn answers(fixture: &str, user: OsUser) {
    let pg = common::require_everything();
    let sandbox = Sandbox::new(fixture, user);
    let catalog = Listing::of(&sandbox.fixture.catalog);
    let major = &fixture[2..4];
    for backup in sandbox.fixture.backups() {
        let mut profile = sandbox.profile(&backup.id).throw_away();
        if major != "15" {
            let bin_dir = common::require_server(major);
            profile = profile.postgres("bin_dir", &format!("{bin_dir:?}"));
        }
        let clone = profile.write();
        let ready = clone.up();
        let version = pg.psql(ready.conninfo(), "postgres", "show server_version");
        assert!(version.starts_with(major), "{version}");
        for expectation in sandbox.fixture.expectations(&backup.id) {
            let answer = pg.psql(ready.conninfo(), &expectation.db, &expectation.sql);
            assert_eq!(answer, expectation.answer, "{}: {expectation:?}", backup.id);
        }
        let tables = read_tablespace_tables(&pg, ready.conninfo());
        if ["pg15-chain", "pg15-hazards"].contains(&fixture) {
            assert!(
                tables > 0,
                "{fixture} {} keeps tables in a tablespace",
                backup.id
            );
        }
        let data_directory = pg.psql(ready.conninfo(), "postgres", "show data_directory");
        assert_eq!(data_directory, clone.target.to_str().unwrap());
        clone.down();
        assert_nothing_stays(&sandbox);
    }
    catalog.assert_unchanged(&sandbox.fixture.catalog);
}

/// Reads every table in a user-created tablespace to its end, and returns the number
/// of tables.
fn read_tablespace_tables(pg: &PgTools, conninfo: &str) -> usize {
    let databases = pg.psql(
        conninfo,
        "postgres",
        "select datname from pg_database where datallowconn",
    );
    let mut count = 0;
    for db in databases.lines() {
        // If a database is itself in a tablespace, its tables have reltablespace 0.
        let tables = pg.psql(
            conninfo,
            db,
            "select c.oid::regclass from pg_class c, pg_database d \
             where d.datname = current_database() and c.relkind in ('r', 'm') and c.oid >= 16384 \
             and (case c.reltablespace when 0 then d.dattablespace else c.reltablespace end) >= 16384",
        );
        for table in tables.lines() {
            pg.psql(
                conninfo,
                db,
                &format!("select count(t::text) from {table} t"),
            );
            count += 1;
        }
    }
    count
}

#[test]
fn pg15_chain_answers() {
    answers("pg15-chain", OsUser::root());
}

#[test]
fn pg15_debian_answers() {
    answers("pg15-debian", OsUser::root());
}

#[test]
fn pg15_hazards_answers() {
    answers("pg15-hazards", OsUser::root());
}

#[test]
fn pg17_chain_answers() {
    answers("pg17-chain", OsUser::root());
}

#[test]
fn pg15_old_answers_with_what_restore_loses() {
    answers("pg15-old", OsUser::root());
}

#[test]
fn pg15_ptrack_answers() {
    answers("pg15-ptrack", OsUser::root());
}

#[test]
fn pg18_chain_answers() {
    answers("pg18-chain", OsUser::root());
}

#[test]
fn pg15_debian_answers_to_an_ordinary_user() {
    answers("pg15-debian", OsUser::postgres());
}

#[test]
fn pg15_hazards_answers_to_an_ordinary_user() {
    answers("pg15-hazards", OsUser::postgres());
}

/// The queries run before and after a restart of the clone: they cover everything
/// that was written.
const WRITTEN: [(&str, &str); 5] = [
    (
        "bench",
        "select count(*), sum(abalance) from pgbench_accounts",
    ),
    ("bench", "select count(*), sum(delta) from pgbench_history"),
    (
        "bench",
        "select count(*), sum(hashtext(v)::bigint) from elsewhere",
    ),
    (
        "postgres",
        "select string_agg(datname, ',' order by datname) from pg_database",
    ),
    (
        "postgres",
        "select string_agg(spcname, ',' order by spcname) from pg_tablespace",
    ),
];

/// Writes in every way, checks, restarts the clone, and checks again.
fn takes_writes(fixture: &str, backup: &str, user: OsUser, has_checksums: bool) {
    let pg = common::require_everything();
    let sandbox = Sandbox::new(fixture, user);
    let catalog = Listing::of(&sandbox.fixture.catalog);
    // A location that only the clone has, because /tmp is its own.
    let name = sandbox.dir().file_name().unwrap().to_str().unwrap();
    let new_tablespace = Path::new("/tmp").join(format!("{name}-tablespace"));

    let clone = sandbox.profile(backup).write();
    let ready = clone.up();
    let make = format!(
        "copy (select 1) to program 'cat >/dev/null; mkdir -m 700 {}'",
        new_tablespace.display()
    );
    pg.psql(ready.conninfo(), "postgres", &make);
    write_everything(&pg, ready.conninfo(), new_tablespace.to_str().unwrap());
    pg.amcheck(ready.conninfo());
    let written = WRITTEN.map(|(db, sql)| pg.psql(ready.conninfo(), db, sql));
    clone.down();
    assert_nothing_stays(&sandbox);
    assert!(
        !new_tablespace.exists(),
        "a clone's tablespace keeps its files in the diff, not at its location"
    );

    if has_checksums {
        let stopped = sandbox.profile(backup).mount_only().write();
        stopped.up();
        pg.checksums(&stopped.target);
        stopped.down();
    }

    let clone = sandbox.profile(backup).write();
    let ready = clone.up();
    let found = WRITTEN.map(|(db, sql)| pg.psql(ready.conninfo(), db, sql));
    assert_eq!(
        found, written,
        "what was written is still there after down and up"
    );
    pg.amcheck(ready.conninfo());
    clone.down();
    assert_nothing_stays(&sandbox);
    catalog.assert_unchanged(&sandbox.fixture.catalog);
}

fn write_everything(pg: &PgTools, conninfo: &str, tablespace: &str) {
    let server = format!("--maintenance-db={conninfo}");
    // Nothing will finish these, and they hold locks that VACUUM FULL waits for.
    let prepared = pg.psql(
        conninfo,
        "postgres",
        "select database || ' ' || gid from pg_prepared_xacts",
    );
    for (db, gid) in prepared.lines().filter_map(|line| line.split_once(' ')) {
        pg.psql(conninfo, db, &format!("rollback prepared '{gid}'"));
    }

    pg.psql(conninfo, "postgres", "create database bench");
    pg.run(
        "pgbench",
        &["-iq", "-s2", &format!("{conninfo} dbname=bench")],
    )
    .expect_ok();
    run(&mut pg.pgbench(conninfo, "bench", 5), LIMIT).expect_ok();
    // If the backup contains pgbench's tables, its own pages are also changed.
    let databases = pg.psql(conninfo, "postgres", "select datname from pg_database");
    if databases.lines().any(|db| db == "shop") {
        run(&mut pg.pgbench(conninfo, "shop", 5), LIMIT).expect_ok();
        pg.psql(conninfo, "shop", "truncate pgbench_history");
    }

    for sql in [
        &format!("create tablespace outside location '{tablespace}'"),
        "create table elsewhere (v text) tablespace outside",
        "insert into elsewhere select md5(g::text) from generate_series(1, 5000) g",
        "create table passing as select * from pgbench_accounts",
        "truncate passing",
        "insert into passing select * from pgbench_accounts limit 1000",
        "delete from passing where aid > 100",
        "vacuum passing",
        "create database short_lived",
        "drop database short_lived",
        "vacuum",
        "checkpoint",
    ] {
        pg.psql(conninfo, "bench", sql);
    }
    pg.run("vacuumdb", &["--all", "--full", "--quiet", &server])
        .expect_ok();
    pg.run("reindexdb", &["--all", "--quiet", &server])
        .expect_ok();
}

#[test]
fn pg15_chain_takes_writes() {
    takes_writes("pg15-chain", "TOW7KQ", OsUser::root(), true);
}

#[test]
fn pg15_chain_with_a_prepared_transaction_takes_writes() {
    takes_writes("pg15-chain", "TOW7JV", OsUser::root(), true);
}

#[test]
fn pg15_debian_takes_writes() {
    takes_writes("pg15-debian", "TOW7P0", OsUser::root(), false);
}

#[test]
fn pg15_hazards_takes_writes_of_an_ordinary_user() {
    takes_writes("pg15-hazards", "TOW7GA", OsUser::postgres(), true);
}

#[test]
fn a_diff_belongs_to_one_backup() {
    common::require_everything();
    let sandbox = Sandbox::root("pg15-debian");
    let [full, delta]: [_; 2] = sandbox.fixture.backups().try_into().unwrap();
    let first = sandbox.profile(&full.id).mount_only().write();
    first.up();
    first.down();

    let second = sandbox.profile(&delta.id).mount_only().write();
    let output = second.pbkfs("up", &["--detach"]);
    refused(&output, 5, &full.id);
    refused(&output, 5, &delta.id);
    // The message suggests another directory.
    refused(&output, 5, "diff_dir");
    assert_nothing_stays(&sandbox);

    // The failure did no harm.
    let again = sandbox.profile(&full.id).mount_only().write();
    again.up();
    again.down();
}

/// The clone's own user takes a base backup. A server on it answers as the live
/// cluster did, including the tables in a tablespace.
fn base_backup(user: OsUser) {
    let pg = common::require_everything();
    let sandbox = Sandbox::new("pg15-chain", user);
    let backup = "TOW7KQ";
    let clone = sandbox.profile(backup).throw_away().write();
    let ready = clone.up();
    let conninfo = ready.conninfo();
    let copy = sandbox.path("copy");
    std::fs::create_dir(&copy).unwrap();
    pg.user.own(&copy);
    let list = "select oid, pg_tablespace_location(oid) from pg_tablespace where oid > 16383";
    let data = copy.join("data");
    let mut take = pg.command("pg_basebackup");
    take.args(["-d", conninfo, "-c", "fast", "-X", "stream", "-D"])
        .arg(&data);
    for line in pg.psql(conninfo, "postgres", list).lines() {
        let (oid, location) = line.split_once('|').unwrap();
        assert!(Path::new(location).starts_with(&clone.target), "{line}");
        let moved = copy.join(oid);
        take.arg(format!(
            "--tablespace-mapping={location}={}",
            moved.display()
        ));
    }
    run(&mut take, LIMIT).expect_ok();
    let expectations = sandbox.fixture.expectations(backup);
    clone.down();

    let server = pg.start_on(&data, &copy);
    for expectation in expectations {
        let answer = pg.psql(&server.conninfo, &expectation.db, &expectation.sql);
        assert_eq!(answer, expectation.answer, "{expectation:?}");
    }
    assert!(read_tablespace_tables(&pg, &server.conninfo) > 0);
    drop(server);
    assert_nothing_stays(&sandbox);
}

#[test]
fn a_base_backup_of_roots_clone_is_a_cluster() {
    base_backup(OsUser::root());
}

#[test]
fn a_base_backup_of_a_postgres_users_clone_is_a_cluster() {
    base_backup(OsUser::postgres());
}

/// The error is about the file that cannot be read, not about the profile.
#[test]
fn a_closed_file_of_the_backup_is_named() {
    common::require_everything();
    let sandbox = Sandbox::new("pg15-chain", OsUser::postgres());
    // The pg_class of the database that pbkfs connects to.
    let file = sandbox
        .fixture
        .backup_dir("TOW7KG")
        .join("database/base/5/1259");
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o000)).unwrap();
    let clone = sandbox.profile("TOW7KG").throw_away().write();
    let refused_up = clone.pbkfs("up", &["--detach"]);
    refused(&refused_up, 7, "base/5/1259");
    let headline = refused_up
        .stderr
        .lines()
        .find(|line| line.starts_with("pbkfs: "));
    let headline = headline.unwrap_or_else(|| panic!("{refused_up}"));
    assert!(headline.contains("base/5/1259"), "{refused_up}");
    assert!(!headline.contains("postgres.role"), "{refused_up}");
    assert!(
        refused_up.stderr.contains("Permission denied"),
        "{refused_up}"
    );
    assert_nothing_stays(&sandbox);
}
