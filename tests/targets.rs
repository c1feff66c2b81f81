//! Recovery ends at its target or reports why not: a clone is ready only at its
//! target, whatever makes PostgreSQL stop or answer before that.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::path::PathBuf;
use std::time::Duration;

use common::recovery::{
    BACKUP, archive_second_timeline, assert_as_before, assert_at, fails, points, sandbox, sets,
    strs, up_to,
};
use common::session::LIMIT;
use common::{
    Listing, OsUser, PgTools, Running, Sandbox, assert_nothing_stays, eventually, refused,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pbkfs::internals::profile::MomentText;
use pbkfs::internals::session::Place;

/// The time at which table `t` of the case `limits` had 1100 rows, after the limits
/// were raised.
const RAISED: (&str, &str) = ("time", "2026-11-26 12:35:57.184233+00");

/// Creates a catalog whose primary raised the five limits after the only backup.
fn limits() -> Sandbox {
    Sandbox::with_catalog_of(&OsUser::postgres(), "cases/limits", OsUser::root())
}

#[track_caller]
fn assert_raised(pg: &PgTools, conninfo: &str) {
    let ask = |sql: &str| pg.psql(conninfo, "postgres", sql);
    assert_eq!(ask("select count(*) from t"), "1100");
    for (name, value) in [
        ("max_connections", "300"),
        ("max_worker_processes", "30"),
        ("max_wal_senders", "20"),
        ("max_prepared_transactions", "50"),
        ("max_locks_per_transaction", "256"),
    ] {
        assert_eq!(ask(&format!("show {name}")), value, "{name}");
    }
}

#[test]
fn limits_that_the_primary_raised_are_the_clones_too() {
    let pg = common::require_everything();
    let sandbox = limits();
    let catalog = Listing::of(&sandbox.fixture.catalog);
    for action in ["promote", "pause"] {
        let clone = sandbox.profile("latest").throw_away().write();
        let ready = up_to(&clone, &[RAISED, ("action", action)]);
        assert_raised(&pg, ready.conninfo());
        let in_recovery = pg.psql(ready.conninfo(), "postgres", "select pg_is_in_recovery()");
        assert_eq!(in_recovery == "t", action == "pause");
        clone.down();
        assert_nothing_stays(&sandbox);
    }

    // A kept diff continues like any other: from the pause to its own end.
    let clone = sandbox.profile("latest").write();
    up_to(&clone, &[RAISED, ("action", "pause")]);
    clone.down();
    let ready = up_to(&clone, &[RAISED]);
    assert_raised(&pg, ready.conninfo());
    pg.psql(ready.conninfo(), "postgres", "insert into t select from t");
    clone.down();
    assert_nothing_stays(&sandbox);
    catalog.assert_unchanged(&sandbox.fixture.catalog);
}

#[test]
fn an_ordinary_users_clone_takes_the_primarys_limits_too() {
    let pg = common::require_everything();
    let sandbox = Sandbox::new("cases/limits", OsUser::postgres());
    let clone = sandbox.profile("latest").throw_away().write();
    let ready = up_to(&clone, &[RAISED, ("action", "pause")]);
    assert_raised(&pg, ready.conninfo());
    clone.down();
    assert_nothing_stays(&sandbox);
}

#[test]
fn one_shot_jobs_take_the_primarys_limits() {
    common::require_everything();
    let sandbox = limits();
    let clone = sandbox.profile("latest").throw_away().write();
    let query = ["--query", "select count(*) from t", "--csv", "-o", "-"];
    let arguments = [&["--at", RAISED.1], &query[..]].concat();
    let said = clone.pbkfs("extract", &arguments).expect_ok();
    assert_eq!(said, "count\n1100\n");
    let state = format!("verify.state_dir={}", sandbox.path("state").display());
    let time = format!("recovery.time={}", RAISED.1);
    let done = clone
        .pbkfs("verify", &["--json", "--set", &state, "--set", &time])
        .expect_ok();
    let done: serde_json::Value = serde_json::from_str(&done).unwrap();
    assert_eq!(done["verdict"], "proved", "{done:#}");
    assert_nothing_stays(&sandbox);
}

#[test]
fn a_limit_of_the_profiles_that_is_too_low_is_raised_and_told() {
    let pg = common::require_everything();
    let sandbox = limits();
    let clone = sandbox
        .profile("latest")
        .throw_away()
        .setting("max_connections", "40")
        .setting("max_wal_senders", "99")
        .write();
    let arguments = [vec!["--detach".to_owned()], sets(&[RAISED])].concat();
    let up = clone.pbkfs("up", &strs(&arguments));
    assert_eq!(up.code(), Some(0), "{up}");
    let told = "postgres.settings.max_connections is lower than the primary's";
    assert!(up.stderr.contains(told), "{up}");
    assert!(
        !up.stderr.contains("postgres.settings.max_wal_senders"),
        "{up}"
    );
    let conninfo = up.stdout.trim().strip_prefix("ready ").unwrap();
    for (name, value) in [("max_connections", "300"), ("max_wal_senders", "99")] {
        let shown = pg.psql(conninfo, "postgres", &format!("show {name}"));
        assert_eq!(shown, value);
    }
    clone.down();
}

/// Checks recovery with raised limits: a clone that is promoted with higher limits
/// writes them to the WAL of its timeline.
fn takes_raised_limits(fixture: &str, backup: &str, bin_dir: Option<PathBuf>) {
    const RAISED: [(&str, &str); 5] = [
        ("max_connections", "170"),
        ("max_worker_processes", "17"),
        ("max_wal_senders", "19"),
        ("max_prepared_transactions", "7"),
        ("max_locks_per_transaction", "99"),
    ];
    let pg = common::require_everything();
    let sandbox = Sandbox::with_catalog_of(&OsUser::postgres(), fixture, OsUser::root());
    let profile = |name: &str| {
        let profile = sandbox.profile_named(name, backup).throw_away();
        match &bin_dir {
            Some(dir) => profile.postgres("bin_dir", &format!("{dir:?}")),
            None => profile,
        }
    };
    let raiser = RAISED
        .iter()
        .fold(profile("raiser"), |raiser, (name, value)| {
            raiser.setting(name, value)
        });
    let raiser = raiser.write();
    let ready = up_to(&raiser, &[("target", "latest")]);
    let ask = |sql: &str| pg.psql(ready.conninfo(), "postgres", sql);
    ask("create table raised as select 1 as n");
    ask("select pg_create_restore_point('raised')");
    ask("insert into raised values (2)");
    ask("select pg_switch_wal()");
    archive_second_timeline(&pg, &raiser, &ready);
    raiser.down();

    for action in ["promote", "pause"] {
        let clone = profile("clone").write();
        let values = [
            ("timeline", "latest"),
            ("name", "raised"),
            ("action", action),
        ];
        let ready = up_to(&clone, &values);
        let ask = |sql: &str| pg.psql(ready.conninfo(), "postgres", sql);
        assert_eq!(ask("select n from raised"), "1", "{action}");
        for (name, value) in RAISED {
            assert_eq!(ask(&format!("show {name}")), value, "{name}");
        }
        clone.down();
    }
    assert_nothing_stays(&sandbox);
}

#[test]
fn version_15_takes_limits_that_its_own_clone_raised() {
    takes_raised_limits("pg15-chain", BACKUP, None);
}

#[test]
fn version_17_takes_limits_that_its_own_clone_raised() {
    takes_raised_limits("pg17-chain", "TOW7O4", Some(common::require_server("17")));
}

#[test]
fn version_18_takes_limits_that_its_own_clone_raised() {
    takes_raised_limits("pg18-chain", "TP41BM", Some(common::require_server("18")));
}

/// Returns a slow restore_command, so that recovery can be interrupted halfway.
fn slow(sandbox: &Sandbox) -> String {
    let archive = sandbox.fixture.wal("");
    let archive = archive.display();
    format!(
        "sleep 1; case %f in *.history) exit 1;; esac; \
         gzip -dc {archive}%f.gz > %p.tmp && mv %p.tmp %p"
    )
}

/// Starts a recovery to the last restore point, disturbs its server halfway, and
/// returns the output of `up`.
fn disturbed(
    sandbox: &Sandbox,
    action: &str,
    disturb: impl Fn(&common::TestClone<'_>),
) -> common::Output {
    let [_, _, point] = points(sandbox);
    let clone = sandbox.profile(BACKUP).throw_away().write();
    let arguments = sets(&[
        ("name", &point.name),
        ("action", action),
        ("restore_command", &slow(sandbox)),
    ]);
    let running = Running::spawn(&mut clone.command("up", &strs(&arguments)));
    let restored: PathBuf = clone.target.join("pg_wal/00000001000000000000004C");
    eventually("half of the WAL is replayed", LIMIT, || restored.exists());
    disturb(&clone);
    running.wait_or_kill(LIMIT).unwrap_or_else(|output| output)
}

/// Returns the connection string of a server that is not ready yet.
fn conninfo(clone: &common::TestClone<'_>) -> Option<String> {
    let dir = Place::of(&clone.target).socket_dir();
    let names = std::fs::read_dir(&dir).ok()?.flatten();
    let mut names = names.filter_map(|entry| entry.file_name().into_string().ok());
    let port = names.find_map(|name| name.strip_prefix(".s.PGSQL.")?.parse::<u16>().ok())?;
    Some(format!("host={} port={port} user=postgres", dir.display()))
}

#[test]
fn who_pauses_the_replay_makes_no_clone_ready() {
    let pg = common::require_everything();
    let sandbox = sandbox();
    for action in ["pause", "promote"] {
        let output = disturbed(&sandbox, action, |clone| {
            eventually("somebody pauses it", LIMIT, || {
                let Some(conninfo) = conninfo(clone) else {
                    return false;
                };
                let paused = pg.try_psql(&conninfo, "postgres", "select pg_wal_replay_pause()");
                paused.code() == Some(0)
            });
        });
        refused(&output, 7, "paused recovery before the target");
        assert_nothing_stays(&sandbox);
    }
}

#[test]
fn a_server_that_is_ended_before_its_target_has_not_shut_down_there() {
    common::require_everything();
    let sandbox = sandbox();
    let output = disturbed(&sandbox, "shutdown", |clone| {
        let pid = clone.status()[0]["server_pid"].as_i64().unwrap();
        kill(Pid::from_raw(pid.try_into().unwrap()), Signal::SIGINT).unwrap();
    });
    refused(&output, 7, "exited during startup");
    assert_nothing_stays(&sandbox);
}

/// PostgreSQL's own message is required, so it is logged whatever the backup's
/// configuration says.
#[test]
fn the_log_tells_of_the_target_whatever_the_backup_logs() {
    let pg = common::require_everything();
    let sandbox = sandbox();
    let [_, point, _] = points(&sandbox);
    let clone = sandbox.profile(BACKUP).mount_only().write();
    clone.pbkfs("up", &["--detach"]).expect_ok();
    let conf = clone.target.join("postgresql.auto.conf");
    let mut text = std::fs::read_to_string(&conf).unwrap();
    text.push_str("log_min_messages = panic\nlog_line_prefix = '%m LOG [%p] '\n");
    std::fs::write(&conf, text).unwrap();
    clone.down();
    drop(clone);
    let clone = sandbox.profile(BACKUP).write();
    let ready = up_to(&clone, &[("name", &point.name), ("action", "pause")]);
    assert_at(&pg, ready.conninfo(), &point);
    clone.down();
    assert_nothing_stays(&sandbox);
}

#[test]
fn the_newest_backup_before_any_target_is_taken() {
    let pg = common::require_everything();
    let sandbox = sandbox();
    let [_, point, _] = points(&sandbox);
    for (key, value) in [
        ("name", &point.name),
        ("lsn", &point.lsn),
        ("xid", &point.xid),
        ("time", &point.time),
    ] {
        let clone = sandbox.profile("latest").throw_away().write();
        let ready = up_to(&clone, &[(key, value)]);
        assert_eq!(ready.backup, BACKUP, "{key}");
        assert_at(&pg, ready.conninfo(), &point);
        clone.down();
        assert_nothing_stays(&sandbox);
    }
}

#[test]
fn every_command_takes_the_backup_that_its_target_asks_for() {
    common::require_everything();
    let sandbox = sandbox();
    let [_, point, _] = points(&sandbox);
    let state = format!("verify.state_dir={}", sandbox.path("state").display());
    let name = format!("recovery.name={}", point.name);
    for target in [["--at", &*point.time], ["--set", &*name]] {
        let clone = sandbox.profile("latest").throw_away().write();
        let json = |command: &str, arguments: &[&str]| -> serde_json::Value {
            let arguments = [arguments, &["--json"], &target].concat();
            let output = clone.pbkfs(command, &arguments).expect_ok();
            serde_json::from_str(&output).unwrap()
        };
        assert_eq!(json("plan", &[])["backup"], BACKUP);
        let done = json("verify", &["--set", &state]);
        assert_eq!(done["backups"][0]["backup"], BACKUP, "{done:#}");
        assert_eq!(done["verdict"], "proved", "{done:#}");
        let mounted = json("mount", &["--read-only"]);
        assert_eq!(mounted["backup"], BACKUP);
        clone.pbkfs("unmount", &[]).expect_ok();
        let query = ["-d", "shop", "--query", &*point.sql, "--csv", "-o", "-"];
        let said = clone.pbkfs("extract", &[&query[..], &target].concat());
        let last = said.expect_ok().lines().last().unwrap().to_owned();
        assert_eq!(last, point.answer);
        assert_nothing_stays(&sandbox);
    }
}

#[test]
fn a_restore_point_that_was_never_made_is_answered_with_those_that_were() {
    common::require_everything();
    let sandbox = sandbox();
    let known = "\"before_mistake\" (2026-11-22 07:31:19";
    let clone = sandbox.profile("latest").throw_away().write();
    let output = fails(&clone, &[("name", "never_made")]);
    refused(
        &output,
        4,
        "no restore point \"never_made\" is in the WAL archive of instance main",
    );
    refused(&output, 4, &format!("; there are {known}"));
    refused(&output, 4, "\"after_mistake\"");
    let clone = sandbox.profile(BACKUP).throw_away().write();
    let output = fails(&clone, &[("name", "never_made")]);
    let reason = "name \"never_made\", is not in the WAL that was replayed: with backup TOW7K6";
    refused(&output, 4, reason);
    refused(&output, 4, &format!("; there are {known}"));
    assert_nothing_stays(&sandbox);
}

/// Returns the end time of the last transaction, as given in a message.
#[track_caller]
fn last_transaction(output: &common::Output) -> String {
    let (_, rest) = output
        .stderr
        .split_once("(the last transaction ended at ")
        .unwrap();
    rest.split_once(')').unwrap().0.to_owned()
}

/// The archive of pg15-chain ends with a checkpoint, some time after its last commit.
#[test]
fn a_time_in_an_idle_period_is_answered_with_what_gives_the_same_data() {
    let pg = common::require_everything();
    let sandbox = sandbox();
    let newest = sandbox.fixture.newest();
    let clone = sandbox.profile(BACKUP).throw_away().write();
    let after_all = fails(&clone, &[("time", "2026-11-22 09:00:00Z")]);
    refused(&after_all, 4, "only if no transaction ended after that");
    let last = last_transaction(&after_all);
    let parsed: MomentText = last.parse().unwrap();
    let behind = MomentText(parsed.0 + Duration::from_micros(1)).to_string();
    let idle = fails(&clone, &[("time", &behind)]);
    refused(
        &idle,
        4,
        "no transaction ended between that one and the requested time",
    );
    let ways = format!("recovery.target = \"latest\", or --at \"{last}\", gives the same data");
    refused(&idle, 4, &ways);

    // And they do.
    for values in [
        &[("target", "latest")][..],
        &[("time", &last)],
        &[("time", &last), ("action", "pause")],
    ] {
        let clone = sandbox.profile(BACKUP).throw_away().write();
        let ready = up_to(&clone, values);
        assert_as_before(&pg, ready.conninfo(), &sandbox, &newest);
        clone.down();
    }

    // If another command fetches the WAL, only PostgreSQL knows its contents.
    let archive = sandbox.fixture.wal("");
    let command = format!("gzip -dc {}%f.gz > %p", archive.display());
    let foreign = fails(&clone, &[("time", &behind), ("restore_command", &command)]);
    refused(&foreign, 4, "not in the WAL that was replayed");
    let told = format!("ended at {last}, and recovery.target = \"latest\" gives the data");
    refused(&foreign, 4, &told);
    assert_nothing_stays(&sandbox);
}

#[test]
fn a_profile_takes_tomls_own_time() {
    let pg = common::require_everything();
    let sandbox = sandbox();
    let [_, point, _] = points(&sandbox);
    let time = point.time.replace(' ', "T").replace("+00", "Z");
    let profile = sandbox.profile("latest").throw_away();
    let clone = profile.with("recovery.time", &time).write();
    let ready = clone.up();
    assert_eq!(ready.backup, BACKUP);
    assert_at(&pg, ready.conninfo(), &point);
    clone.down();
    let local = time.trim_end_matches('Z');
    let clone = sandbox
        .profile("latest")
        .with("recovery.time", local)
        .write();
    let output = clone.pbkfs("up", &["--detach"]);
    refused(&output, 2, "its offset from UTC");
    assert_nothing_stays(&sandbox);
}
