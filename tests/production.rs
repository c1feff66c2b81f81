//! A clone of pg15-hazards runs and works beside the production server that its
//! configuration was written for, and production does not notice.
//!
//! The configuration in that backup reaches out: it archives into a directory,
//! logs and keeps a pid file elsewhere, and has a tablespace outside the data
//! directory, all by absolute paths. So production has to stand at exactly those
//! paths, below /srv/fixture.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use common::postgres::LIMIT;
use common::{Listing, PgTools, Sandbox, assert_nothing_stays, run};

const HOME: &str = "/srv/fixture/pg15-hazards";
const TABLESPACE_OID: &str = "16384";

/// The live server. Stopped and removed when dropped.
struct Production<'a> {
    pg: &'a PgTools,
    conninfo: String,
    /// The part of the path that the test had to make, and so removes.
    made: PathBuf,
}

impl<'a> Production<'a> {
    /// Builds the live cluster from a mounted backup, and starts it.
    fn start(pg: &'a PgTools, sandbox: &Sandbox, backup: &str) -> Production<'a> {
        let home = Path::new(HOME);
        assert!(
            !home.exists(),
            "{HOME} exists already, and this test would use and remove it"
        );
        let made = home
            .ancestors()
            .take_while(|path| !path.exists())
            .last()
            .unwrap()
            .to_owned();
        fs::create_dir_all(home).unwrap();
        let port = free_port();
        let production = Production {
            pg,
            conninfo: format!("host={HOME}/sock port={port} user=postgres"),
            made,
        };

        copy_cluster(sandbox, backup, home);
        for name in ["canary", "log", "sock"] {
            fs::create_dir(home.join(name)).unwrap();
        }
        shell(&format!(
            "chown -R postgres: {HOME} && chmod -R u=rwX,go= {HOME}/data {HOME}/ts_fast"
        ));
        // What would make production itself write while it idles is off, and the
        // port is a free one; all else is as its own configuration says.
        let options = format!(
            "-c port={port} -c listen_addresses=127.0.0.1 -c autovacuum=off -c archive_timeout=0 \
             -c log_checkpoints=off -c max_logical_replication_workers=0"
        );
        let data = format!("{HOME}/data");
        let log = format!("{HOME}/start.log");
        pg.run(
            "pg_ctl",
            &["start", "--wait", "-D", &data, "-l", &log, "-o", &options],
        )
        .expect_ok();
        production
    }

    fn psql(&self, sql: &str) -> String {
        self.pg.psql(&self.conninfo, "postgres", sql)
    }

    /// What must not change, taken when production has come to rest.
    fn at_rest(&self) -> Vec<(PathBuf, Listing)> {
        self.psql("checkpoint");
        let take = || {
            ["canary", "log", "ts_fast"].map(|name| {
                let path = Path::new(HOME).join(name);
                let listing = Listing::of(&path);
                (path, listing)
            })
        };
        let deadline = Instant::now() + LIMIT;
        let mut last = take();
        loop {
            thread::sleep(Duration::from_secs(2));
            let now = take();
            if now == last {
                return now.into();
            }
            assert!(
                Instant::now() < deadline,
                "production does not come to rest"
            );
            last = now;
        }
    }
}

impl Drop for Production<'_> {
    fn drop(&mut self) {
        let data = format!("{HOME}/data");
        let mut stop = self.pg.command("pg_ctl");
        let _ = stop
            .args(["stop", "--mode=immediate", "--wait", "-D", &data])
            .output();
        let _ = fs::remove_dir_all(&self.made);
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

fn shell(script: &str) {
    let root = common::OsUser::root();
    run(root.command("sh").args(["-ec", script]), LIMIT).expect_ok();
}

/// Copies the backup's files out of a mount to where the cluster once lived,
/// with the tablespace at its own place again.
fn copy_cluster(sandbox: &Sandbox, backup: &str, home: &Path) {
    let source = sandbox
        .profile_named("source", backup)
        .throw_away()
        .mount_only()
        .write();
    source.up();
    let (target, home) = (source.target.display(), home.display());
    shell(&format!(
        "cp -a {target} {home}/data
         rm -rf {home}/data/.pbkfs {home}/data/pg_tblspc/{TABLESPACE_OID}
         cp -aL {target}/pg_tblspc/{TABLESPACE_OID} {home}/ts_fast"
    ));
    source.down();
    symlink(
        Path::new(HOME).join("ts_fast"),
        Path::new(HOME).join("data/pg_tblspc").join(TABLESPACE_OID),
    )
    .unwrap();
}

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
    // Production must really archive, or an unchanged archive would prove nothing.
    production.psql("create table proof as select 1; select pg_switch_wal()");
    let archived = "select count(*) > 0 from pg_stat_archiver where archived_count > 0";
    common::eventually("production archives", LIMIT, || {
        production.psql(archived) == "t"
    });
    let before = production.at_rest();

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

/// What would be archived, logged, and written into the tablespace, were it not fenced.
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
    // Something for the log.
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
