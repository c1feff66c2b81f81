//! Throw-away diffs left by a kill or a power failure: who learns of them, who
//! removes them, and that an unusable list of them does not prevent other work.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use common::{OsUser, Output, Sandbox, TestClone, eventually, run};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const LIMIT: Duration = Duration::from_secs(60);

/// Returns a clone with a throw-away diff, of a user whose state directory is in the
/// sandbox.
fn throw_away(sandbox: &Sandbox) -> TestClone<'_> {
    let profile = sandbox.profile("latest").mount_only().throw_away();
    profile.write()
}

fn kill_owner(clone: &TestClone<'_>) {
    let ready = clone.up();
    kill(Pid::from_raw(ready.pid), Signal::SIGKILL).unwrap();
    eventually("its session is dead", LIMIT, || {
        clone
            .status()
            .iter()
            .any(|session| session["state"] == "dead")
    });
    clone.sandbox.wait_for_throw_away_diffs();
}

/// Simulates a power failure: nothing of the run directory is left.
fn lose_power(clone: &TestClone<'_>) {
    kill_owner(clone);
    common::sandbox::unmount_all(&clone.target);
    fs::remove_dir_all(clone.sandbox.path("run/pbkfs")).unwrap();
}

fn cleanup(sandbox: &Sandbox, arguments: &[&str]) -> Output {
    let mut command = sandbox.pbkfs();
    run(
        command.args(["cleanup", "--orphans"]).args(arguments),
        LIMIT,
    )
}

fn list(sandbox: &Sandbox) -> PathBuf {
    sandbox.path("state/pbkfs/throw-away")
}

fn lines(sandbox: &Sandbox) -> usize {
    fs::read_dir(list(sandbox)).unwrap().count()
}

#[test]
fn what_a_dead_session_names_is_no_orphan() {
    common::require_everything();
    let sandbox = Sandbox::new("pg15-debian", OsUser::postgres());
    let clone = throw_away(&sandbox);
    kill_owner(&clone);
    let all = run(sandbox.pbkfs().arg("status"), LIMIT).expect_ok();
    assert_eq!(all.matches("\n  diff ").count(), 1, "{all}");
    assert!(!all.contains("orphaned"), "{all}");
    let said = cleanup(&sandbox, &[]).expect_ok();
    assert!(said.contains("no throw-away diff was left"), "{said}");
    assert_eq!(sandbox.throw_away_diffs().len(), 1, "down removes it");
    clone.down();
    assert_eq!((sandbox.throw_away_diffs().len(), lines(&sandbox)), (0, 0));
}

#[test]
fn the_mount_point_that_a_lost_session_made_goes_with_its_diff() {
    common::require_everything();
    let sandbox = Sandbox::new("pg15-debian", OsUser::postgres());
    let clone = throw_away(&sandbox);
    lose_power(&clone);
    assert!(clone.target.is_dir());
    cleanup(&sandbox, &["--dry-run"]).expect_ok();
    assert!(clone.target.is_dir());
    cleanup(&sandbox, &[]).expect_ok();
    assert!(!clone.target.exists(), "the session had created it");
    // The next session on the target also removes it, and then creates its own.
    lose_power(&clone);
    clone.up();
    clone.down();
    assert!(!clone.target.exists());
    // A target that existed before stays, whoever clears up.
    fs::create_dir(&clone.target).unwrap();
    sandbox.user.own(&clone.target);
    lose_power(&clone);
    cleanup(&sandbox, &[]).expect_ok();
    assert!(clone.target.is_dir());
    assert_eq!((sandbox.throw_away_diffs().len(), lines(&sandbox)), (0, 0));
}

#[test]
fn a_line_whose_diff_is_gone_goes_unless_the_disk_is_away() {
    common::require_everything();
    let sandbox = Sandbox::new("pg15-debian", OsUser::postgres());
    let clone = throw_away(&sandbox);
    lose_power(&clone);
    let [diff] = &sandbox.throw_away_diffs()[..] else {
        panic!("no diff is left")
    };
    fs::remove_dir_all(diff).unwrap();
    assert_eq!(lines(&sandbox), 1);
    assert_eq!(clone.pbkfs("status", &[]).code(), Some(3));
    assert_eq!(lines(&sandbox), 0);

    // As if the disk with the diff were not yet mounted.
    lose_power(&clone);
    let line = fs::read_dir(list(&sandbox))
        .unwrap()
        .flatten()
        .next()
        .unwrap();
    let text = fs::read_to_string(line.path()).unwrap();
    let here = sandbox.dir().to_str().unwrap();
    let elsewhere = sandbox.path("disk");
    fs::create_dir(&elsewhere).unwrap();
    let text = text.replace(
        &format!("{here}/.clone"),
        &format!("{}/.clone", elsewhere.to_str().unwrap()),
    );
    fs::write(line.path(), text).unwrap();
    assert_eq!(clone.pbkfs("status", &[]).code(), Some(3));
    assert_eq!(
        lines(&sandbox),
        1,
        "the line is needed when the disk is back"
    );
}

#[test]
fn a_list_that_is_of_no_use_is_a_warning() {
    common::require_everything();
    let sandbox = Sandbox::new("pg15-debian", OsUser::postgres());
    let clone = throw_away(&sandbox);
    clone.up();
    clone.down();
    let root = sandbox.path("state/pbkfs");
    fs::set_permissions(&root, Permissions::from_mode(0o777)).unwrap();
    let owner = format!("user {} owns it, with mode 0777", sandbox.user.uid);
    let status = clone.pbkfs("status", &[]);
    assert!(status.stderr.contains(&owner), "{status}");
    assert!(status.stdout.starts_with("nothing runs"), "{status}");
    let up = clone.pbkfs("up", &["--detach"]);
    assert!(up.stderr.contains(&owner), "{up}");
    up.expect_ok();
    clone.down();
    assert_eq!(sandbox.throw_away_diffs().len(), 0);
    // A request for orphans only must not report that there are none.
    common::refused(&cleanup(&sandbox, &[]), 3, &owner);
}

#[test]
fn cleanup_says_what_it_can_be_given_and_what_it_has_left() {
    common::require_everything();
    let sandbox = Sandbox::new("pg15-debian", OsUser::postgres());
    let usage = run(sandbox.pbkfs().arg("cleanup"), LIMIT);
    common::refused(&usage, 2, "--orphans");
    assert!(usage.stderr.contains("--diff-dir <DIFF>"), "{usage}");

    let clone = sandbox.profile("latest").mount_only().write();
    clone.up();
    clone.down();
    let diff = clone.diff.clone().unwrap();
    fs::write(diff.join("notes.txt"), "mine").unwrap();
    let mut command = sandbox.pbkfs();
    command.args(["cleanup", "--force", "-d"]).arg(&diff);
    let said = run(&mut command, LIMIT).expect_ok();
    assert!(!said.contains("is empty"), "{said}");
    assert!(said.contains("1 name not created by pbkfs"), "{said}");
    fs::remove_file(diff.join("notes.txt")).unwrap();
    let said = run(&mut command, LIMIT).expect_ok();
    assert!(said.contains("is empty"), "{said}");
}
