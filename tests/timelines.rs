//! Recovery along the timelines of an archive. A clone that is promoted in the middle
//! of the archive creates the second one with PostgreSQL itself; its WAL is archived
//! as by an archive_command.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::fs;

use common::recovery::{
    BACKUP, archive_second_timeline, assert_as_before, assert_at, fails, points, sandbox, sets,
    strs, up_to,
};
use common::{PgTools, Sandbox, assert_nothing_stays, refused};

/// The marked points of the second timeline.
struct Second {
    /// LSN of its restore point `on_two`.
    lsn: String,
    /// The last transaction before it.
    xid: String,
}

/// The query about the second timeline.
const ON_TWO: &str = "select coalesce(max(n), 0) from two";

/// Promotes a clone at the restore point `also_good`, writes to it, and archives its
/// WAL.
fn branch_off(pg: &PgTools, sandbox: &Sandbox) -> Second {
    let clone = sandbox
        .profile_named("brancher", BACKUP)
        .throw_away()
        .write();
    let ready = up_to(&clone, &[("name", "also_good")]);
    let ask = |sql: &str| pg.psql(ready.conninfo(), "shop", sql);
    ask("create table two as select 1 as n");
    let xid = ask("begin; insert into two values (2); select pg_current_xact_id(); commit");
    let xid = xid
        .lines()
        .find(|line| line.parse::<u64>().is_ok())
        .unwrap();
    let lsn = ask("select pg_create_restore_point('on_two')");
    ask("insert into two values (3)");
    // A recovery to a time needs a later transaction to stop at, and there should be
    // more than one segment.
    ask("create table filler as select repeat('x', 1000) from generate_series(1, 3000)");
    ask("select pg_switch_wal()");
    ask("insert into two values (4)");
    archive_second_timeline(pg, &clone, &ready);
    let second = Second {
        lsn,
        xid: xid.to_owned(),
    };
    clone.down();
    assert_nothing_stays(sandbox);
    second
}

#[test]
fn recovery_follows_the_timeline_that_is_chosen() {
    let pg = common::require_everything();
    let sandbox = sandbox();
    let [_, also_good, after_mistake] = points(&sandbox);
    let second = branch_off(&pg, &sandbox);

    let reached = |values: &[(&str, &str)]| {
        let clone = sandbox.profile(BACKUP).throw_away().write();
        let ready = up_to(&clone, values);
        let two = pg.try_psql(ready.conninfo(), "shop", ON_TWO);
        let timeline = pg.psql(
            ready.conninfo(),
            "postgres",
            "select timeline_id from pg_control_checkpoint()",
        );
        (clone, ready, two, timeline)
    };

    // The newest timeline, to its end: the clone continues on a third one.
    for timeline in ["latest", "2"] {
        let (clone, ready, two, next) = reached(&[("timeline", timeline), ("target", "latest")]);
        assert_eq!(two.expect_ok().trim(), "3");
        assert_eq!(next, "3");
        // Later changes on the first timeline are not included.
        assert_at(&pg, ready.conninfo(), &also_good);
        pg.amcheck(ready.conninfo());
        clone.down();
    }
    // Points on it, named in each way.
    for (key, value) in [
        ("name", "on_two"),
        ("lsn", second.lsn.as_str()),
        ("xid", second.xid.as_str()),
    ] {
        let (clone, _, two, _) = reached(&[("timeline", "latest"), (key, value)]);
        assert_eq!(two.expect_ok().trim(), "2", "{key}");
        clone.down();
    }
    // The backup's own timeline, as if there were no other; this is the default.
    for values in [
        &[("timeline", "current"), ("target", "latest")][..],
        &[("timeline", "1"), ("target", "latest")],
        &[("target", "latest")],
    ] {
        let (clone, ready, two, _) = reached(values);
        assert!(two.stderr.contains("does not exist"), "{two}");
        assert_as_before(&pg, ready.conninfo(), &sandbox, &sandbox.fixture.newest());
        clone.down();
    }

    // Points that are not on the chosen timeline.
    let clone = sandbox.profile(BACKUP).throw_away().write();
    let other = fails(&clone, &[("timeline", "2"), ("name", &after_mistake.name)]);
    refused(&other, 4, "not in the WAL that was replayed");
    let other = fails(&clone, &[("timeline", "current"), ("name", "on_two")]);
    refused(&other, 4, "not in the WAL that was replayed");
    let none = fails(&clone, &[("timeline", "7"), ("target", "latest")]);
    refused(&none, 4, "timeline 7");
    assert_nothing_stays(&sandbox);

    let arguments = [
        vec!["--json".to_owned()],
        sets(&[("timeline", "latest"), ("target", "latest")]),
    ];
    let plan = clone.pbkfs("plan", &strs(&arguments.concat())).expect_ok();
    let plan: serde_json::Value = serde_json::from_str(&plan).unwrap();
    let recoverable = plan["recoverable"].as_str().unwrap();
    assert!(
        recoverable.contains("timeline 2 can be recovered"),
        "{plan}"
    );
}

/// The newer backups were taken on the first timeline after the second branched off.
#[test]
fn latest_is_the_newest_backup_on_the_timeline_that_is_chosen() {
    let pg = common::require_everything();
    let sandbox = sandbox();
    let second = branch_off(&pg, &sandbox);
    for timeline in ["latest", "2"] {
        for (target, rows) in [
            (("name", "on_two"), "2"),
            (("lsn", second.lsn.as_str()), "2"),
            (("xid", second.xid.as_str()), "2"),
            (("target", "latest"), "3"),
        ] {
            let clone = sandbox.profile("latest").throw_away().write();
            let ready = up_to(&clone, &[("timeline", timeline), target]);
            assert_eq!(ready.backup, BACKUP, "{target:?}");
            assert_eq!(pg.psql(ready.conninfo(), "shop", ON_TWO), rows);
            clone.down();
        }
    }
    // On the first timeline, the name is unknown, and the names of the second are not
    // listed.
    let clone = sandbox.profile("latest").throw_away().write();
    let other = fails(&clone, &[("name", "on_two")]);
    refused(&other, 4, "no restore point \"on_two\"");
    refused(&other, 4, "\"after_mistake\"");
    assert_nothing_stays(&sandbox);
}

#[test]
fn a_gap_before_the_switch_is_found_on_the_new_timeline() {
    let pg = common::require_everything();
    let sandbox = sandbox();
    branch_off(&pg, &sandbox);
    let clone = sandbox.profile(BACKUP).throw_away().write();
    // The first timeline's last segment before the switch, and a segment of the
    // second.
    for segment in ["00000001000000000000004B", "00000002000000000000004C"] {
        let stored = ["", ".gz"]
            .map(|suffix| sandbox.fixture.wal(&format!("{segment}{suffix}")))
            .into_iter()
            .find(|path| path.exists())
            .unwrap();
        let aside = sandbox.path("aside");
        fs::rename(&stored, &aside).unwrap();
        for target in [("target", "latest"), ("name", "on_two")] {
            let output = fails(&clone, &[("timeline", "latest"), target]);
            let code = if target.1 == "latest" || segment.starts_with("00000001") {
                4
            } else {
                7
            };
            println!("{output}");
            refused(&output, code, segment);
        }
        fs::rename(&aside, &stored).unwrap();
    }
    assert_nothing_stays(&sandbox);
}
