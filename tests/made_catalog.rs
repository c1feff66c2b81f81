//! Catalogs that `examples/make-catalog` creates from a real cluster: each backup,
//! when mounted, is the cluster as it was.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;
#[allow(dead_code, clippy::unwrap_used)]
#[path = "../examples/make-catalog/main.rs"]
mod make_catalog;

use std::fs;
use std::path::{Path, PathBuf};

use clap::Parser as _;
use common::cluster::Cluster;
use common::postgres::LIMIT;
use common::{Manifest, OsUser, Sandbox, assert_nothing_stays, run};
use pbkfs::pg::control::ControlFile;
use pbkfs::pg::wal::segment::{SegmentId, SegmentSize};

/// Copies what a backup taken now must show.
fn copy(cluster: &Cluster<'_>, sandbox: &Sandbox, number: usize) -> PathBuf {
    let copy = sandbox.path(&format!("copy{number}"));
    let mut cp = OsUser::root().command("cp");
    run(cp.arg("-aL").arg(&cluster.data).arg(&copy), LIMIT).expect_ok();
    let control = fs::read(copy.join("global/pg_control")).unwrap();
    let control = ControlFile::parse(&control).unwrap();
    let size = SegmentSize::new(control.wal_segment_size.into()).unwrap();
    let last = SegmentId::containing(control.checkpoint, 1, size);
    let segment = format!("pg_wal/{}", last.name(size));
    // pg_probackup leaves these out.
    let script = format!(
        r"find . \( -name postmaster.opts -o -name pg_internal.init \) -delete
        find pg_wal pg_notify pg_subtrans pg_stat_tmp -mindepth 1 ! -path {segment} -delete"
    );
    let mut shell = OsUser::root().command("sh");
    run(shell.current_dir(&copy).args(["-ec", &script]), LIMIT).expect_ok();
    copy
}

/// Takes the next backup of the cluster, with the arguments that a user would give.
fn back_up(cluster: &Cluster<'_>, catalog: &Path, mode: &str, codec: &str) {
    let data = cluster.data.to_str().unwrap();
    let catalog = catalog.to_str().unwrap();
    let arguments = [
        "make-catalog",
        "-B",
        catalog,
        "-D",
        data,
        "--mode",
        mode,
        "--compress",
        codec,
    ];
    make_catalog::make(&make_catalog::Arguments::parse_from(arguments)).unwrap();
}

#[test]
fn every_backup_is_the_cluster_as_it_was() {
    let pg = common::require_everything();
    let sandbox = Sandbox::root("pg15-debian");
    let cluster = Cluster::new(&pg, &sandbox, &[]);
    let catalog = sandbox.path("made");
    let space = sandbox.path("cluster/space");
    let steps = [
        ("full", "zlib", format!("create tablespace side location '{}'", space.display())),
        ("delta", "pglz", "update pgbench_accounts set abalance = 1 where aid % 1000 = 0".into()),
        ("delta", "none", "create table other tablespace side as select * from pgbench_accounts limit 5000".into()),
        ("delta", "lz4", "delete from pgbench_accounts where aid > 50000; vacuum pgbench_accounts".into()),
        ("delta", "zstd", "create unlogged table scratch as select * from other; update other set bid = 2; drop table pgbench_history".into()),
        ("full", "none", "reindex table pgbench_accounts".into()),
    ];
    cluster.while_up(|conninfo| {
        let database = format!("{conninfo} dbname=postgres");
        pg.run("pgbench", &["-i", "-q", &database]).expect_ok();
    });
    let mut copies = Vec::new();
    for (number, (mode, codec, change)) in steps.iter().enumerate() {
        cluster.while_up(|conninfo| {
            for statement in change.split("; ") {
                pg.psql(conninfo, "postgres", statement);
            }
        });
        back_up(&cluster, &catalog, mode, codec);
        copies.push(copy(&cluster, &sandbox, number));
    }
    let opened = pbkfs::catalog::Catalog::open(&catalog).unwrap();
    let instance = opened.instance("main").unwrap();
    let mut backups = instance.backups().unwrap();
    backups.reverse();
    assert_eq!(backups.len(), steps.len());

    for (backup, copy) in backups.iter().zip(&copies) {
        let profile = sandbox
            .profile(&backup.id.0)
            .catalog_at(&catalog)
            .throw_away();
        let clone = profile.mount_only().write();
        clone.up();
        let forget = |manifest: Manifest| manifest.without("global/pg_control");
        let wanted = forget(Manifest::walk(copy, &sandbox.user));
        let found = forget(Manifest::walk(&clone.target, &sandbox.user));
        assert!(wanted.len() > 900);
        wanted.assert_same(&found, &backup.id.to_string());
        assert!(
            fs::read(copy.join("global/pg_control")).unwrap()
                == fs::read(clone.target.join("global/pg_control")).unwrap()
        );
        pg.checksums(&clone.target);
        clone.down();
    }
    // The last incremental backup, on a chain of five codecs.
    let newest = &backups[4].id.0;
    let clone = sandbox
        .profile(newest)
        .catalog_at(&catalog)
        .throw_away()
        .write();
    let ready = clone.up();
    let ask = |sql| pg.psql(ready.conninfo(), "postgres", sql);
    assert_eq!(
        ask("select count(*), sum(abalance) from pgbench_accounts"),
        "50000|50"
    );
    assert_eq!(ask("select count(*), sum(bid) from other"), "5000|10000");
    assert_eq!(ask("select count(*) from scratch"), "5000");
    pg.amcheck(ready.conninfo());
    clone.down();
    assert_nothing_stays(&sandbox);
}
