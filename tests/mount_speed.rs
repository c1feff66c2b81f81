//! The duration of a mount and the speed of reading it, compared with a plain copy of
//! the same files. Asserts that what was read is correct, and prints the times: on a
//! loaded machine they mean little, and no limit on them would be reliable.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use common::session::LIMIT;
use common::{Manifest, OsUser, Sandbox, run};

/// FULL and incrementals, compressed; the largest of the bundled catalogs.
const FIXTURE: &str = "pg15-chain";

fn timed(command: &mut Command) -> Duration {
    let begin = Instant::now();
    run(command, LIMIT).expect_ok();
    begin.elapsed()
}

/// Returns the time it takes to read every file of the directory, one by one.
fn read_all(dir: &Path, user: &OsUser) -> Duration {
    let script = "find \"$1\" -type f -exec cat {} + > /dev/null";
    timed(user.command("sh").args(["-ec", script, "sh"]).arg(dir))
}

#[track_caller]
fn assert_restored(sandbox: &Sandbox, dir: &Path) {
    let wanted = sandbox.fixture.manifest(&sandbox.fixture.newest());
    let found = Manifest::walk(dir, &sandbox.user).without("postgresql.auto.conf");
    wanted.assert_same(&found, &dir.display().to_string());
}

/// Measures a new mount: none of it is in the kernel's cache before the first read,
/// while the copy has just been written and is entirely cached.
fn mount_and_read(user: &OsUser) {
    common::require_root();
    common::require_fuse();
    let sandbox = Sandbox::new(FIXTURE, user.clone());
    let clone = sandbox.profile("latest").mount_only().write();
    let begin = Instant::now();
    clone.up();
    run(user.command("ls").arg(&clone.target), LIMIT).expect_ok();
    let first_ls = begin.elapsed();

    let cold = read_all(&clone.target, user);
    let warm = read_all(&clone.target, user);
    let copy = sandbox.path("copy");
    let copied = timed(user.command("cp").arg("-aL").arg(&clone.target).arg(&copy));
    let plain = read_all(&copy, user);
    assert_restored(&sandbox, &clone.target);
    assert_restored(&sandbox, &copy);

    let mut du = user.command("du");
    let bytes = run(du.args(["-s", "--apparent-size", "-B1"]).arg(&copy), LIMIT).expect_ok();
    let bytes: f64 = bytes.split('\t').next().unwrap().parse().unwrap();
    let report = |what: &str, time: Duration| {
        let (seconds, of_plain) = (time.as_secs_f64(), plain.as_secs_f64());
        println!(
            "{what:<38} {seconds:>7.3} s {:>7.0} MB/s  {:>6.2} of a plain copy's",
            bytes / seconds / 1e6,
            of_plain / seconds
        );
    };
    println!("as {}, {:.0} MB:", user.name, bytes / 1e6);
    println!(
        "{:<38} {:>7.3} s",
        "mount until the first ls",
        first_ls.as_secs_f64()
    );
    println!("{:<38} {:>7.3} s", "copy all of it", copied.as_secs_f64());
    report("read all of the mount, decoding", cold);
    report("read all of the mount again", warm);
    report("read all of a plain copy", plain);
    clone.down();
}

#[test]
fn mount_and_read_as_root() {
    mount_and_read(&OsUser::root());
}

#[test]
fn mount_and_read_as_postgres() {
    mount_and_read(&OsUser::postgres());
}
