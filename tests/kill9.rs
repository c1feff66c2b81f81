//! `kill -9` of pbkfs at any moment loses nothing that was committed: the
//! server goes with it, and the next `up` clears up and recovers.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use common::process::is_alive;
use common::{Listing, PgTools, Running, Sandbox, assert_nothing_stays, eventually};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const ROUNDS: u32 = 10;

/// Sebastiano Vigna's SplitMix64: enough to pick moments, and repeatable.
struct Moments(u64);

impl Moments {
    /// Seeded from the clock, or by TEST_SEED to repeat a run.
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
        println!("the moments come from TEST_SEED={seed}");
        Moments(seed)
    }

    /// The next pause, up to 1.5 s.
    fn next(&mut self) -> Duration {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        Duration::from_millis((mixed ^ (mixed >> 31)) % 1500)
    }
}

/// pgbench moves money between these; each transaction adds the same to all four.
#[track_caller]
fn assert_balanced(pg: &PgTools, conninfo: &str, round: u32) {
    let sums = pg.psql(
        conninfo,
        "bench",
        "select (select sum(abalance) from pgbench_accounts), \
                (select sum(tbalance) from pgbench_tellers), \
                (select sum(bbalance) from pgbench_branches), \
                (select coalesce(sum(delta), 0) from pgbench_history)",
    );
    let mut each = sums.split('|');
    let first = each.next().unwrap();
    assert!(
        each.all(|sum| sum == first),
        "round {round}: accounts|tellers|branches|history: {sums}"
    );
}

#[test]
fn ten_kills_under_load() {
    let pg = common::require_everything();
    let mut moments = Moments::new();
    let sandbox = Sandbox::root("pg15-chain");
    let catalog = Listing::of(&sandbox.fixture.catalog);
    let clone = sandbox.profile("TOW7KQ").write();

    let mut ready = clone.up();
    pg.psql(ready.conninfo(), "postgres", "create database bench");
    let bench = format!("{} dbname=bench", ready.conninfo());
    pg.run("pgbench", &["-iq", "-s1", &bench]).expect_ok();

    for round in 1..=ROUNDS {
        // Its own database, and the tables that came from the backup.
        let load =
            ["bench", "shop"].map(|db| Running::spawn(&mut pg.pgbench(ready.conninfo(), db, 30)));
        let pause = moments.next();
        thread::sleep(pause);
        println!("round {round}: kill after {pause:?}");
        kill(Pid::from_raw(ready.pid), Signal::SIGKILL).unwrap();

        let server = ready.server_pid.expect("a server was started");
        eventually(
            "the server goes with its owner",
            Duration::from_secs(10),
            || !is_alive(server),
        );
        drop(load);

        ready = clone.up();
        assert_balanced(&pg, ready.conninfo(), round);
        assert_eq!(
            pg.psql(
                ready.conninfo(),
                "shop",
                "select count(*) from pgbench_accounts"
            ),
            "100000",
            "round {round}"
        );
    }
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
        "the server goes with its owner",
        Duration::from_secs(10),
        || !is_alive(server),
    );
    clone.down();
    assert_nothing_stays(&sandbox);
    catalog.assert_unchanged(&sandbox.fixture.catalog);
}
