//! Bad input results in the right exit code and one clear sentence, and leaves
//! nothing behind.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Command;

use common::fixture::flip_byte;
use common::session::LIMIT;
use common::tmpfs::Tmpfs;
use common::{Output, Sandbox, TestClone, assert_nothing_stays, refused, run};
use nix::errno::Errno;

/// Creates root's sandbox, with a FULL and a DELTA of a small cluster.
fn sandbox() -> Sandbox {
    common::require_everything();
    Sandbox::root("pg15-debian")
}

/// Runs `up` in the foreground, where it must fail without a signal.
fn up(clone: &TestClone<'_>) -> Output {
    clone.pbkfs("up", &[])
}

/// Fails unless `up` and `up --detach` both fail in the same way.
#[track_caller]
fn both_refuse(clone: &TestClone<'_>, code: i32, needle: &str) {
    refused(&up(clone), code, needle);
    assert_nothing_stays(clone.sandbox);
    refused(&clone.pbkfs("up", &["--detach"]), code, needle);
    assert_nothing_stays(clone.sandbox);
}

// The requested object does not exist: 4.

#[test]
fn missing_catalog() {
    let sandbox = sandbox();
    let missing = sandbox.path("no-such-catalog");
    let clone = sandbox.profile("latest").catalog_at(&missing).write();
    both_refuse(&clone, 4, missing.to_str().unwrap());
}

#[test]
fn missing_instance() {
    let sandbox = sandbox();
    let clone = sandbox.profile("latest").instance("mian").write();
    both_refuse(&clone, 4, "mian");
}

#[test]
fn missing_backup() {
    let sandbox = sandbox();
    let clone = sandbox.profile("TOW7ZZ").write();
    both_refuse(&clone, 4, "TOW7ZZ");
}

#[test]
fn missing_parent() {
    let sandbox = sandbox();
    let [full, delta]: [_; 2] = sandbox.fixture.backups().try_into().unwrap();
    fs::remove_dir_all(sandbox.fixture.backup_dir(&full.id)).unwrap();
    let clone = sandbox.profile(&delta.id).write();
    both_refuse(&clone, 4, &full.id);
}

#[test]
fn corrupt_parent() {
    let sandbox = sandbox();
    let [full, delta]: [_; 2] = sandbox.fixture.backups().try_into().unwrap();
    let control = sandbox.fixture.backup_dir(&full.id).join("backup.control");
    let text = fs::read_to_string(&control).unwrap();
    fs::write(&control, text.replace("status = OK", "status = CORRUPT")).unwrap();
    let clone = sandbox.profile(&delta.id).write();
    both_refuse(&clone, 4, "CORRUPT");
}

#[test]
fn corrupt_content_list() {
    let sandbox = sandbox();
    let [full, delta]: [_; 2] = sandbox.fixture.backups().try_into().unwrap();
    let list = sandbox
        .fixture
        .backup_dir(&full.id)
        .join("backup_content.control");
    // One digit of the first size: well-formed, but wrong.
    let text = fs::read_to_string(&list).unwrap();
    let changed = text.replacen("\"size\":\"1", "\"size\":\"2", 1);
    assert_ne!(text, changed);
    fs::write(&list, changed).unwrap();
    let clone = sandbox.profile(&delta.id).write();
    both_refuse(&clone, 4, "backup_content.control");
}

// Stored data is damaged: EIO for that read, and one line that says where.

/// Applies `damage` to the backup's largest data file, mounts the backup, and reads
/// that file to its end through the mount.
fn damaged_file_is_an_io_error(fixture: &str, backup: &str, damage: impl Fn(&Sandbox) -> String) {
    common::require_everything();
    let sandbox = Sandbox::root(fixture);
    let name = damage(&sandbox);
    let clone = sandbox.profile(backup).throw_away().mount_only().write();
    let (running, _) = clone.up_in_foreground();

    let read =
        File::open(clone.target.join(&name)).and_then(|mut file| file.read_to_end(&mut Vec::new()));
    let error = read.expect_err("damaged bytes are never served");
    assert_eq!(error.raw_os_error(), Some(Errno::EIO as i32), "{error}");

    let log = running.stderr();
    let line = log
        .lines()
        .find(|line| line.contains("ERROR"))
        .unwrap_or_else(|| {
            panic!("no ERROR line: {log}");
        });
    for fact in [backup, &name] {
        assert!(line.contains(fact), "{fact} is missing: {line}");
    }
    // All other files are still readable.
    fs::read(clone.target.join("global/pg_control")).unwrap();
    clone.down();
    running.wait(LIMIT).expect_ok();
    assert_nothing_stays(&sandbox);
}

#[test]
fn a_page_that_does_not_decompress() {
    damaged_file_is_an_io_error("pg15-chain", "TOW7J7", |sandbox| {
        let file = sandbox.fixture.largest_data_file("TOW7J7");
        // Inside the first record: a header of 8 bytes, then zlib's stream.
        flip_byte(&file.path, 8 + 40);
        file.name
    });
}

#[test]
fn a_page_that_fails_its_checksum() {
    damaged_file_is_an_io_error("pg15-chain", "TOW7KG", |sandbox| {
        let file = sandbox.fixture.largest_data_file("TOW7KG");
        // Inside the first record: a header of 8 bytes, then the uncompressed page.
        flip_byte(&file.path, 8 + 4000);
        file.name
    });
}

#[test]
fn a_damaged_header_map() {
    damaged_file_is_an_io_error("pg15-chain", "TOW7J7", |sandbox| {
        let file = sandbox.fixture.largest_data_file("TOW7J7");
        let map = sandbox.fixture.backup_dir("TOW7J7").join("page_header_map");
        flip_byte(&map, file.header_offset + file.header_size / 2);
        file.name
    });
}

#[test]
fn a_missing_data_file() {
    damaged_file_is_an_io_error("pg15-chain", "TOW7J7", |sandbox| {
        let file = sandbox.fixture.largest_data_file("TOW7J7");
        fs::remove_file(&file.path).unwrap();
        file.name
    });
}

#[test]
fn a_shortened_data_file() {
    damaged_file_is_an_io_error("pg15-chain", "TOW7J7", |sandbox| {
        let file = sandbox.fixture.largest_data_file("TOW7J7");
        let stored = File::options().write(true).open(&file.path).unwrap();
        stored
            .set_len(stored.metadata().unwrap().len() - 100)
            .unwrap();
        file.name
    });
}

// The diff and the target: 3 if they cannot be read, 5 if they are in use.

#[test]
fn unreadable_binding_of_the_diff() {
    let sandbox = sandbox();
    let clone = sandbox.profile("latest").mount_only().write();
    clone.up();
    clone.down();
    let diff = clone.diff.as_ref().unwrap();
    fs::write(diff.join(".pbkfs-binding.json"), "{ \"catalog\": ").unwrap();
    both_refuse(&clone, 3, ".pbkfs-binding.json");
}

#[test]
fn unreadable_metadata_of_the_diff() {
    let sandbox = sandbox();
    let clone = sandbox.profile("latest").mount_only().write();
    clone.up();
    clone.down();
    let diff = clone.diff.as_ref().unwrap();
    fs::write(diff.join("meta.redb"), vec![0x5A; 100_000]).unwrap();
    both_refuse(&clone, 3, "meta.redb");
}

/// Its changes are lost, and must not be taken for changes that never were.
#[test]
fn a_diff_that_has_lost_a_part_is_not_taken_for_a_new_one() {
    for lost in ["meta.redb", ".pbkfs-binding.json", "data"] {
        let sandbox = sandbox();
        let clone = sandbox.profile("latest").mount_only().write();
        clone.up();
        fs::write(clone.target.join("made"), vec![7; 100_000]).unwrap();
        clone.down();
        let diff = clone.diff.as_ref().unwrap();
        match lost {
            "data" => fs::remove_dir_all(diff.join(lost)),
            _ => fs::remove_file(diff.join(lost)),
        }
        .unwrap();
        both_refuse(&clone, 3, lost);
        if lost == "meta.redb" {
            fs::write(diff.join(lost), "").unwrap();
            both_refuse(&clone, 3, lost);
        }
        let about_the_diff = |subcommand: &str, arguments: &[&str]| {
            let mut command = sandbox.pbkfs();
            command.arg(subcommand).arg("-d").arg(diff).args(arguments);
            run(&mut command, LIMIT)
        };
        for output in [about_the_diff("cleanup", &[]), about_the_diff("diff", &[])] {
            assert!(matches!(output.code(), Some(3 | 5)), "{lost}: {output}");
        }
        about_the_diff("cleanup", &["--force"]).expect_ok();
        clone.up();
        clone.down();
    }
}

#[test]
fn target_inside_another_clone() {
    let sandbox = sandbox();
    let outer = sandbox.profile("latest").mount_only().write();
    outer.up();
    let inner = sandbox.profile_named("inner", "latest").mount_only();
    let inner = inner.target_at(outer.target.join("base/inner")).write();
    let output = up(&inner);
    refused(&output, 5, "is inside the clone on");
    refused(&output, 5, outer.target.to_str().unwrap());
    outer.down();
    assert_nothing_stays(&sandbox);
}

#[test]
fn target_with_files_in_it() {
    let sandbox = sandbox();
    let clone = sandbox.profile("latest").write();
    fs::create_dir(&clone.target).unwrap();
    fs::write(clone.target.join("precious"), "data").unwrap();
    both_refuse(&clone, 5, "not empty");
    assert_eq!(
        fs::read_to_string(clone.target.join("precious")).unwrap(),
        "data"
    );
}

#[test]
fn target_that_is_a_mount() {
    let sandbox = sandbox();
    let clone = sandbox.profile("latest").write();
    fs::create_dir(&clone.target).unwrap();
    let tmpfs = Tmpfs::mount(&clone.target, "1m");
    for arguments in [&[][..], &["--detach"]] {
        refused(&clone.pbkfs("up", arguments), 5, "mount");
    }
    drop(tmpfs);
    assert_nothing_stays(&sandbox);
}

// The profile: 2.

#[test]
fn wrong_key_in_the_profile() {
    let sandbox = sandbox();
    let clone = sandbox
        .profile("latest")
        .with("lock_bakcups", "false")
        .write();
    both_refuse(&clone, 2, "lock_bakcups");
    let output = up(&clone);
    refused(&output, 2, "lock_backups");
    refused(&output, 2, clone.profile.to_str().unwrap());
}

#[test]
fn wrong_key_below_postgres() {
    let sandbox = sandbox();
    let clone = sandbox.profile("latest").postgres("prot", "5433").write();
    both_refuse(&clone, 2, "prot");
    refused(&up(&clone), 2, "port");
}

#[test]
fn wrong_key_on_the_command_line() {
    let sandbox = sandbox();
    let clone = sandbox.profile("latest").write();
    refused(&clone.pbkfs("up", &["--set", "bakup=TOW7P0"]), 2, "backup");
    refused(&clone.pbkfs("up", &["--no-such-flag"]), 2, "--no-such-flag");
}

#[test]
fn missing_profile() {
    let sandbox = sandbox();
    let mut command = sandbox.pbkfs();
    let output = run(command.args(["up", "no-such-profile.toml"]), LIMIT);
    refused(&output, 2, "no-such-profile.toml");
}

// PostgreSQL: 7.

#[test]
fn no_postgresql_binaries() {
    let sandbox = sandbox();
    let empty = sandbox.path("empty");
    fs::create_dir(&empty).unwrap();
    let bin_dir = format!("{empty:?}");
    let clone = sandbox
        .profile("latest")
        .postgres("bin_dir", &bin_dir)
        .write();
    both_refuse(&clone, 7, empty.to_str().unwrap());
}

#[test]
fn port_is_taken() {
    let sandbox = sandbox();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let clone = sandbox
        .profile("latest")
        .postgres("port", &port)
        .setting("listen_addresses", "127.0.0.1")
        .fence("allow", "[\"listen_addresses\"]")
        .fence("network", "\"host\"")
        .write();
    both_refuse(&clone, 7, &port);
}

// FUSE: 6.

#[test]
fn no_fuse_device() {
    let sandbox = sandbox();
    let clone = sandbox.profile("latest").write();
    // A separate /dev in a separate mount namespace, with all devices but this one.
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-ec"]).arg(
        "mount -t tmpfs tmpfs /dev
         mknod -m 666 /dev/null c 1 3
         mknod -m 666 /dev/zero c 1 5
         mknod -m 666 /dev/random c 1 8
         mknod -m 666 /dev/urandom c 1 9
         mkdir -m 1777 /dev/shm
         exec \"$@\"",
    );
    let up = clone.command("up", &[]);
    command.envs(up.get_envs().filter_map(|(key, value)| Some((key, value?))));
    command.arg("sh").arg(up.get_program()).args(up.get_args());
    refused(&run(&mut command, LIMIT), 6, "/dev/fuse");
    assert_nothing_stays(&sandbox);
}

// The diff is full: the writer gets an error, and everything else continues.

#[test]
fn a_full_diff_is_told_to_the_writer() {
    let sandbox = sandbox();
    let tmpfs = sandbox.small_disk("16m");
    let clone = sandbox
        .profile("latest")
        .diff_at(tmpfs.path().join("diff"))
        .mount_only()
        .write();
    clone.up();

    let mut file = File::create(clone.target.join("too-large")).unwrap();
    let chunk = vec![7; 1 << 20];
    let error = (0..32)
        .find_map(|_| file.write_all(&chunk).and_then(|()| file.sync_data()).err())
        .expect("32 MB do not fit in 16 MB");
    assert_eq!(error.raw_os_error(), Some(Errno::ENOSPC as i32), "{error}");
    drop(file);

    fs::read(clone.target.join("global/pg_control")).unwrap();
    assert_eq!(clone.status().len(), 1);
    clone.down();
    drop(tmpfs);
    assert_nothing_stays(&sandbox);
}

/// A profile that names a directory nobody can write to leaves no partial mount.
#[test]
fn a_diff_that_cannot_be_made() {
    let sandbox = sandbox();
    let file = sandbox.path("a-file");
    fs::write(&file, "").unwrap();
    let clone = sandbox.profile("latest").diff_at(file.join("diff")).write();
    both_refuse(&clone, 3, file.to_str().unwrap());
}
