//! The start and end of a session: signals, a dying server, failures halfway, and
//! what other commands report about it. Nothing is left behind, whatever happens.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::fs;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use common::process::is_alive;
use common::session::LIMIT;
use common::{Listing, OsUser, Running, Sandbox, assert_nothing_stays, eventually, refused};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Checks that `up` in the foreground ends on the signal as on `down`: cleanly, with
/// code 0.
fn ends_on(signal: Signal, user: OsUser) {
    let pg = common::require_everything();
    let sandbox = Sandbox::new("pg15-debian", user);
    let catalog = Listing::of(&sandbox.fixture.catalog);
    let clone = sandbox.profile("latest").write();
    let (running, ready) = clone.up_in_foreground();
    assert_eq!(
        ready.pid,
        running.pid(),
        "the foreground process owns the session"
    );
    pg.psql(
        ready.conninfo(),
        "postgres",
        "create table kept as select 1 as one",
    );
    running.signal(signal);
    running.wait(LIMIT).expect_ok();
    assert!(!is_alive(ready.server_pid.unwrap()));
    assert_nothing_stays(&sandbox);
    catalog.assert_unchanged(&sandbox.fixture.catalog);

    // The server was stopped, not killed: there is nothing to recover.
    let ready = clone.up();
    let state = pg.psql(ready.conninfo(), "postgres", "select one from kept");
    assert_eq!(state, "1");
    clone.down();
}

#[test]
fn sigterm() {
    ends_on(Signal::SIGTERM, OsUser::root());
}

#[test]
fn sigint() {
    ends_on(Signal::SIGINT, OsUser::postgres());
}

#[test]
fn sighup() {
    ends_on(Signal::SIGHUP, OsUser::root());
}

/// As a service of `Type=notify`. PostgreSQL would speak to the service manager, too, if
/// it were shown the socket.
#[test]
fn a_service_manager_is_told_once_that_the_clone_is_ready() {
    common::require_everything();
    let sandbox = Sandbox::root("pg15-debian");
    let clone = sandbox.profile("latest").write();
    let socket = sandbox.path("notify");
    let manager = UnixDatagram::bind(&socket).unwrap();
    manager.set_read_timeout(Some(LIMIT)).unwrap();
    let mut up = clone.command("up", &[]);
    let running = Running::spawn(up.env("NOTIFY_SOCKET", &socket));
    let mut said = [0; 4096];
    let length = manager.recv(&mut said).unwrap();
    let said = str::from_utf8(&said[..length]).unwrap();
    eventually("the line is read", LIMIT, || {
        running.stdout().ends_with('\n')
    });
    let ready = running.stdout();
    assert!(ready.starts_with("ready host="), "{ready}");
    assert_eq!(said, format!("READY=1\nSTATUS={ready}"));
    running.signal(Signal::SIGTERM);
    running.wait(LIMIT).expect_ok();
    manager.set_nonblocking(true).unwrap();
    let again = manager.recv(&mut [0; 64]);
    assert_eq!(again.unwrap_err().kind(), io::ErrorKind::WouldBlock);
    assert_nothing_stays(&sandbox);
}

#[test]
fn a_server_that_dies_ends_the_session() {
    common::require_everything();
    let sandbox = Sandbox::root("pg15-debian");
    let clone = sandbox.profile("latest").write();
    let (running, ready) = clone.up_in_foreground();
    kill(Pid::from_raw(ready.server_pid.unwrap()), Signal::SIGKILL).unwrap();
    let output = running.wait(LIMIT);
    assert_eq!(output.code(), Some(7), "{output}");
    assert_nothing_stays(&sandbox);
}

#[test]
fn a_server_that_does_not_start_undoes_everything() {
    common::require_everything();
    let sandbox = Sandbox::root("pg15-debian");
    let catalog = Listing::of(&sandbox.fixture.catalog);
    let clone = sandbox
        .profile("latest")
        .setting("superuser_reserved_connections", "5000")
        .write();
    for arguments in [&[][..], &["--detach"]] {
        // The message contains the last lines of the server's log.
        refused(
            &clone.pbkfs("up", arguments),
            7,
            "superuser_reserved_connections (5000)",
        );
        assert!(
            !clone.target.exists(),
            "up created the mount point, so its failure removes it"
        );
        assert_nothing_stays(&sandbox);
    }
    catalog.assert_unchanged(&sandbox.fixture.catalog);
}

#[test]
fn a_throw_away_diff_is_thrown_away() {
    let pg = common::require_everything();
    let sandbox = Sandbox::root("pg15-debian");
    let clone = sandbox.profile("latest").throw_away().write();
    let ready = clone.up();
    pg.psql(
        ready.conninfo(),
        "postgres",
        "create table gone as select 1",
    );
    clone.down();
    assert_nothing_stays(&sandbox);
    let ready = clone.up();
    let found = pg.psql(
        ready.conninfo(),
        "postgres",
        "select to_regclass('gone') is null, current_setting('fsync')",
    );
    assert_eq!(found, "t|off", "none of it needs to be durable");
    clone.down();
    assert_nothing_stays(&sandbox);
}

#[test]
fn down_twice_and_down_of_nothing() {
    common::require_everything();
    let sandbox = Sandbox::root("pg15-debian");
    let clone = sandbox.profile("latest").mount_only().write();
    clone.down();
    clone.up();
    clone.down();
    clone.down();
    assert_nothing_stays(&sandbox);
}

#[test]
fn a_target_that_was_there_stays() {
    common::require_everything();
    let sandbox = Sandbox::root("pg15-debian");
    let clone = sandbox.profile("latest").mount_only().write();
    fs::create_dir(&clone.target).unwrap();
    clone.up();
    clone.down();
    assert!(clone.target.is_dir());
    assert_eq!(fs::read_dir(&clone.target).unwrap().count(), 0);
}

#[test]
fn only_one_session_for_a_diff_or_a_target() {
    common::require_everything();
    let sandbox = Sandbox::root("pg15-debian");
    let clone = sandbox.profile("latest").mount_only().write();
    let ready = clone.up();
    let owner = ready.pid.to_string();

    refused(&clone.pbkfs("up", &["--detach"]), 5, &owner);
    let same_diff = sandbox
        .profile_named("other", "latest")
        .diff_at(clone.diff.as_ref().unwrap())
        .mount_only()
        .write();
    refused(&same_diff.pbkfs("up", &["--detach"]), 5, &owner);
    let same_target = sandbox
        .profile_named("third", "latest")
        .target_at(&clone.target)
        .mount_only()
        .write();
    refused(
        &same_target.pbkfs("up", &["--detach"]),
        5,
        clone.target.to_str().unwrap(),
    );

    assert!(
        clone.is_mounted() && is_alive(ready.pid),
        "the first session did not notice"
    );
    fs::read(clone.target.join("PG_VERSION")).unwrap();
    clone.down();
    assert_nothing_stays(&sandbox);
}

/// The session's directory lets the server's user in, and the second one has to leave it so.
#[test]
fn a_second_session_that_is_refused_keeps_nobody_out_of_the_first() {
    let pg = common::require_everything();
    let sandbox = Sandbox::root("pg15-debian");
    let clone = sandbox.profile("latest").write();
    let ready = clone.up();
    let owner = ready.pid.to_string();
    refused(&clone.pbkfs("up", &["--detach"]), 5, &owner);
    assert_eq!(pg.psql(ready.conninfo(), "postgres", "select 1"), "1");
    clone.down();
    assert_nothing_stays(&sandbox);
}

#[test]
fn two_clones_of_one_backup_live_side_by_side() {
    let pg = common::require_everything();
    let sandbox = Sandbox::root("pg15-debian");
    let [first, second] = ["one", "two"].map(|name| sandbox.profile_named(name, "latest").write());
    let (one, two) = (first.up(), second.up());
    assert_ne!(one.port, two.port);
    pg.psql(one.conninfo(), "postgres", "create table mine as select 1");
    let found = pg.psql(
        two.conninfo(),
        "postgres",
        "select to_regclass('mine') is null",
    );
    assert_eq!(found, "t");
    first.down();
    // The catalog's lock is still held for the other clone.
    pg.psql(two.conninfo(), "postgres", "select count(*) from pg_class");
    let lock = sandbox
        .fixture
        .backup_dir(&two.backup)
        .join("backup_ro.pid");
    assert!(lock.exists(), "the second clone lost its lock");
    second.down();
    assert_nothing_stays(&sandbox);
}

#[test]
fn status_tells_what_runs() {
    common::require_everything();
    let sandbox = Sandbox::root("pg15-debian");
    let clone = sandbox.profile("latest").write();
    assert_eq!(clone.status(), Vec::<serde_json::Value>::new());

    let ready = clone.up();
    let sessions = clone.status();
    assert_eq!(sessions.len(), 1, "{sessions:?}");
    let session = &sessions[0];
    assert_eq!(session["backup"], ready.backup.as_str());
    assert_eq!(session["instance"], "main");
    assert_eq!(session["conninfo"], ready.conninfo());
    assert_eq!(session["pid"], ready.pid);
    assert_eq!(session["server_pid"], ready.server_pid.unwrap());
    assert_eq!(
        session["diff_dir"],
        clone.diff.as_ref().unwrap().to_str().unwrap()
    );
    assert!(
        session["diff_bytes"].as_u64().unwrap() > 0,
        "a started server has written"
    );
    assert!(session["since"].is_string());

    let text = clone.pbkfs("status", &[]).expect_ok();
    for fact in [
        &ready.backup,
        ready.conninfo(),
        clone.target.to_str().unwrap(),
    ] {
        assert!(text.contains(fact), "{fact} is missing: {text}");
    }

    clone.down();
    assert_eq!(clone.status(), Vec::<serde_json::Value>::new());
}

#[test]
fn plan_tells_what_up_would_do_and_touches_nothing() {
    common::require_everything();
    let sandbox = Sandbox::root("pg15-chain");
    let clone = sandbox.profile("TOW7JV").write();
    let before = Listing::of(sandbox.dir());

    let json = clone.pbkfs("plan", &["--json"]).expect_ok();
    let _: serde_json::Value = serde_json::from_str(&json).unwrap();
    let text = clone.pbkfs("plan", &[]).expect_ok();
    for output in [&json, &text] {
        for member in sandbox.fixture.chain("TOW7JV") {
            assert!(output.contains(&member), "{member} is missing: {output}");
        }
        for fact in [
            "archive_mode",
            "data_directory",
            clone.target.to_str().unwrap(),
        ] {
            assert!(output.contains(fact), "{fact} is missing: {output}");
        }
    }
    before.assert_unchanged(sandbox.dir());
    assert_nothing_stays(&sandbox);
}

/// `plan` reports what `up` would fail with.
#[test]
fn plan_and_up_want_the_directory_above_the_target() {
    common::require_everything();
    let sandbox = Sandbox::root("pg15-debian");
    let above = sandbox.path("srv/clones");
    let clone = sandbox
        .profile("latest")
        .target_at(above.join("main"))
        .write();
    let plan = clone.pbkfs("plan", &[]);
    assert_eq!(plan.code(), Some(3), "{plan}");
    let problem = format!("the directory {} does not exist", above.display());
    assert!(plan.stdout.contains(&problem), "{plan}");
    refused(&clone.pbkfs("up", &[]), 3, &problem);
    assert!(!sandbox.path("srv").exists());
    assert_nothing_stays(&sandbox);
}

#[test]
fn set_overrides_the_profile() {
    common::require_everything();
    let sandbox = Sandbox::root("pg15-debian");
    let [full, _]: [_; 2] = sandbox.fixture.backups().try_into().unwrap();
    let clone = sandbox.profile("latest").mount_only().write();
    let set = format!("backup={}", full.id);
    let ready = clone
        .pbkfs("up", &["--detach", "--json", "--set", &set])
        .expect_ok();
    assert!(ready.contains(&full.id), "{ready}");
    clone.down();
    eventually("the target is unmounted", LIMIT, || !clone.is_mounted());
}

/// `up` keeps nothing open that would make a shell wait for it to exit.
#[test]
fn detach_lets_go_of_the_shell() {
    common::require_everything();
    let sandbox = Sandbox::root("pg15-debian");
    let clone = sandbox.profile("latest").mount_only().write();
    let up = clone.command("up", &["--detach"]);
    let mut shell = sandbox.user.command("sh");
    shell.envs(up.get_envs().filter_map(|(key, value)| Some((key, value?))));
    shell.args(["-c", "answer=$(\"$@\" 2>&1); echo \"got $answer\"", "sh"]);
    shell.arg(up.get_program()).args(up.get_args());
    let answer = Running::spawn(&mut shell)
        .wait(Duration::from_secs(30))
        .expect_ok();
    assert!(answer.contains("got ready"), "{answer}");
    clone.down();
}
