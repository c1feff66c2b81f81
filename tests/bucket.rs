//! A catalog in a bucket: what is mounted from it is what `pg_probackup restore` wrote, and
//! what goes wrong on the way is mended, or told as what it is.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use common::recovery::{BACKUP, assert_as_before, assert_at, points, up_to};
use common::s3::S3;
use common::session::LIMIT;
use common::{Manifest, OsUser, Output, Running, Sandbox, assert_nothing_stays, eventually, run};
use nix::libc;
use nix::sys::signal::Signal;

/// Mounts each backup of the fixture from a bucket, one after the other.
fn matches_restore(fixture: &str, user: OsUser) {
    common::require_everything();
    let sandbox = Sandbox::new(fixture, user);
    let s3 = S3::serve(&sandbox);
    let backups = sandbox.fixture.backups().into_iter();
    for backup in backups.filter(|backup| sandbox.fixture.is_restored_whole(&backup.id)) {
        let clone = s3
            .profile(sandbox.profile(&backup.id).throw_away().mount_only())
            .write();
        let ready = clone.up();
        assert_eq!(ready.backup, backup.id);
        let wanted = sandbox.fixture.manifest(&backup.id);
        let found = Manifest::walk(&clone.target, &sandbox.user).without("postgresql.auto.conf");
        wanted.assert_same(&found, &format!("{fixture} {}", backup.id));
        clone.down();
        assert_nothing_stays(&sandbox);
    }
}

#[test]
fn pg15_chain_is_what_restore_wrote() {
    matches_restore("pg15-chain", OsUser::root());
}

#[test]
fn pg15_debian_is_what_restore_wrote() {
    matches_restore("pg15-debian", OsUser::root());
}

#[test]
fn pg15_hazards_is_what_restore_wrote() {
    matches_restore("pg15-hazards", OsUser::postgres());
}

#[test]
fn pg15_old_is_what_restore_wrote() {
    matches_restore("pg15-old", OsUser::root());
}

#[test]
fn pg15_ptrack_is_what_restore_wrote() {
    matches_restore("pg15-ptrack", OsUser::postgres());
}

#[test]
fn pg17_chain_is_what_restore_wrote() {
    matches_restore("pg17-chain", OsUser::root());
}

#[test]
fn pg18_chain_is_what_restore_wrote() {
    matches_restore("pg18-chain", OsUser::root());
}

/// Starts each backup of pg15-chain from a bucket.
#[test]
fn every_backup_starts_and_answers() {
    let pg = common::require_everything();
    let sandbox = Sandbox::root("pg15-chain");
    let s3 = S3::serve(&sandbox);
    for backup in sandbox.fixture.backups() {
        let clone = s3.profile(sandbox.profile(&backup.id).throw_away()).write();
        let ready = clone.up();
        assert_as_before(&pg, ready.conninfo(), &sandbox, &backup.id);
        let look = "create temp table seen (line text); copy seen from program 'export -p'; \
                    select string_agg(line, ' ') from seen";
        let seen = pg.psql(ready.conninfo(), "postgres", look);
        assert!(seen.contains("PATH=") && !seen.contains("AWS_"), "{seen}");
        clone.down();
        assert_nothing_stays(&sandbox);
    }
}

#[test]
fn the_points_of_the_archive_are_reached() {
    let pg = common::require_everything();
    for user in [OsUser::root(), OsUser::postgres()] {
        let sandbox = Sandbox::with_catalog_of(&OsUser::postgres(), "pg15-chain", user);
        let s3 = S3::serve(&sandbox);
        let clone = s3.profile(sandbox.profile(BACKUP).throw_away()).write();
        let [first, second, third] = points(&sandbox);
        for (key, value, point) in [
            ("time", &first.time, &first),
            ("lsn", &second.lsn, &second),
            ("name", &third.name, &third),
        ] {
            let ready = up_to(&clone, &[(key, value)]);
            assert_at(&pg, ready.conninfo(), point);
            clone.down();
        }
        assert_nothing_stays(&sandbox);
    }
}

#[test]
fn list_wal_list_and_extract_work_on_a_url() {
    common::require_everything();
    let sandbox = Sandbox::with_catalog_of(&OsUser::postgres(), "pg15-chain", OsUser::root());
    let s3 = S3::serve(&sandbox);
    let run_on = |catalog: &str, arguments: &[&str]| {
        let mut command = sandbox.pbkfs();
        let endpoint = format!("storage.endpoint={}", s3.endpoint());
        command.args(arguments).args(["-B", catalog]);
        command.args(["--set", &endpoint, "--set", "storage.allow_http=true"]);
        run(&mut command, LIMIT).expect_ok()
    };
    let local = sandbox.fixture.catalog.to_str().unwrap();
    for arguments in [&["list"][..], &["wal", "list"]] {
        assert_eq!(run_on(&s3.url, arguments), run_on(local, arguments));
    }
    let instance = ["--instance", "main", "-i", "TOW7KQ"];
    let extract = [&["extract", "-d", "shop", "-o", "-"][..], &instance].concat();
    let dumped = |catalog: &str| {
        let text = run_on(catalog, &extract);
        let lines = text.lines().filter(|line| !line.starts_with("\\"));
        lines.collect::<Vec<_>>().join("\n")
    };
    let dump = dumped(&s3.url);
    assert!(dump.contains("CREATE TABLE"), "{dump}");
    assert_eq!(dump, dumped(local));
}

/// Verifies the newest backup with these faults and settings.
fn verified(faults: &str, sets: &[&str]) -> (Output, S3, Sandbox) {
    common::require_everything();
    let sandbox = Sandbox::root("pg15-chain");
    let s3 = S3::serve(&sandbox);
    s3.faults(faults);
    let clone = s3.profile(sandbox.profile("TOW7KQ")).write();
    let mut arguments = vec!["-i", "TOW7KQ"];
    arguments.extend(sets.iter().flat_map(|set| ["--set", set]));
    let output = clone.pbkfs("verify", &arguments);
    drop(clone);
    (output, s3, sandbox)
}

#[test]
fn what_a_retry_mends_is_mended_without_a_word() {
    for faults in [
        "status 503 3\nstatus 500 7",
        "cut 3",
        "short 3",
        "latency 5\nstatus 429 4\ncut 5\nshort 9",
    ] {
        let (output, _s3, sandbox) = verified(faults, &[]);
        assert_eq!(output.code(), Some(0), "{faults}: {output}");
        assert_eq!(output.stderr, "", "{faults}");
        assert_nothing_stays(&sandbox);
    }
}

/// A byte that is wrong on the way, once, where the content shows it.
#[test]
fn a_wrong_byte_is_fetched_again() {
    for faults in [
        "wrong 29 /database/",
        "wrong 7 page_header_map",
        "wrong 7 backup_content.control",
    ] {
        let (output, _s3, _sandbox) = verified(faults, &["verify.start=false"]);
        assert_eq!(output.code(), Some(0), "{faults}: {output}");
    }
}

#[test]
fn what_cannot_be_mended_is_no_verdict() {
    for (faults, said) in [
        (
            "status 403 1",
            "access was denied: the server answered 403 (Fault)",
        ),
        ("redirect", "cannot be reached"),
        (
            "status 503 1 /database/global/pg_control",
            "cannot be reached: the server answered 503 (Fault)",
        ),
        (
            "status 404 1 /database/global/pg_control",
            "it does not exist, but is listed",
        ),
        (
            "status 400 1 /database/global/pg_control",
            "the server refused: the server answered 400 (Fault)",
        ),
        ("hang 1", "no answer within"),
        ("down", "cannot be reached"),
    ] {
        let (output, _s3, sandbox) = verified(faults, &["storage.timeout=1"]);
        assert_eq!(output.code(), Some(3), "{faults}: {output}");
        let text = format!("{}{}", output.stdout, output.stderr);
        assert!(text.contains(said), "{faults}: {output}");
        assert!(!text.contains("secret"), "{output}");
        assert_nothing_stays(&sandbox);
    }
}

#[test]
fn an_object_that_changes_while_it_is_read_is_no_verdict() {
    common::require_everything();
    let sandbox = Sandbox::root("pg15-chain");
    let s3 = S3::serve(&sandbox);
    let clone = s3
        .profile(sandbox.profile("TOW7KG").throw_away().mount_only())
        .write();
    clone.up();
    let stored = sandbox.fixture.largest_data_file("TOW7KG");
    let shown = clone.target.join(&stored.name);
    let file = fs::File::open(&shown).unwrap();
    file.read_exact_at(&mut [0; 8192], 0).unwrap();
    let path = stored.path.strip_prefix(&sandbox.fixture.catalog).unwrap();
    s3.faults(&format!("etag {}", path.display()));
    let read = fs::read(&shown);
    assert_eq!(read.unwrap_err().raw_os_error(), Some(libc::EIO));
    s3.faults("");
    assert!(fs::read(&shown).is_ok());
    clone.down();
}

#[test]
fn damage_in_the_bucket_is_damage() {
    common::require_everything();
    let sandbox = Sandbox::root("pg15-chain");
    let s3 = S3::serve(&sandbox);
    let stored = sandbox.fixture.largest_data_file("TOW7KG");
    common::fixture::flip_byte(&stored.path, 100_000);
    let clone = s3.profile(sandbox.profile("TOW7KQ")).write();
    let output = clone.pbkfs("verify", &["-i", "TOW7KQ"]);
    assert_eq!(output.code(), Some(1), "{output}");
    assert!(format!("{output}").contains(&stored.name), "{output}");
    fs::remove_file(&stored.path).unwrap();
    let output = clone.pbkfs("verify", &["-i", "TOW7KQ"]);
    assert_eq!(output.code(), Some(1), "{output}");
    assert!(
        format!("{output}").contains("it does not exist"),
        "{output}"
    );
}

#[test]
fn the_network_may_be_absent_for_a_while() {
    let pg = common::require_everything();
    let sandbox = Sandbox::root("pg15-chain");
    let s3 = S3::serve(&sandbox);
    let clone = s3
        .profile(sandbox.profile("TOW7KQ").throw_away())
        .storage("timeout", "2")
        .write();
    let ready = clone.up();
    let expectations = sandbox.fixture.expectations("TOW7KQ");
    let asked = expectations
        .iter()
        .find(|asked| asked.db == "shop")
        .unwrap();
    pg.psql(ready.conninfo(), "postgres", "create table t as select 1");
    s3.faults("down");
    pg.psql(ready.conninfo(), "postgres", "insert into t select 2");
    let failed = pg.try_psql(ready.conninfo(), &asked.db, &asked.sql);
    assert!(failed.stderr.contains("Input/output error"), "{failed}");
    s3.faults("");
    eventually("the clone goes on", LIMIT, || {
        let output = pg.try_psql(ready.conninfo(), &asked.db, &asked.sql);
        output.status.success() && output.stdout.trim_end() == asked.answer
    });
    clone.down();
    assert_nothing_stays(&sandbox);
}

#[test]
fn what_is_in_the_cache_is_not_fetched_again() {
    common::require_everything();
    let sandbox = Sandbox::root("pg15-chain");
    let s3 = S3::serve(&sandbox);
    let cache = sandbox.path("cache");
    let clone = s3
        .profile(sandbox.profile("TOW7KQ"))
        .storage("cache_dir", &format!("{cache:?}"))
        .write();
    let verify = || {
        s3.forget();
        clone.pbkfs("verify", &["-i", "TOW7KQ"]).expect_ok();
        s3.stats().1
    };
    let first = verify();
    assert_eq!(
        fs::metadata(&cache).unwrap().permissions().mode() & 0o777,
        0o700
    );
    let second = verify();
    assert!(second < first / 20, "{second} of {first} bytes");

    // What is damaged in it is fetched again.
    let shelves = files_in(&cache.join("parts"));
    for shelf in &shelves {
        let length = fs::metadata(shelf).unwrap().len();
        common::fixture::flip_byte(shelf, length - 1);
    }
    let third = verify();
    assert!(third > second && third < first, "{third} of {first} bytes");
    assert_nothing_stays(&sandbox);
}

#[test]
fn a_cache_survives_kills_and_a_full_disk() {
    common::require_everything();
    let sandbox = Sandbox::root("pg15-chain");
    let s3 = S3::serve(&sandbox);
    let small = sandbox.small_disk("4m");
    let cache = small.path().join("cache");
    let clone = s3
        .profile(sandbox.profile("TOW7KQ"))
        .storage("cache_dir", &format!("{cache:?}"))
        .write();
    s3.faults("latency 2");
    for delay in [150, 300, 450, 600] {
        let running = Running::spawn(&mut clone.command("verify", &["--pages", "-i", "TOW7KQ"]));
        thread::sleep(Duration::from_millis(delay));
        running.signal(Signal::SIGKILL);
        let _ = running.wait_or_kill(LIMIT);
    }
    s3.faults("");
    let output = clone.pbkfs("verify", &["-i", "TOW7KQ", "-v"]);
    assert_eq!(output.code(), Some(0), "{output}");
    let told = output.stderr.matches("cannot be written").count();
    assert_eq!(told, 1, "{output}");
}

#[test]
fn a_cache_is_nobody_elses_directory() {
    common::require_everything();
    let sandbox = Sandbox::root("pg15-chain");
    let s3 = S3::serve(&sandbox);
    let cache = sandbox.path("cache");
    fs::create_dir(&cache).unwrap();
    fs::write(cache.join("precious"), "").unwrap();
    let clone = s3
        .profile(sandbox.profile("TOW7KQ"))
        .storage("cache_dir", &format!("{cache:?}"))
        .write();
    let output = clone.pbkfs("verify", &["-i", "TOW7KQ"]);
    assert_eq!(output.code(), Some(3), "{output}");
    assert!(
        format!("{output}").contains("no cache of pbkfs"),
        "{output}"
    );
    assert_eq!(fs::read_dir(&cache).unwrap().count(), 1);
}

fn files_in(dir: &Path) -> Vec<PathBuf> {
    let below = |entry: fs::DirEntry| match entry.file_type().unwrap().is_dir() {
        true => files_in(&entry.path()),
        false => vec![entry.path()],
    };
    let entries = fs::read_dir(dir).unwrap();
    entries.flat_map(|entry| below(entry.unwrap())).collect()
}
