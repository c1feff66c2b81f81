//! Lock files in a catalog that other programs have written: those of a running
//! pg_probackup, those that name unrelated processes, and those that are not lock
//! files at all.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use common::session::{LIMIT, TestClone};
use common::{OsUser, Output, Running, Sandbox, assert_nothing_stays, eventually, refused};

/// A process that runs until the test ends.
struct Sleeper(Child);

impl Sleeper {
    fn start() -> Sleeper {
        Sleeper(Command::new("sleep").arg("600").spawn().unwrap())
    }

    fn named(program: &str, dir: &Sandbox) -> Sleeper {
        let copy = dir.path(program);
        fs::copy("/bin/sleep", &copy).unwrap();
        Sleeper(Command::new(&copy).arg("600").spawn().unwrap())
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Creates the exclusive lock of the newest backup, held by `pid`.
fn hold(sandbox: &Sandbox, pid: u32) -> PathBuf {
    let dir = sandbox.fixture.backup_dir(&sandbox.fixture.newest());
    let file = dir.join("backup.pid");
    fs::write(&file, format!("{pid}\n")).unwrap();
    file
}

/// Runs `up` in the foreground, until it waits for the lock.
#[track_caller]
fn waiting(clone: &TestClone<'_>) -> Running {
    let up = Running::spawn(&mut clone.command("up", &["--json"]));
    let begun = Instant::now();
    eventually(
        "it reports what it waits for",
        Duration::from_secs(10),
        || up.stderr().contains("waiting for a backup's lock"),
    );
    assert!(begun.elapsed() < Duration::from_secs(10));
    up
}

#[track_caller]
fn ends_ready(clone: &TestClone<'_>, up: Running) -> Output {
    eventually("the clone is ready", LIMIT, || up.stdout().ends_with('\n'));
    clone.down();
    let output = up.wait(LIMIT);
    assert_eq!(output.code(), Some(0), "{output}");
    output
}

/// The user sees at once, and only once, which process pbkfs waits for, whoever runs
/// pbkfs.
#[test]
fn who_holds_a_lock_is_told_while_it_is_waited_for() {
    common::require_everything();
    for owner in [OsUser::root(), OsUser::postgres()] {
        let sandbox = Sandbox::with_catalog_of(&owner, "pg15-debian", OsUser::root());
        let clone = sandbox.profile("latest").mount_only().write();
        let sleeper = Sleeper::named("evil\x1b\nx", &sandbox);
        let file = hold(&sandbox, sleeper.0.id());
        let up = waiting(&clone);
        let told = up.stderr();
        let pid = sleeper.0.id();
        let who = format!(
            r"process {pid} ($'evil\x1b\nx' of user root) holds {}",
            file.display()
        );
        assert!(told.contains(&who), "{told}");
        assert!(told.contains(" s at most"), "{told}");
        assert_eq!(told.lines().count(), 1, "{told}");
        std::thread::sleep(Duration::from_secs(3));
        assert_eq!(up.stderr(), told, "told again");
        let other = Sleeper::start();
        hold(&sandbox, other.0.id());
        eventually("the next holder is reported", LIMIT, || {
            up.stderr()
                .contains(&format!("process {} (sleep", other.0.id()))
        });
        fs::remove_file(&file).unwrap();
        ends_ready(&clone, up);
        drop(sleeper);
        assert_nothing_stays(&sandbox);
    }
}

/// It cannot be known whether process 1 is the one that the file meant, and it does
/// not matter: readers block nobody.
#[test]
fn a_reader_of_another_user_keeps_nobody_out() {
    common::require_everything();
    for user in [OsUser::root(), OsUser::postgres()] {
        let sandbox = Sandbox::with_catalog_of(&OsUser::postgres(), "pg15-debian", user);
        let clone = sandbox.profile("latest").mount_only().write();
        let dir = sandbox.fixture.backup_dir(&sandbox.fixture.newest());
        let list = dir.join("backup_ro.pid");
        fs::write(&list, "1\n").unwrap();
        sandbox.fixture.owner.own(&list);
        clone.up();
        let held = fs::read_to_string(&list).unwrap();
        assert!(
            held.starts_with("1\n") && held.lines().count() == 2,
            "{held}"
        );
        clone.down();
        assert_eq!(fs::read_to_string(&list).unwrap(), "1\n");
        fs::remove_file(&list).unwrap();
        assert_nothing_stays(&sandbox);
    }
}

#[test]
fn what_is_no_lock_file_is_named_with_the_way_out() {
    common::require_everything();
    let sandbox = Sandbox::root("pg15-debian");
    let clone = sandbox.profile("latest").mount_only().write();
    let dir = sandbox.fixture.backup_dir(&sandbox.fixture.newest());
    for name in ["backup.pid", "backup_ro.pid", "backup_ro.pidtmp"] {
        let file = dir.join(name);
        symlink("/etc/passwd", &file).unwrap();
        let begun = Instant::now();
        let output = clone.pbkfs("up", &[]);
        refused(&output, 3, file.to_str().unwrap());
        refused(&output, 3, "it is a symbolic link");
        refused(&output, 3, "remove the file");
        assert!(begun.elapsed() < Duration::from_secs(10));
        assert!(file.is_symlink());
        fs::remove_file(&file).unwrap();
    }
    assert_nothing_stays(&sandbox);
}

/// A merge removes the backups' directories while pbkfs waits for them.
#[test]
fn the_chain_is_found_again_when_it_was_merged() {
    common::require_everything();
    let sandbox = Sandbox::root("pg15-debian");
    let [full, delta]: [_; 2] = sandbox.fixture.backups().try_into().unwrap();
    let gone = sandbox.path("gone");
    for (backup, found) in [("latest", true), (&*delta.id, false)] {
        let clone = sandbox.profile(backup).mount_only().write();
        let merge = Sleeper::start();
        let file = hold(&sandbox, merge.0.id());
        let up = waiting(&clone);
        let dir = sandbox.fixture.backup_dir(&delta.id);
        fs::rename(&dir, &gone).unwrap();
        fs::remove_file(gone.join("backup.pid")).unwrap();
        assert!(!file.exists());
        let output = if found {
            eventually("the clone is ready", LIMIT, || up.stdout().ends_with('\n'));
            assert!(up.stdout().contains(&full.id), "{}", up.stdout());
            ends_ready(&clone, up)
        } else {
            let output = up.wait(LIMIT);
            assert_eq!(output.code(), Some(4), "{output}");
            output
        };
        assert!(output.stderr.contains("was merged or deleted"), "{output}");
        fs::rename(&gone, &dir).unwrap();
        let _ = fs::remove_dir_all(clone.diff.as_ref().unwrap());
    }
    assert_nothing_stays(&sandbox);
}

/// As in pg_probackup 2.5.16: with both locked, the files are moved into the FULL,
/// the increment's directory is deleted, and the FULL's gets its ID.
#[test]
fn a_merge_that_is_waited_for_leaves_another_chain() {
    common::require_everything();
    let sandbox = Sandbox::root("pg15-debian");
    let [full, delta]: [_; 2] = sandbox.fixture.backups().try_into().unwrap();
    let (from, to) = (
        sandbox.fixture.backup_dir(&full.id),
        sandbox.fixture.backup_dir(&delta.id),
    );
    let merge = Sleeper::start();
    for dir in [&from, &to] {
        fs::write(dir.join("backup.pid"), format!("{}\n", merge.0.id())).unwrap();
    }
    let clone = sandbox.profile(&delta.id).mount_only().write();
    let up = waiting(&clone);
    let control = |dir: &std::path::Path| fs::read_to_string(dir.join("backup.control")).unwrap();
    let start = control(&to)
        .lines()
        .find(|line| line.starts_with("start-time"))
        .unwrap()
        .to_owned();
    let merged: Vec<String> = control(&from)
        .lines()
        .map(|line| match line.starts_with("start-time") {
            true => start.clone(),
            false => line.to_owned(),
        })
        .collect();
    fs::write(from.join("backup.control"), merged.join("\n") + "\n").unwrap();
    fs::remove_dir_all(&to).unwrap();
    fs::rename(&from, &to).unwrap();
    fs::remove_file(to.join("backup.pid")).unwrap();
    eventually("the clone is ready", LIMIT, || up.stdout().ends_with('\n'));
    assert!(up.stdout().contains(&delta.id), "{}", up.stdout());
    assert_eq!(clone.status()[0]["chain"], serde_json::json!([delta.id]));
    let output = ends_ready(&clone, up);
    assert!(output.stderr.contains("was merged or deleted"), "{output}");
    assert!(!to.join("backup.pid").exists());
    assert_nothing_stays(&sandbox);
}
