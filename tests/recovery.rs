//! Point-in-time recovery on a mount: every way to name a point gives what the live
//! cluster answered there, and an archive that does not reach it stops recovery
//! instead of ending it somewhere else.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use common::fixture::{flip_byte, recorded};
use common::recovery::{
    BACKUP, assert_as_before, assert_at, fails, points, sandbox, sets, strs, up_to,
};
use common::session::LIMIT;
use common::{Listing, OsUser, Running, Sandbox, assert_nothing_stays, eventually, refused, run};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A segment between that backup and the last restore point.
const MIDDLE: &str = "00000001000000000000004D";

/// A function that damages a stored segment.
type Damage = fn(&Path);

#[test]
fn every_point_is_reached_by_name_lsn_time_and_xid() {
    let pg = common::require_everything();
    let sandbox = sandbox();
    let catalog = Listing::of(&sandbox.fixture.catalog);
    for point in points(&sandbox) {
        let ways = [
            ("name", &point.name),
            ("lsn", &point.lsn),
            ("time", &point.time),
            ("xid", &point.xid),
        ];
        for (key, value) in ways {
            let clone = sandbox.profile(BACKUP).throw_away().write();
            let ready = up_to(&clone, &[(key, value)]);
            assert_at(&pg, ready.conninfo(), &point);
            let in_recovery = pg.psql(ready.conninfo(), "postgres", "select pg_is_in_recovery()");
            assert_eq!(in_recovery, "f");
            clone.down();
            assert_nothing_stays(&sandbox);
        }
    }
    // Each promotion created a timeline, but none of them got into the catalog.
    catalog.assert_unchanged(&sandbox.fixture.catalog);
}

#[test]
fn archive_backups_start_as_soon_as_they_are_consistent() {
    let pg = common::require_everything();
    let sandbox = sandbox();
    let backups = sandbox.fixture.backups();
    let archive: Vec<_> = backups.iter().filter(|backup| !backup.stream).collect();
    assert_eq!(archive.len(), 2);
    for backup in archive {
        let clone = sandbox.profile(&backup.id).throw_away().write();
        let ready = clone.up();
        assert_as_before(&pg, ready.conninfo(), &sandbox, &backup.id);
        pg.psql(ready.conninfo(), "shop", "create table mine as select 1");
        clone.down();
        assert_nothing_stays(&sandbox);
    }
}

#[test]
fn an_ordinary_user_recovers_too() {
    let pg = common::require_everything();
    let sandbox = Sandbox::new("pg15-chain", OsUser::postgres());
    let [_, point, _] = points(&sandbox);
    let clone = sandbox.profile(BACKUP).throw_away().write();
    let ready = up_to(&clone, &[("name", &point.name)]);
    assert_at(&pg, ready.conninfo(), &point);
    clone.down();
    assert_nothing_stays(&sandbox);
}

#[test]
fn latest_replays_the_whole_archive() {
    let pg = common::require_everything();
    let sandbox = sandbox();
    let newest = sandbox.fixture.newest();
    for backup in [BACKUP, "TOW7J7"] {
        let clone = sandbox.profile(backup).throw_away().write();
        if backup == "TOW7J7" {
            // The archive starts only after this STREAM backup.
            refused(
                &fails(&clone, &[("target", "latest")]),
                4,
                "needs the WAL segment",
            );
            continue;
        }
        let ready = up_to(&clone, &[("target", "latest")]);
        // The archive ends where the newest backup was taken.
        assert_as_before(&pg, ready.conninfo(), &sandbox, &newest);
        clone.down();
    }
}

/// Its segments are uncompressed, of 16 MB each.
#[test]
fn version_17_replays_its_whole_archive() {
    let pg = common::require_everything();
    let bin_dir = common::require_server("17");
    let sandbox = Sandbox::root("pg17-chain");
    let catalog = Listing::of(&sandbox.fixture.catalog);
    let [archive] = <[_; 1]>::try_from(
        sandbox
            .fixture
            .backups()
            .into_iter()
            .filter(|backup| !backup.stream)
            .collect::<Vec<_>>(),
    )
    .unwrap();
    let clone = sandbox
        .profile(&archive.id)
        .throw_away()
        .postgres("bin_dir", &format!("{bin_dir:?}"))
        .write();
    let ready = up_to(&clone, &[("target", "latest")]);
    assert_as_before(&pg, ready.conninfo(), &sandbox, &sandbox.fixture.newest());
    pg.amcheck(ready.conninfo());
    clone.down();
    assert_nothing_stays(&sandbox);
    catalog.assert_unchanged(&sandbox.fixture.catalog);
}

#[test]
fn an_exclusive_target_stops_right_before_it() {
    let pg = common::require_everything();
    let sandbox = sandbox();
    let [first, second, third] = points(&sandbox);
    for (key, value, reached) in [
        // The transaction itself is excluded.
        ("xid", &second.xid, &first),
        // It ended before that position, and so did the previous one.
        ("lsn", &second.lsn, &second),
        ("time", &third.time, &third),
    ] {
        let clone = sandbox.profile(BACKUP).throw_away().write();
        let ready = up_to(&clone, &[(key, value), ("inclusive", "false")]);
        assert_at(&pg, ready.conninfo(), reached);
        clone.down();
    }

    // At a restore point's position, inclusive means that its record is also
    // replayed.
    let clone = sandbox.profile(BACKUP).throw_away().write();
    let mut ends = ["true", "false"].map(|inclusive| {
        let values = [
            ("lsn", second.lsn.as_str()),
            ("inclusive", inclusive),
            ("action", "pause"),
        ];
        let ready = up_to(&clone, &values);
        let end = pg.psql(
            ready.conninfo(),
            "postgres",
            "select pg_last_wal_replay_lsn()",
        );
        clone.down();
        end
    });
    ends.reverse();
    assert!(ends[0] < ends[1], "{ends:?}");
    assert_nothing_stays(&sandbox);
}

/// The archive of a server that streams its WAL (pg_receivewal), or one whose last
/// segment was truncated by a promotion.
#[test]
fn an_archive_that_ends_with_a_partial_segment_is_replayed_to_its_end() {
    let pg = common::require_everything();
    let sandbox = sandbox();
    let last = "000000010000000000000061";
    let whole = sandbox.fixture.wal(&format!("{last}.gz"));
    let mut content = Vec::new();
    flate2::read::GzDecoder::new(fs::File::open(&whole).unwrap())
        .read_to_end(&mut content)
        .unwrap();
    fs::remove_file(&whole).unwrap();
    // After the last record there are only zeros.
    let used = content.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    content.truncate(used.next_multiple_of(8192));
    let partial = sandbox.fixture.wal(&format!("{last}.partial"));
    fs::write(&partial, &content).unwrap();
    OsUser::postgres().own(&partial);
    let clone = sandbox.profile(BACKUP).throw_away().write();
    let ready = up_to(&clone, &[("target", "latest")]);
    assert_as_before(&pg, ready.conninfo(), &sandbox, &sandbox.fixture.newest());
    clone.down();
    assert_nothing_stays(&sandbox);
}

#[test]
fn at_takes_the_newest_backup_that_ended_before() {
    let pg = common::require_everything();
    let sandbox = sandbox();
    let [_, point, _] = points(&sandbox);
    let clone = sandbox.profile("latest").throw_away().write();
    let ready = clone.up_with(&["--at", &point.time]);
    assert_eq!(ready.backup, BACKUP);
    assert_at(&pg, ready.conninfo(), &point);
    clone.down();

    let before_all = clone.pbkfs("up", &["--detach", "--at", "2026-11-22 07:00:00Z"]);
    refused(&before_all, 4, "no restorable backup that ended before");
    let unclear = clone.pbkfs("up", &["--detach", "--at", "2026-11-22 07:31:23"]);
    refused(&unclear, 2, "offset from UTC");
    assert_nothing_stays(&sandbox);
}

#[test]
fn a_broken_archive_stops_recovery_and_names_the_segment() {
    common::require_everything();
    // Root could read even an unreadable file.
    let sandbox = Sandbox::new("pg15-chain", OsUser::postgres());
    let stored = sandbox.fixture.wal(&format!("{MIDDLE}.gz"));
    let good = fs::read(&stored).unwrap();
    let last = ("name", "after_mistake");
    let clone = sandbox.profile(BACKUP).throw_away().write();
    let damages: [(&str, Damage); 4] = [
        ("truncated", |path| {
            let length = fs::metadata(path).unwrap().len();
            fs::File::options()
                .write(true)
                .open(path)
                .unwrap()
                .set_len(length / 2)
                .unwrap();
        }),
        ("flipped", |path| {
            flip_byte(path, fs::metadata(path).unwrap().len() / 2)
        }),
        ("unreadable", |path| {
            fs::set_permissions(path, fs::Permissions::from_mode(0o000)).unwrap()
        }),
        ("missing", |path| fs::remove_file(path).unwrap()),
    ];
    for (what, damage) in damages {
        damage(&stored);
        let output = fails(&clone, &[last]);
        println!("{what}: {output}");
        refused(&output, 7, MIDDLE);
        assert_nothing_stays(&sandbox);
        let _ = fs::remove_file(&stored);
        fs::write(&stored, &good).unwrap();
        OsUser::postgres().own(&stored);
    }
    fs::remove_file(&stored).unwrap();
    // Detected before anything is started.
    refused(&fails(&clone, &[("target", "latest")]), 4, MIDDLE);
    // Targets before the gap can still be reached.
    up_to(&clone, &[("name", "also_good")]);
    clone.down();

    let archive = sandbox.fixture.wal("");
    fs::set_permissions(&archive, fs::Permissions::from_mode(0o000)).unwrap();
    refused(&fails(&clone, &[last]), 4, "cannot list the WAL archive");
    fs::set_permissions(&archive, fs::Permissions::from_mode(0o700)).unwrap();
}

/// On a production host, the catalog often belongs to a backup user, and the user
/// that PostgreSQL runs as cannot even enter it.
#[test]
fn the_server_needs_no_access_to_the_catalog() {
    let pg = common::require_everything();
    let sandbox = Sandbox::root("pg15-chain");
    let catalog = &sandbox.fixture.catalog;
    fs::set_permissions(catalog, fs::Permissions::from_mode(0o700)).unwrap();
    let mut list = OsUser::postgres().command("ls");
    assert!(!run(list.arg(catalog), LIMIT).status.success());
    let before = Listing::of(catalog);
    let [_, point, _] = points(&sandbox);
    let clone = sandbox.profile(BACKUP).throw_away().write();
    let ready = up_to(&clone, &[("lsn", &point.lsn)]);
    assert_at(&pg, ready.conninfo(), &point);
    clone.down();
    assert_nothing_stays(&sandbox);
    before.assert_unchanged(catalog);

    // A gap is detected here, too, and not mistaken for the end.
    fs::remove_file(sandbox.fixture.wal(&format!("{MIDDLE}.gz"))).unwrap();
    refused(&fails(&clone, &[("name", "after_mistake")]), 7, MIDDLE);
    assert_nothing_stays(&sandbox);
}

#[test]
fn a_program_that_the_server_cannot_run_is_named_before_the_start() {
    common::require_everything();
    let sandbox = Sandbox::root("pg15-chain");
    let clone = sandbox.profile(BACKUP).throw_away().write();
    let closed = sandbox.path("closed");
    fs::create_dir(&closed).unwrap();
    let program = closed.join("pbkfs");
    fs::copy(env!("CARGO_BIN_EXE_pbkfs"), &program).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
    let mut up = OsUser::root().command(&program);
    up.args(["up", "--detach"]).arg(&clone.profile);
    let output = run(&mut up, LIMIT);
    refused(
        &output,
        7,
        "the user postgres, which PostgreSQL runs as, cannot run",
    );
    refused(&output, 7, program.to_str().unwrap());
    refused(&output, 7, "recovery.restore_command");
    assert_nothing_stays(&sandbox);
}

#[test]
fn a_target_outside_the_archive_is_answered_with_what_it_holds() {
    common::require_everything();
    let sandbox = sandbox();
    let clone = sandbox.profile(BACKUP).throw_away().write();
    let held = "with backup TOW7K6, timeline 1 can be recovered from 0/4B000B8 \
                (2026-11-22 07:31:18.000000+00) to 0/6100";
    for (key, value, side) in [
        ("time", "2026-11-22 07:31:00Z", "before"),
        ("time", "2026-11-22 09:00:00Z", "after"),
        ("lsn", "0/4A00028", "before"),
        ("lsn", "0/7000000", "after"),
        ("name", "never_made", "not in the WAL"),
    ] {
        let output = fails(&clone, &[(key, value)]);
        refused(&output, 4, side);
        refused(&output, 4, held);
        assert_nothing_stays(&sandbox);
    }
    let plan = clone
        .pbkfs("plan", &["--json", "--at", "2026-11-22 07:31:23Z"])
        .expect_ok();
    let plan: serde_json::Value = serde_json::from_str(&plan).unwrap();
    assert!(
        plan["recoverable"].as_str().unwrap().starts_with(held),
        "{plan}"
    );
    assert_eq!(
        plan["recovery_target"],
        "time 2026-11-22 07:31:23.000000+00"
    );
    // The minimum that recovery needs, according to the backup's pg_control.
    let settings = plan["settings"].as_array().unwrap();
    let limit = settings.iter().find(|s| s["name"] == "max_connections");
    assert_eq!(limit.unwrap()["value"], "100", "{plan}");
    let both = fails(&clone, &[("xid", "5"), ("name", "x")]);
    refused(&both, 2, "recovery.xid and recovery.name");
}

#[test]
fn a_diff_remembers_how_far_it_was_recovered() {
    let pg = common::require_everything();
    let sandbox = sandbox();
    let [first, second, third] = points(&sandbox);
    let clone = sandbox.profile(BACKUP).write();

    // A paused recovery is not final: it can continue, but not go back.
    let ready = up_to(&clone, &[("lsn", &second.lsn), ("action", "pause")]);
    assert_at(&pg, ready.conninfo(), &second);
    let write = pg.try_psql(ready.conninfo(), "shop", "create table t ()");
    assert!(write.stderr.contains("read-only transaction"), "{write}");
    clone.down();
    let back = fails(&clone, &[("lsn", &first.lsn)]);
    refused(&back, 5, "fresh diff_dir");
    refused(&back, 5, &second.lsn);
    let ready = up_to(&clone, &[("lsn", &third.lsn)]);
    assert_at(&pg, ready.conninfo(), &third);
    pg.psql(
        ready.conninfo(),
        "shop",
        "create table mine as select 42 as x",
    );
    clone.down();

    // A promoted clone has its own history.
    for other in [
        ("lsn", second.lsn.as_str()),
        ("target", "latest"),
        ("target", "immediate"),
    ] {
        refused(&fails(&clone, &[other]), 5, "fresh diff_dir");
    }
    for same in [&[("lsn", third.lsn.as_str())][..], &[]] {
        let ready = up_to(&clone, same);
        let mine = pg.psql(ready.conninfo(), "shop", "select x from mine");
        assert_eq!(mine, "42");
        clone.down();
    }
    assert_nothing_stays(&sandbox);
}

#[test]
fn a_used_stream_clone_cannot_be_recovered_any_more() {
    common::require_everything();
    let sandbox = sandbox();
    let clone = sandbox.profile("TOW7JV").write();
    clone.up();
    clone.down();
    refused(
        &fails(&clone, &[("name", "also_good")]),
        5,
        "without replaying the archive",
    );
    clone.up();
    clone.down();
}

#[test]
fn a_stream_backup_recovers_with_the_archive_behind_it() {
    let pg = common::require_everything();
    let sandbox = sandbox();
    let [_, _, point] = points(&sandbox);
    let clone = sandbox.profile("TOW7JV").throw_away().write();
    let ready = up_to(&clone, &[("name", &point.name)]);
    assert_at(&pg, ready.conninfo(), &point);
    clone.down();
}

#[test]
fn a_shutdown_at_the_target_is_a_success() {
    let pg = common::require_everything();
    let sandbox = sandbox();
    let [_, point, _] = points(&sandbox);
    let clone = sandbox.profile(BACKUP).write();
    let target = ("name", point.name.as_str());
    let arguments = sets(&[target, ("action", "shutdown")]);
    let output = clone.pbkfs("up", &strs(&arguments));
    assert_eq!(output.code(), Some(0), "{output}");
    assert_nothing_stays(&sandbox);
    let ready = up_to(&clone, &[target]);
    assert_at(&pg, ready.conninfo(), &point);
    clone.down();
}

/// A cluster from production may still contain the target of an earlier recovery.
#[test]
fn a_target_in_the_backups_own_configuration_does_not_count() {
    let pg = common::require_everything();
    let sandbox = sandbox();
    let [_, point, _] = points(&sandbox);
    let clone = sandbox.profile(BACKUP).mount_only().write();
    clone.pbkfs("up", &["--detach"]).expect_ok();
    let mut conf = fs::OpenOptions::new()
        .append(true)
        .open(clone.target.join("postgresql.auto.conf"))
        .unwrap();
    conf.write_all(
        b"recovery_target_xid = '1271'\nrecovery_target_name = 'stale'\n\
          recovery_target_inclusive = off\nrecovery_target_action = 'shutdown'\n\
          recovery_target_timeline = '9'\nrestore_command = 'false'\n",
    )
    .unwrap();
    drop(conf);
    clone.down();
    drop(clone);

    let clone = sandbox.profile(BACKUP).write();
    let ready = up_to(&clone, &[("time", &point.time)]);
    assert_at(&pg, ready.conninfo(), &point);
    clone.down();
    assert_nothing_stays(&sandbox);
}

/// Returns a slow restore_command, so that recovery can be interrupted halfway.
fn slow(sandbox: &Sandbox, seconds: &str) -> String {
    let archive = sandbox.fixture.wal("");
    let archive = archive.display();
    format!(
        "sleep {seconds}; case %f in *.history) exit 1;; esac; \
         gzip -dc {archive}%f.gz > %p.tmp && mv %p.tmp %p"
    )
}

#[test]
fn a_terminal_shows_how_far_recovery_is() {
    common::require_everything();
    let sandbox = sandbox();
    let [_, _, point] = points(&sandbox);
    let clone = sandbox.profile(BACKUP).throw_away().write();
    let arguments = sets(&[
        ("name", &point.name),
        ("action", "shutdown"),
        ("restore_command", &slow(&sandbox, "1.5")),
    ]);
    let up = clone.command("up", &strs(&arguments));
    let words = std::iter::once(up.get_program()).chain(up.get_args());
    let quoted: Vec<String> = words
        .map(|word| format!("'{}'", word.to_str().unwrap()))
        .collect();
    let mut on_terminal = OsUser::root().command("script");
    on_terminal
        .args(["--quiet", "--return", "--command", &quoted.join(" ")])
        .arg("/dev/null");
    let shown = run(&mut on_terminal, LIMIT).expect_ok();
    // The line is rewritten repeatedly.
    let lines: Vec<&str> = shown
        .split("\r\x1b[K")
        .filter(|line| line.starts_with("replayed to 0/4"))
        .collect();
    assert!(!lines.is_empty(), "{shown}");
    for line in lines {
        assert!(
            line.contains("MiB/s; target: name \"after_mistake\""),
            "{line}"
        );
    }
    assert_nothing_stays(&sandbox);
}

/// Kills `victim` halfway through the replay, and recovers again.
fn killed_in_the_middle(victim: impl Fn(&Running, &common::TestClone<'_>)) {
    let pg = common::require_everything();
    let sandbox = sandbox();
    let [_, _, point] = points(&sandbox);
    let clone = sandbox.profile(BACKUP).write();
    let values = [
        ("name", point.name.as_str()),
        ("restore_command", &slow(&sandbox, "0.4")),
    ];
    let arguments = sets(&values);
    let running = Running::spawn(&mut clone.command("up", &strs(&arguments)));
    let restored: PathBuf = clone.target.join("pg_wal/00000001000000000000004C");
    eventually("half of the WAL is replayed", LIMIT, || restored.exists());
    victim(&running, &clone);
    let output = running.wait_or_kill(LIMIT).unwrap_or_else(|output| output);
    assert!(!output.status.success(), "{output}");

    let ready = up_to(&clone, &[("name", &point.name)]);
    assert_at(&pg, ready.conninfo(), &point);
    pg.amcheck(ready.conninfo());
    clone.down();
    assert_nothing_stays(&sandbox);
}

#[test]
fn a_kill_of_pbkfs_in_mid_replay_loses_nothing() {
    killed_in_the_middle(|running, _| running.signal(Signal::SIGKILL));
}

#[test]
fn a_kill_of_the_server_in_mid_replay_loses_nothing() {
    killed_in_the_middle(|_, clone| {
        let pid = clone.status()[0]["server_pid"].as_i64().unwrap();
        kill(Pid::from_raw(pid.try_into().unwrap()), Signal::SIGKILL).unwrap();
    });
}

#[test]
fn the_list_agrees_with_pg_probackup() {
    common::require_root();
    // The output of show --archive for pg15-old was not recorded.
    let recorded_ones = common::FIXTURES
        .into_iter()
        .filter(|&name| name != "pg15-old");
    for fixture in recorded_ones {
        let sandbox = Sandbox::root(fixture);
        let mut list = sandbox.pbkfs();
        list.args(["wal", "list", "--json", "-B"])
            .arg(&sandbox.fixture.catalog);
        let listed: serde_json::Value =
            serde_json::from_str(&run(&mut list, LIMIT).expect_ok()).unwrap();
        let shown = fs::read_to_string(recorded(fixture).join("show-archive.json")).unwrap();
        let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
        assert_eq!(listed["instances"][0]["instance"], shown[0]["instance"]);
        let listed = listed["instances"][0]["timelines"].as_array().unwrap();
        let shown = shown[0]["timelines"].as_array().unwrap();
        assert_eq!(listed.len(), shown.len());
        for (listed, shown) in listed.iter().zip(shown) {
            for key in [
                "tli",
                "parent-tli",
                "switchpoint",
                "min-segno",
                "max-segno",
                "n-segments",
                "size",
                "status",
                "lost-segments",
            ] {
                assert_eq!(listed[key], shown[key], "{fixture} {key}");
            }
        }
    }
}

/// PostgreSQL interprets 1 to 125 as "not in the archive".
#[test]
fn wal_get_exits_so_that_recovery_stops_on_every_failure() {
    common::require_root();
    let sandbox = Sandbox::root("pg15-chain");
    let destination = sandbox.path("RECOVERYXLOG");
    let get = |arguments: &[&str]| {
        let mut command = sandbox.pbkfs();
        command.arg("wal-get").args(arguments);
        run(&mut command, LIMIT).code()
    };
    let catalog = sandbox.fixture.catalog.to_str().unwrap();
    let to = destination.to_str().unwrap();
    let archive = ["-B", catalog, "--instance", "main"];
    assert_eq!(get(&[&archive[..], &[MIDDLE, to]].concat()), Some(0));
    assert_eq!(fs::metadata(&destination).unwrap().len(), 1 << 20);
    fs::remove_file(&destination).unwrap();
    let missing = "000000010000000000000099";
    assert_eq!(get(&[&archive[..], &[missing, to]].concat()), Some(1));
    assert_eq!(
        get(&[&archive[..], &["00000002.history", to]].concat()),
        Some(1)
    );
    assert_eq!(get(&[&archive[..], &["nonsense", to]].concat()), Some(200));
    assert_eq!(
        get(&["-B", "/nonexistent", "--instance", "main", missing, to]),
        Some(200)
    );
    assert_eq!(
        get(&["-B", catalog, "--instance", "other", missing, to]),
        Some(200)
    );
    assert_eq!(get(&["--no-such-option"]), Some(200));
    let no_session = [&archive[..], &["--session", "/nonexistent", MIDDLE, to]].concat();
    assert_eq!(get(&no_session), Some(200));
    assert_eq!(
        get(&[&archive[..], &[MIDDLE, "/nonexistent/x"]].concat()),
        Some(200)
    );
    assert!(!destination.exists());
}
