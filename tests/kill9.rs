//! `kill -9` of pbkfs at any moment loses nothing that was committed: the server dies
//! with it, and the next `up` clears up and recovers.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::fs;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use common::process::is_alive;
use common::session::LIMIT;
use common::{
    Listing, OsUser, PgTools, Ready, Running, Sandbox, TestClone, assert_nothing_stays, eventually,
    refused,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pbkfs::internals::diff::LockHolder;

const ROUNDS: u32 = 10;

/// The clone's own database, and the one with the tables that came from the backup.
const LOADED: [&str; 2] = ["bench", "shop"];

/// Sebastiano Vigna's SplitMix64: good enough to choose moments, and reproducible.
struct Moments(u64);

impl Moments {
    /// Seeded from the clock, or from TEST_SEED to repeat a run.
    fn new() -> Moments {
        let seed = std::env::var("TEST_SEED").ok().map_or_else(
            || {
                u64::try_from(
                    SystemTime::now()
                        .duration_since(UNIX_EPOCH)
                        .unwrap()
                        .as_millis(),
                )
            },
            |seed| Ok(seed.parse().expect("TEST_SEED is a number")),
        );
        let seed = seed.unwrap();
        println!("the moments are chosen by TEST_SEED={seed}");
        Moments(seed)
    }

    /// Returns the next pause, up to 1.5 s.
    fn next(&mut self) -> Duration {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        Duration::from_millis((mixed ^ (mixed >> 31)) % 1500)
    }
}

#[test]
fn ten_kills_under_load() {
    let pg = common::require_everything();
    let mut moments = Moments::new();
    let sandbox = Sandbox::root("pg15-chain");
    let catalog = Listing::of(&sandbox.fixture.catalog);
    let clone = sandbox.profile("TOW7KQ").write();

    let mut ready = clone.up();
    let synced = pg.psql(ready.conninfo(), "postgres", "show fsync");
    assert_eq!(synced, "on");
    pg.psql(ready.conninfo(), "postgres", "create database bench");
    let bench = format!("{} dbname=bench", ready.conninfo());
    pg.run("pgbench", &["-iq", "-s1", &bench]).expect_ok();
    let start = LOADED.map(|db| pg.imbalance(ready.conninfo(), db));
    // The fixture's creator also changed accounts directly; in a new database the
    // sums are equal.
    assert_eq!(start[0], "0|0");

    pg.psql(
        ready.conninfo(),
        "bench",
        "create table committed (round int)",
    );

    for round in 1..=ROUNDS {
        let load = LOADED.map(|db| Running::spawn(&mut pg.pgbench(ready.conninfo(), db, 30)));
        let commit = format!("insert into committed values ({round})");
        pg.psql(ready.conninfo(), "bench", &commit);
        let pause = moments.next();
        thread::sleep(pause);
        println!("round {round}: kill after {pause:?}");
        kill(Pid::from_raw(ready.pid), Signal::SIGKILL).unwrap();

        let server = ready.server_pid.expect("a server was started");
        eventually(
            "the server dies with its owner",
            Duration::from_secs(10),
            || !is_alive(server),
        );
        drop(load);

        ready = clone.up();
        let committed = pg.psql(ready.conninfo(), "bench", "select count(*) from committed");
        assert_eq!(committed, round.to_string(), "a commit was lost");
        for (db, start) in LOADED.iter().zip(&start) {
            let now = pg.imbalance(ready.conninfo(), db);
            assert_eq!(
                &now, start,
                "round {round}, {db}: accounts|branches, less the tellers"
            );
        }
    }
    let moved = pg.psql(
        ready.conninfo(),
        "bench",
        "select count(*) > 0 from pgbench_history",
    );
    assert_eq!(moved, "t", "the load never committed anything");
    pg.amcheck(ready.conninfo());
    clone.down();
    assert_nothing_stays(&sandbox);
    catalog.assert_unchanged(&sandbox.fixture.catalog);
}

/// `down` finishes what a killed owner could not.
#[test]
fn down_clears_up_after_a_killed_owner() {
    common::require_everything();
    let sandbox = Sandbox::root("pg15-debian");
    let catalog = Listing::of(&sandbox.fixture.catalog);
    let clone = sandbox.profile("latest").write();
    let ready = clone.up();
    kill(Pid::from_raw(ready.pid), Signal::SIGKILL).unwrap();
    let server = ready.server_pid.expect("a server was started");
    eventually(
        "the server dies with its owner",
        Duration::from_secs(10),
        || !is_alive(server),
    );
    clone.down();
    assert_nothing_stays(&sandbox);
    catalog.assert_unchanged(&sandbox.fixture.catalog);
}

fn signal(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).unwrap();
}

/// Returns whether the process has the lock of the clone's diff open.
fn has_lock(pid: i32, clone: &TestClone<'_>) -> bool {
    let lock = clone.diff.as_ref().unwrap().join(".pbkfs-lock");
    let mut fds = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    fds.any(|fd| fs::read_link(fd.unwrap().path()).is_ok_and(|to| to == lock))
}

fn parent(pid: i32) -> i32 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:"));
    line.unwrap().trim().parse().unwrap()
}

/// Returns a clone of the same backup with the same diff, on another target.
fn on_another_target<'a>(clone: &TestClone<'a>) -> TestClone<'a> {
    let diff = clone.diff.as_ref().unwrap();
    let profile = clone.sandbox.profile_named("other", "latest");
    profile.diff_at(diff).write()
}

/// Kills the session's owner while its server cannot react.
fn kill_with_a_stopped_server(pg: &PgTools, ready: &Ready) -> i32 {
    let made = "create table kept as select 1 as one";
    pg.psql(ready.conninfo(), "postgres", made);
    let server = ready.server_pid.expect("a server was started");
    signal(server, Signal::SIGSTOP);
    signal(ready.pid, Signal::SIGKILL);
    // Including all its threads, and therefore its descriptors.
    let owner = LockHolder {
        pid: ready.pid.try_into().unwrap(),
        ..LockHolder::this_process(&ready.target)
    };
    eventually("the owner has exited", LIMIT, || owner.has_died());
    server
}

/// Takes over the diff of a killed owner, once its server has exited.
fn take_over(pg: &PgTools, killed: &TestClone<'_>, server: i32) {
    let other = on_another_target(killed);
    let ready = other.up();
    assert!(!is_alive(server), "two servers had the diff");
    let found = pg.psql(ready.conninfo(), "postgres", "select one from kept");
    assert_eq!(found, "1");
    other.down();
    killed.down();
    assert_nothing_stays(killed.sandbox);
}

/// The helper kills a server that does not respond after some seconds. Another
/// session waits that long for the diff.
fn waits_for_the_helper(user: OsUser) {
    let pg = common::require_everything();
    let sandbox = Sandbox::new("pg15-debian", user);
    let clone = sandbox
        .profile("latest")
        .fence("require", "\"namespace\"")
        .write();
    let ready = clone.up();
    let helper = parent(ready.server_pid.unwrap());
    assert!(has_lock(ready.pid, &clone) && has_lock(helper, &clone));
    assert!(!has_lock(ready.server_pid.unwrap(), &clone));
    let server = kill_with_a_stopped_server(&pg, &ready);
    take_over(&pg, &clone, server);
}

#[test]
fn a_diff_stays_locked_until_the_server_of_a_killed_owner_has_ended() {
    waits_for_the_helper(OsUser::root());
}

#[test]
fn an_ordinary_users_diff_stays_locked_as_long() {
    waits_for_the_helper(OsUser::postgres());
}

/// Nothing kills that server, so the wait times out.
#[test]
fn a_server_among_the_hosts_processes_holds_the_diff_too() {
    let pg = common::require_everything();
    let sandbox = Sandbox::root("pg15-debian");
    let clone = sandbox
        .profile("latest")
        .fence("level", "\"settings\"")
        .write();
    let ready = clone.up();
    let owner = format!("the server of pid {} ", ready.pid);
    assert!(has_lock(ready.server_pid.unwrap(), &clone));
    let server = kill_with_a_stopped_server(&pg, &ready);

    let other = on_another_target(&clone);
    refused(&other.pbkfs("up", &["--detach"]), 5, &owner);
    assert!(is_alive(server));
    signal(server, Signal::SIGCONT);
    take_over(&pg, &clone, server);
}
