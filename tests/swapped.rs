//! A path that is redirected between pbkfs's check and the moment the server gets it:
//! the owner of any directory above a diff can do that at any time. The server can
//! write only to the directory that was checked, or it is not started.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use common::{Listing, OsUser, Sandbox, refused};
use pbkfs::internals::server::ServerError;
use pbkfs::internals::server::namespace::{Enclosure, Memory, Opened};
use pbkfs::internals::untrusted::hold;

/// Replaces a directory by a link to `victim`, as its owner can.
fn lead_elsewhere(dir: &Path, victim: &Path) {
    fs::rename(dir, dir.with_extension("moved")).unwrap();
    symlink(victim, dir).unwrap();
}

/// Returns an enclosure that exposes only this to a server, for writing or for
/// reading.
fn enclosure(shown: Opened, is_written: bool) -> Enclosure {
    let (written, read) = match is_written {
        true => (vec![shown], vec![]),
        false => (vec![], vec![shown]),
    };
    Enclosure {
        program: env!("CARGO_BIN_EXE_pbkfs").into(),
        write: written,
        read,
        memory: Memory {
            tmp: 1 << 20,
            shm: 1 << 20,
        },
        private_network: true,
        ..Enclosure::default()
    }
}

fn what_is_shown_is_what_was_opened_or_nothing(name: &str, is_written: bool) {
    common::require_root();
    let temp = tempfile::tempdir().unwrap();
    let (above, victim) = (temp.path().join("above"), temp.path().join("victim"));
    for dir in [&above, &victim] {
        fs::create_dir_all(dir.join("diff/wal")).unwrap();
        fs::write(dir.join("diff/conf"), "").unwrap();
    }
    let shown = above.join(name);
    let opened = Opened::new(&shown, hold(&shown).unwrap()).unwrap();
    let enclosure = enclosure(opened, is_written);
    enclosure.probe().unwrap();
    let replaced = |error: ServerError| match error {
        ServerError::Replaced { path } => path == shown,
        _ => false,
    };
    lead_elsewhere(&above, &victim);
    assert!(enclosure.probe().is_err_and(replaced));
    fs::remove_file(&above).unwrap();
    assert!(enclosure.probe().is_err_and(replaced));
    // A link that resolves to the same directory is harmless.
    symlink(above.with_extension("moved"), &above).unwrap();
    enclosure.probe().unwrap();
}

#[test]
fn the_server_writes_what_was_opened_or_nothing() {
    what_is_shown_is_what_was_opened_or_nothing("diff/wal", true);
}

#[test]
fn the_server_reads_what_was_opened_or_nothing() {
    what_is_shown_is_what_was_opened_or_nothing("diff/conf", false);
}

/// Creates a directory in which a redirected server would leave traces: it would
/// create what a WAL directory needs.
fn victim(sandbox: &Sandbox) -> (PathBuf, PathBuf) {
    let victim = sandbox.path("victim");
    let wal = victim.join("diff/.pbkfs-wal");
    fs::create_dir_all(&wal).unwrap();
    let server = OsUser::postgres();
    for dir in [&victim, &victim.join("diff"), &wal] {
        server.own(dir);
    }
    (victim, wal)
}

fn the_diffs_wal_is_led_elsewhere(user: OsUser) {
    common::require_everything();
    let sandbox = Sandbox::new("pg15-debian", user.clone());
    let above = sandbox.path("above");
    fs::create_dir(&above).unwrap();
    user.own(&above);
    let (victim, wal) = victim(&sandbox);
    let before = Listing::of(&victim);
    let clone = sandbox
        .profile("latest")
        .diff_at(above.join("diff"))
        .write();
    let is_over = AtomicBool::new(false);
    let up = thread::scope(|scope| {
        scope.spawn(|| {
            // Once pbkfs has created its WAL directory, it relies on it.
            while !above.join("diff/.pbkfs-wal").exists() {
                if is_over.load(Ordering::Acquire) {
                    return;
                }
                thread::sleep(Duration::from_millis(1));
            }
            lead_elsewhere(&above, &victim);
        });
        let up = clone.pbkfs("up", &["--detach"]);
        is_over.store(true, Ordering::Release);
        up
    });
    before.assert_unchanged(&victim);
    assert_eq!(fs::read_dir(&wal).unwrap().count(), 0, "{up}");
    let moved = above.with_extension("moved");
    assert!(moved.join("diff/.pbkfs-wal").exists(), "too late: {up}");
    refused(&up, 7, "no longer resolves to what was checked");
}

/// Returns the files that a process has open, and its children.
fn open_in(pid: i32) -> (Vec<PathBuf>, Vec<i32>) {
    let proc = PathBuf::from(format!("/proc/{pid}"));
    let files = fs::read_dir(proc.join("fd")).unwrap().flatten();
    let files = files.filter_map(|file| fs::read_link(file.path()).ok());
    let threads = fs::read_dir(proc.join("task")).unwrap().flatten();
    let children = threads.flat_map(|thread| {
        let children = fs::read_to_string(thread.path().join("children")).unwrap();
        let children = children.split_whitespace().map(|pid| pid.parse().unwrap());
        children.collect::<Vec<i32>>()
    });
    (files.collect(), children.collect())
}

#[test]
fn what_was_handed_on_does_not_stay_open() {
    common::require_everything();
    let sandbox = Sandbox::root("pg15-debian");
    let clone = sandbox.profile("latest").write();
    let ready = clone.up();
    let wal = clone.diff.as_ref().unwrap().join(".pbkfs-wal");
    let socket = ready.conninfo().strip_prefix("host=").unwrap();
    let socket = PathBuf::from(socket.split(' ').next().unwrap());
    // Three generations: pbkfs, the helper, and process 1 inside with the postmaster.
    let (mut generation, mut seen) = (vec![ready.pid], 0);
    for _ in 0..3 {
        let mut next = Vec::new();
        for pid in generation {
            let (open, children) = open_in(pid);
            for handed_on in [&clone.target, &wal, &socket] {
                assert!(!open.contains(handed_on), "{pid}: {open:?}");
            }
            seen += 1;
            next.extend(children);
        }
        generation = next;
    }
    assert!(seen >= 4, "{seen}");
    // A mount with open files is detached after some seconds.
    clone.down();
}

#[test]
fn the_wal_of_roots_diff_is_led_elsewhere() {
    the_diffs_wal_is_led_elsewhere(OsUser::root());
}

#[test]
fn the_wal_of_a_users_diff_is_led_elsewhere() {
    the_diffs_wal_is_led_elsewhere(OsUser::postgres());
}
