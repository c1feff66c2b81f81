//! A clone of pg15-hazards runs and works beside the production server that its
//! configuration was written for, without any effect on production.
//!
//! The configuration in that backup reaches out: it archives to a directory, logs and
//! keeps a PID file elsewhere, and has a tablespace outside the data directory, all
//! by absolute paths. So production has to be at exactly those paths, below
//! /srv/fixture.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::postgres::LIMIT;
use common::production::{HOME, Production, TABLESPACE_OID};
use common::{Listing, PgTools, Sandbox, assert_nothing_stays, run};

#[test]
fn production_does_not_notice_a_working_clone() {
    let pg = common::require_everything();
    let sandbox = Sandbox::root("pg15-hazards");
    let catalog = Listing::of(&sandbox.fixture.catalog);
    let backup = sandbox.fixture.newest();
    let production = Production::start(&pg, &sandbox, &backup);
    let settings = ["archive_mode", "log_directory", "external_pid_file"]
        .map(|name| production.psql(&format!("show {name}")));
    assert_eq!(
        settings,
        [
            "on",
            &format!("{HOME}/log"),
            &format!("{HOME}/log/external.pid")
        ],
        "production runs with its own configuration"
    );
    // Production must actually archive, or an unchanged archive would prove nothing.
    production.psql("create table proof as select 1; select pg_switch_wal()");
    let archived = "select count(*) > 0 from pg_stat_archiver where archived_count > 0";
    common::eventually("production archives", LIMIT, || {
        production.psql(archived) == "t"
    });
    let before = production.at_rest(&["canary", "log", "ts_fast"]);

    let clone = sandbox.profile(&backup).write();
    let ready = clone.up();
    work(&pg, ready.conninfo());
    for (setting, wanted) in [
        ("archive_mode", "off"),
        ("archive_command", "(disabled)"),
        ("listen_addresses", ""),
        ("logging_collector", "off"),
        ("primary_conninfo", ""),
        ("data_directory", clone.target.to_str().unwrap()),
    ] {
        let found = pg.psql(ready.conninfo(), "postgres", &format!("show {setting}"));
        assert_eq!(found, wanted, "{setting}");
    }
    let pid_file = pg.psql(ready.conninfo(), "postgres", "show external_pid_file");
    assert!(!pid_file.starts_with(HOME), "{pid_file}");
    let dialling = "select count(*) from pg_stat_subscription where pid is not null";
    assert_eq!(pg.psql(ready.conninfo(), "postgres", dialling), "0");
    assert_ne!(pg.psql(ready.conninfo(), "postgres", "show port"), "5432");
    clone.down();
    assert_nothing_stays(&sandbox);

    for (path, listing) in &before {
        listing.assert_unchanged(path);
    }
    let proof = production.psql("select count(*) from proof");
    assert_eq!(proof, "1", "production still answers");
    assert_eq!(
        production.psql("select to_regclass('clones_own') is null"),
        "t"
    );
    catalog.assert_unchanged(&sandbox.fixture.catalog);
}

/// Does work that would be archived, logged and written to the tablespace without the
/// fence.
fn work(pg: &PgTools, conninfo: &str) {
    let tablespace = pg.psql(
        conninfo,
        "postgres",
        &format!("select spcname from pg_tablespace where oid = {TABLESPACE_OID}"),
    );
    for sql in [
        &format!(
            "create table clones_own tablespace {tablespace} as select generate_series(1, 20000) g"
        ),
        "update live set v = v || '!'",
        "select pg_switch_wal()",
        "create table more as select md5(g::text) from generate_series(1, 20000) g",
        "select pg_switch_wal()",
        "checkpoint",
    ] {
        pg.psql(conninfo, "postgres", sql);
    }
    // Something to log.
    assert!(
        !pg.try_psql(conninfo, "postgres", "select no_such_column")
            .status
            .success()
    );
    pg.psql(conninfo, "postgres", "create database bench");
    pg.run("pgbench", &["-iq", &format!("{conninfo} dbname=bench")])
        .expect_ok();
    run(&mut pg.pgbench(conninfo, "bench", 3), LIMIT).expect_ok();
}
