//! `pbkfs verify`: it proves intact backups, finds damage, and reports neither if the
//! host is at fault.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::fs::{self, File, Permissions};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use common::fixture::flip_byte;
use common::{
    OsUser, Output, PgTools, Running, Sandbox, TestClone, assert_nothing_stays, eventually, run,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pbkfs::pg::page;
use pbkfs::pg::{AbsoluteBlock, BLOCK_SIZE};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(240);

/// The newest FULL of pg15-chain, whose pages are stored uncompressed, and its child.
const RAW_FULL: &str = "TOW7KG";
const NEWEST: &str = "TOW7KQ";

/// An ARCHIVE backup.
const ARCHIVE: &str = "TOW7JT";

fn command(clone: &TestClone<'_>, arguments: &[&str]) -> Command {
    let state = format!("verify.state_dir={}", clone.sandbox.path("state").display());
    let mut command = clone.command("verify", &["--set", &state]);
    command.args(arguments);
    command
}

fn verify(clone: &TestClone<'_>, arguments: &[&str]) -> Output {
    run(&mut command(clone, arguments), LIMIT)
}

/// Returns the JSON document of a run that ends with this code.
#[track_caller]
fn document(clone: &TestClone<'_>, arguments: &[&str], code: i32) -> Value {
    let output = verify(clone, &[&["--json"], arguments].concat());
    assert_eq!(output.code(), Some(code), "{output}");
    serde_json::from_str(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output}"))
}

/// Returns the verdict and error of the first check of that kind.
fn check(document: &Value, kind: &str) -> (String, String) {
    let checks = document["backups"][0]["checks"].as_array().unwrap();
    let check = checks.iter().find(|check| check["kind"] == kind);
    let check = check.unwrap_or_else(|| panic!("no check {kind}: {document:#}"));
    let text = |key: &str| check[key].as_str().unwrap_or_default().to_owned();
    (text("verdict"), text("error"))
}

fn add(clone: &TestClone<'_>, toml: &str) {
    let mut file = File::options().append(true).open(&clone.profile).unwrap();
    writeln!(file, "\n{toml}").unwrap();
}

/// Creates a sandbox in which root runs pbkfs, on a catalog from which the server's
/// user may fetch WAL.
fn open_sandbox(fixture: &str) -> Sandbox {
    Sandbox::with_catalog_of(&OsUser::postgres(), fixture, OsUser::root())
}

fn proves_all(fixture: &str, bin_dir: Option<PathBuf>) {
    common::require_everything();
    let sandbox = open_sandbox(fixture);
    let mut profile = sandbox.profile("latest");
    if let Some(dir) = bin_dir {
        profile = profile.postgres("bin_dir", &format!("{dir:?}"));
    }
    let clone = profile.write();
    let done = document(&clone, &["--set", "verify.backup=all"], 0);
    let backups = done["backups"].as_array().unwrap();
    let ids: Vec<_> = backups
        .iter()
        .map(|b| b["backup"].as_str().unwrap())
        .collect();
    let known = sandbox.fixture.backups();
    assert_eq!(ids, known.iter().map(|b| &*b.id).collect::<Vec<_>>());
    for backup in backups {
        assert_eq!(backup["verdict"], "proved", "{backup:#}");
        let kinds: Vec<_> = backup["checks"]
            .as_array()
            .unwrap()
            .iter()
            .map(|c| &c["kind"])
            .collect();
        assert_eq!(kinds, ["pages", "wal", "start"]);
        assert!(backup["pages"].as_u64().unwrap() > 1000);
        assert!(backup["replayed_lsn"].is_string() && backup["recovered_time"].is_string());
    }
    assert_nothing_stays(&sandbox);
}

#[test]
fn every_backup_of_the_chain_is_proved() {
    proves_all("pg15-chain", None);
}

#[test]
fn every_backup_of_a_debian_cluster_is_proved() {
    proves_all("pg15-debian", None);
}

#[test]
fn every_backup_with_hazards_is_proved() {
    proves_all("pg15-hazards", None);
}

#[test]
fn every_backup_of_another_major_version_is_proved() {
    let programs = PgTools::server_dir("17");
    assert!(
        programs.join("postgres").exists(),
        "no PostgreSQL 17: run tests/run.sh"
    );
    proves_all("pg17-chain", Some(programs));
}

#[test]
fn every_ptrack_backup_is_proved() {
    proves_all("pg15-ptrack", None);
}

#[test]
fn every_backup_of_the_newest_major_version_is_proved() {
    proves_all("pg18-chain", Some(common::require_server("18")));
}

/// The newest backup of pg15-old, of which the real restore returns only 2 030 of 30
/// 000 rows, although all are there.
#[test]
fn what_restore_loses_is_told_and_bad_only_for_who_restores_so() {
    proves_all("pg15-old", None);
    let sandbox = Sandbox::root("pg15-old");
    let clone = sandbox.profile("TP44F7").write();
    let done = document(&clone, &["--pages"], 0);
    let lost = done["backups"][0]["restore_losses"].as_array().unwrap();
    assert_eq!(lost.len(), 1, "{done:#}");
    assert_eq!(lost[0]["marked_in"], "TP44E8");
    let block = lost[0]["first_block"].as_u64().unwrap();
    let message = lost[0]["message"].as_str().unwrap();
    assert!(block > 0 && message.contains(&format!("from block {block} on")));
    assert!(message.contains("take a new FULL backup"), "{message}");

    let asked = ["--pages", "--set", "verify.restore=pg_probackup"];
    let done = document(&clone, &asked, 1);
    assert_eq!(check(&done, "pages").0, "proved");
    let (verdict, error) = check(&done, "restore");
    assert_eq!((&*verdict, &*error), ("bad", message));

    // The backup with the marker restores correctly; the other one is still bad.
    let clone = sandbox.profile("TP44E8").write();
    let reported = ["--set", "verify.known_bad=report"];
    let done = document(&clone, &[&asked[..], &reported].concat(), 0);
    assert_eq!(done["standing"]["bad"][0]["backup"], "TP44F7");
    assert_eq!(check(&done, "restore").0, "proved");
    assert_eq!(done["backups"][0]["restore_losses"], serde_json::json!([]));
    assert_nothing_stays(&sandbox);
}

#[test]
fn an_archive_backup_without_its_archive_is_not_started() {
    common::require_everything();
    let sandbox = Sandbox::root("pg15-chain");
    fs::remove_dir_all(sandbox.fixture.catalog.join("wal/main")).unwrap();
    let clone = sandbox.profile(ARCHIVE).write();
    let done = document(&clone, &[], 1);
    assert_eq!(check(&done, "pages").0, "proved");
    assert_eq!(check(&done, "wal").0, "bad");
    let (verdict, error) = check(&done, "start");
    assert_eq!(verdict, "could-not-tell");
    assert!(error.starts_with("not started: "), "{error}");
    assert_nothing_stays(&sandbox);
}

/// WAL that the backup itself needs is evidence; later WAL is not, although
/// PostgreSQL 15 reads it during replay.
#[test]
fn wal_behind_a_backup_says_nothing_of_it_and_its_own_does() {
    common::require_everything();
    let sandbox = open_sandbox("cases/wal-around-the-end");
    let archive = sandbox.fixture.catalog.join("wal/main");
    let segment = |last: &str| archive.join(format!("0000000100000000000000{last}"));
    let clone = sandbox.profile("latest").write();
    let shortened = || {
        let file = File::options().write(true).open(segment("0D")).unwrap();
        file.set_len(500_000).unwrap();
    };
    let steps: [(&str, &dyn Fn()); 3] = [
        ("all is there", &|| {}),
        ("it is truncated after the stop", &shortened),
        ("it is missing after the stop", &|| {
            fs::remove_file(segment("0D")).unwrap()
        }),
    ];
    let query = ["-d", "postgres", "--query", "select 1", "-o", "-"];
    for (what, step) in steps {
        step();
        let done = document(&clone, &[], 0);
        assert_eq!(check(&done, "wal").0, "proved", "{what}");
        clone.up();
        clone.down();
        clone.pbkfs("extract", &query).expect_ok();
    }
    fs::remove_file(segment("0B")).unwrap();
    let done = document(&clone, &[], 1);
    let (verdict, error) = check(&done, "wal");
    assert_eq!(verdict, "bad");
    assert!(error.contains("0000000B"), "{error}");
    for (command, arguments) in [("up", &["--detach"][..]), ("extract", &query)] {
        let refused = clone.pbkfs(command, arguments);
        assert_eq!(refused.code(), Some(4), "{refused}");
        let needed = "needs the WAL segment 00000001000000000000000B";
        assert!(refused.stderr.contains(needed), "{refused}");
    }
    assert_nothing_stays(&sandbox);
}

/// Damages a catalog, and checks that the damage is found in `backup`, with pages
/// alone, and that its location is named.
#[track_caller]
fn finds(damage: impl FnOnce(&Sandbox) -> String) -> Value {
    let sandbox = Sandbox::root("pg15-chain");
    let clone = sandbox.profile(RAW_FULL).write();
    let place = damage(&sandbox);
    let done = document(&clone, &["--pages"], 1);
    assert_eq!(check(&done, "pages").0, "bad");
    let text = done["backups"][0]["damage"].to_string();
    assert!(text.contains(&place), "{place} is missing: {done:#}");
    assert_nothing_stays(&sandbox);
    done
}

#[test]
fn a_flipped_byte_in_a_page_is_found_and_where_it_is_well() {
    common::require_everything();
    let sandbox = Sandbox::root("pg15-chain");
    let file = sandbox.fixture.largest_data_file(RAW_FULL);
    // Somewhere in the page of the third record.
    flip_byte(&file.path, 2 * 8200 + 8 + 5000);
    let clone = sandbox.profile(RAW_FULL).write();
    let done = document(&clone, &[], 1);
    let place = &done["backups"][0]["damage"][0];
    assert_eq!(place["path"], *file.name);
    assert_eq!(
        (&place["block"], &place["offset"]),
        (&2.into(), &16400.into())
    );
    assert_eq!(place["backup"], RAW_FULL);
    assert!(
        place["relation"].as_str().unwrap().contains("in database"),
        "{place}"
    );
    let good: Vec<_> = place["good_in"].as_array().unwrap().iter().collect();
    assert!(good.contains(&&"TOW7J7".into()), "{place}");
    assert!(!good.contains(&&RAW_FULL.into()), "{place}");

    // A person gets one screen, on standard error.
    let output = verify(&clone, &["--pages"]);
    assert_eq!((output.code(), &*output.stdout), (Some(1), ""), "{output}");
    assert!(
        output.stderr.contains(&format!("block 2 of {}", file.name)),
        "{output}"
    );
    assert!(output.stderr.lines().count() < 40, "{output}");
}

#[test]
fn a_damaged_header_map_is_found() {
    finds(|sandbox| {
        let file = sandbox.fixture.largest_data_file(RAW_FULL);
        let map = sandbox.fixture.backup_dir(RAW_FULL).join("page_header_map");
        flip_byte(&map, file.header_offset + file.header_size / 2);
        file.name
    });
}

#[test]
fn a_damaged_content_list_is_found() {
    finds(|sandbox| {
        let list = sandbox
            .fixture
            .backup_dir(RAW_FULL)
            .join("backup_content.control");
        flip_byte(&list, 1000);
        "backup_content.control".to_owned()
    });
}

fn own_wal(sandbox: &Sandbox) -> PathBuf {
    let dir = sandbox.fixture.backup_dir(RAW_FULL).join("database/pg_wal");
    let mut files = fs::read_dir(dir)
        .unwrap()
        .flatten()
        .map(|entry| entry.path());
    files
        .find(|path| path.file_name().unwrap().len() == 24)
        .unwrap()
}

#[test]
fn damaged_wal_of_a_backup_is_found() {
    finds(|sandbox| {
        let segment = own_wal(sandbox);
        flip_byte(&segment, 100);
        segment.file_name().unwrap().to_str().unwrap().to_owned()
    });
}

#[test]
fn damaged_wal_is_found_by_recovery_alone() {
    common::require_everything();
    let sandbox = Sandbox::root("pg15-chain");
    flip_byte(&own_wal(&sandbox), 100);
    let clone = sandbox.profile(RAW_FULL).write();
    let done = document(&clone, &["--set", "verify.pages=false"], 1);
    assert_eq!(check(&done, "start").0, "bad");
    assert_nothing_stays(&sandbox);
}

#[test]
fn damaged_wal_of_the_archive_is_found() {
    common::require_everything();
    let sandbox = open_sandbox("pg15-chain");
    let clone = sandbox.profile(ARCHIVE).write();
    let mut segments: Vec<_> = fs::read_dir(sandbox.fixture.catalog.join("wal/main"))
        .unwrap()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e == "gz"))
        .collect();
    segments.sort();
    for segment in &segments {
        flip_byte(segment, fs::metadata(segment).unwrap().len() / 2);
    }
    let done = document(&clone, &[], 1);
    assert_eq!(check(&done, "pages").0, "proved");
    let (verdict, error) = check(&done, "start");
    assert_eq!(verdict, "bad");
    assert!(error.contains("is damaged"), "{error}");
    assert_nothing_stays(&sandbox);
}

#[test]
fn a_removed_file_is_found() {
    finds(|sandbox| {
        let file = sandbox.fixture.largest_data_file(RAW_FULL);
        fs::remove_file(&file.path).unwrap();
        file.name
    });
}

#[test]
fn a_truncated_file_is_found() {
    finds(|sandbox| {
        let file = sandbox.fixture.largest_data_file(RAW_FULL);
        let stored = File::options().write(true).open(&file.path).unwrap();
        stored
            .set_len(stored.metadata().unwrap().len() - 1)
            .unwrap();
        file.name
    });
}

/// Rewrites a stored file, with correct checksums of it in the content list and of
/// the list in backup.control; without page headers, unless `keep_headers` is set.
fn store(sandbox: &Sandbox, name: &str, bytes: &[u8], keep_headers: bool) {
    let dir = sandbox.fixture.backup_dir(RAW_FULL);
    fs::write(dir.join("database").join(name), bytes).unwrap();
    let list = dir.join("backup_content.control");
    let crc = crc32c::crc32c(bytes);
    let edited: String = fs::read_to_string(&list)
        .unwrap()
        .lines()
        .map(|line| {
            if !line.contains(&format!("\"path\":\"{name}\"")) {
                return format!("{line}\n");
            }
            let (head, rest) = line.split_once("\"crc\":\"").unwrap();
            let (_, rest) = rest.split_once('"').unwrap();
            let rest = match keep_headers {
                true => rest,
                false => rest
                    .split_once(",\"n_headers\"")
                    .map_or(rest, |(kept, _)| kept),
            };
            format!("{head}\"crc\":\"{crc}\"{}}}\n", rest.trim_end_matches('}'))
        })
        .collect();
    fs::write(&list, &edited).unwrap();
    let control = dir.join("backup.control");
    let text = fs::read_to_string(&control).unwrap();
    let lines = text
        .lines()
        .map(|line| match line.starts_with("content-crc") {
            true => format!("content-crc = {}\n", crc32c::crc32c(edited.as_bytes())),
            false => format!("{line}\n"),
        });
    fs::write(&control, lines.collect::<String>()).unwrap();
}

#[test]
fn a_wrong_page_under_a_right_crc_is_found() {
    let done = finds(|sandbox| {
        let file = sandbox.fixture.largest_data_file(RAW_FULL);
        let mut bytes = fs::read(&file.path).unwrap();
        bytes[3 * 8200 + 8 + 5000] ^= 1;
        store(sandbox, &file.name, &bytes, true);
        file.name
    });
    let damage = done["backups"][0]["damage"].as_array().unwrap();
    assert_eq!(
        (damage.len(), &damage[0]["block"]),
        (1, &3.into()),
        "{done:#}"
    );
}

#[test]
fn an_index_that_disagrees_with_its_heap_is_found() {
    let pg = common::require_everything();
    let sandbox = Sandbox::root("pg15-chain");
    let clone = sandbox.profile(RAW_FULL).write();
    let ready = clone.up();
    let sql = "select pg_relation_filepath('pgbench_accounts_pkey')";
    let name = pg.psql(ready.conninfo(), "shop", sql);
    clone.down();
    common::run(
        sandbox
            .pbkfs()
            .args(["cleanup", "--force", "-d"])
            .arg(clone.diff.as_ref().unwrap()),
        LIMIT,
    )
    .expect_ok();

    // The second tuple of the first leaf points to another row. The checksums of the
    // page and of the file are correct.
    let path = sandbox
        .fixture
        .backup_dir(RAW_FULL)
        .join("database")
        .join(&name);
    let mut bytes = fs::read(path).unwrap();
    let start = 8200 + 8;
    let page: &mut [u8; BLOCK_SIZE] = (&mut bytes[start..start + BLOCK_SIZE]).try_into().unwrap();
    let pointer = u32::from_le_bytes(page[28..32].try_into().unwrap());
    let tuple = (pointer & 0x7FFF) as usize;
    page[tuple + 4] ^= 1;
    let checksum = page::checksum(page, AbsoluteBlock(1));
    page[8..10].copy_from_slice(&checksum.to_le_bytes());
    store(&sandbox, &name, &bytes, false);

    let done = document(&clone, &["--set", "verify.amcheck=shop"], 1);
    assert_eq!(check(&done, "pages").0, "proved");
    let (verdict, error) = check(&done, "amcheck");
    assert_eq!(verdict, "bad");
    assert!(error.contains("pgbench_accounts_pkey"), "{error}");
    assert_nothing_stays(&sandbox);
}

#[test]
fn a_full_disk_tells_nothing() {
    common::require_everything();
    let sandbox = Sandbox::root("pg15-chain");
    let disk = sandbox.small_disk("6m");
    let diff = disk.path().join("diff");
    let clone = sandbox.profile(NEWEST).diff_at(diff).write();
    add(
        &clone,
        "[[verify.sql]]\nname = \"fill\"\ndatabase = \"shop\"\nquery = \"create table big as select g, \
         repeat('x', 500) from generate_series(1, 100000) g\"",
    );
    let done = document(&clone, &[], 3);
    assert_eq!(check(&done, "pages").0, "proved");
    drop(disk);
    assert_nothing_stays(&sandbox);
}

#[test]
fn a_killed_server_tells_nothing() {
    common::require_everything();
    let sandbox = Sandbox::root("pg15-chain");
    let clone = sandbox.profile(NEWEST).write();
    add(
        &clone,
        "[[verify.command]]\nname = \"long\"\nrun = \"touch $PGDATA/running; sleep 100\"",
    );
    let done = thread::scope(|scope| {
        scope.spawn(|| {
            let target = || Some(PathBuf::from(clone.jobs().first()?["target"].as_str()?));
            eventually("the command runs", LIMIT, || {
                target().is_some_and(|target| target.join("running").exists())
            });
            let server = clone.jobs()[0]["server_pid"].as_i64().unwrap();
            kill(Pid::from_raw(server.try_into().unwrap()), Signal::SIGKILL).unwrap();
        });
        document(&clone, &[], 3)
    });
    assert!(done.to_string().contains("exited by itself"), "{done:#}");
    assert_nothing_stays(&sandbox);
}

#[test]
fn a_timeout_tells_nothing() {
    common::require_everything();
    let sandbox = Sandbox::root("pg15-chain");
    let clone = sandbox.profile(NEWEST).write();
    add(
        &clone,
        "[[verify.sql]]\nname = \"slow\"\ndatabase = \"shop\"\nquery = \"select pg_sleep(600)\"\ntimeout = 1\n\
         [[verify.command]]\nname = \"slow\"\nrun = \"sleep 600 & sleep 600; true\"\ntimeout = 1",
    );
    let done = document(&clone, &[], 3);
    for kind in ["sql", "command"] {
        let (verdict, error) = check(&done, kind);
        assert_eq!(verdict, "could-not-tell");
        assert!(error.contains("within 1 s"), "{error}");
    }
    let done = document(
        &clone,
        &[
            "--set",
            "verify.timeout=1",
            "--set",
            "verify.check_timeout=60",
        ],
        3,
    );
    assert!(done.to_string().contains("verify.timeout"), "{done:#}");
    assert_nothing_stays(&sandbox);
}

#[test]
fn a_clone_that_is_up_is_in_nobodys_way() {
    common::require_everything();
    let sandbox = Sandbox::root("pg15-chain");
    let clone = sandbox.profile(NEWEST).write();
    clone.up();
    let done = document(&clone, &[], 0);
    assert_eq!(done["verdict"], "proved");
    assert!(clone.is_mounted());
    clone.down();
    // It does not need the directory in which the clone would be mounted, either.
    let nowhere = sandbox.profile_named("nowhere", NEWEST);
    let nowhere = nowhere.target_at(sandbox.path("missing/clone")).write();
    document(&nowhere, &["--pages"], 0);
    document(&nowhere, &[], 0);
    assert_nothing_stays(&sandbox);
}

#[test]
fn a_postgres_user_verifies_and_a_closed_file_tells_nothing() {
    common::require_everything();
    let sandbox = Sandbox::new("pg15-chain", OsUser::postgres());
    let clone = sandbox.profile(ARCHIVE).write();
    let done = document(
        &clone,
        &["--set", "verify.amcheck=shop", "--set", "verify.dump=shop"],
        0,
    );
    assert_eq!(check(&done, "dump").0, "proved");
    let clone = sandbox.profile(RAW_FULL).write();
    let file = sandbox.fixture.largest_data_file(RAW_FULL);
    fs::set_permissions(&file.path, Permissions::from_mode(0o000)).unwrap();
    let done = document(&clone, &["--pages"], 3);
    assert_eq!(check(&done, "pages").0, "could-not-tell");
    assert_nothing_stays(&sandbox);
}

/// Like a service user, whose HOME does not exist.
#[test]
fn a_user_without_a_home_is_told_once_where_the_history_is() {
    let nobody = OsUser::named("nobody");
    let lasting = PathBuf::from(format!("/var/tmp/pbkfs-{}", nobody.uid));
    let clear = || match fs::remove_dir_all(&lasting) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => panic!("{e}"),
        _ => {}
    };
    clear();
    let sandbox = Sandbox::new("pg15-chain", nobody);
    let clone = sandbox.profile(RAW_FULL).write();
    let mut nights = (0..2).map(|_| {
        let mut verify = clone.command("verify", &["--pages"]);
        let output = run(verify.env_remove("XDG_STATE_HOME"), LIMIT);
        assert_eq!(output.code(), Some(0), "{output}");
        output.stderr
    });
    let said = format!("are kept in {}; set XDG_STATE_HOME to", lasting.display());
    let first = nights.next().unwrap();
    assert!(first.contains(&said), "{first}");
    let second = nights.next().unwrap();
    for word in ["WARN", "ERROR"] {
        assert!(!second.contains(word), "{second}");
    }
    let history = fs::read_dir(lasting.join("verify")).unwrap().next();
    let history = fs::read_to_string(history.unwrap().unwrap().path()).unwrap();
    let entries = history.lines().filter(|line| !line.is_empty());
    assert_eq!(entries.count(), 2, "{history}");
    clear();
    assert_nothing_stays(&sandbox);
}

/// The exit codes 0, 1, 2 and 3, and no others.
#[test]
fn missing_things_and_mistakes_have_their_own_codes() {
    common::require_everything();
    let sandbox = Sandbox::root("pg15-chain");
    let clone = sandbox.profile(NEWEST).write();
    for (set, code) in [
        ("verify.backup=ZZZZZZ", 2),
        ("instance=none", 2),
        ("verify.pagse=true", 2),
        ("verify.known_bad=sometimes", 2),
        ("catalog=/nowhere", 3),
    ] {
        assert_eq!(verify(&clone, &["--set", set]).code(), Some(code), "{set}");
    }
    let done = document(&clone, &["--set", "catalog=/nowhere"], 3);
    assert!(done["error"].to_string().contains("/nowhere"), "{done:#}");

    // A backup that pg_probackup itself reports as bad is bad.
    let control = sandbox.fixture.backup_dir(NEWEST).join("backup.control");
    let text = fs::read_to_string(&control).unwrap();
    for (status, code) in [("MERGING", 3), ("CORRUPT", 1), ("ERROR", 1)] {
        fs::write(
            &control,
            text.replace("status = OK", &format!("status = {status}")),
        )
        .unwrap();
        let done = document(&clone, &[], code);
        assert!(done.to_string().contains(status), "{done:#}");
    }
}

/// Bad according to pg_probackup, whichever backup is checked.
#[test]
fn a_corrupt_backup_is_bad_among_all_and_beside_another() {
    common::require_everything();
    let sandbox = Sandbox::root("pg15-chain");
    let clone = sandbox.profile(RAW_FULL).write();
    let control = sandbox.fixture.backup_dir(NEWEST).join("backup.control");
    let text = fs::read_to_string(&control).unwrap();
    fs::write(&control, text.replace("status = OK", "status = CORRUPT")).unwrap();
    // A backup that is checked.
    let done = document(&clone, &[PAGES_ONLY, ALL].concat(), 1);
    let reports = done["backups"].as_array().unwrap();
    let bad = |report: &&Value| report["verdict"] == "bad";
    let bad: Vec<_> = reports.iter().filter(bad).collect();
    assert_eq!(bad.len(), 1, "{done:#}");
    assert_eq!(bad[0]["backup"], NEWEST);
    assert_eq!(done["skipped"], serde_json::json!([]));

    // And a backup that is not checked, without any history.
    fs::remove_dir_all(sandbox.path("state/verify")).unwrap();
    let others = [PAGES_ONLY, OLDEST].concat();
    let done = document(&clone, &others, 1);
    assert_eq!(done["verdict"], "proved");
    assert_eq!(done["standing"]["bad"][0]["backup"], NEWEST);
    assert!(
        done["standing"]["bad"][0]["error"]
            .to_string()
            .contains("CORRUPT")
    );
    let output = verify(&clone, &others);
    let line = format!("backup {NEWEST}: BAD according to pg_probackup");
    assert!(output.stderr.contains(&line), "{output}");
    let text = metrics(&clone, &others, 1);
    assert!(text.contains(&format!("backup=\"{NEWEST}\"}} 1")), "{text}");
    let report = [&others[..], &["--set", "verify.known_bad=report"]].concat();
    document(&clone, &report, 0);
}

/// Another user's catalog: the message names its owner, and the user to run as.
#[test]
fn a_closed_catalog_tells_nothing_and_names_its_owner() {
    common::require_everything();
    let sandbox = Sandbox::with_catalog_of(&OsUser::root(), "pg15-chain", OsUser::postgres());
    let backups = sandbox.fixture.catalog.join("backups");
    fs::set_permissions(&backups, Permissions::from_mode(0o700)).unwrap();
    let clone = sandbox.profile(NEWEST).write();
    let output = verify(&clone, &[]);
    assert_eq!(output.code(), Some(3), "{output}");
    for part in ["Permission denied", "run pbkfs as its owner, root"] {
        assert!(output.stderr.contains(part), "{part} is missing: {output}");
    }
}

/// Each is a mistake in the profile, not evidence.
#[test]
fn a_wrong_query_does_not_make_a_backup_bad() {
    common::require_everything();
    let sandbox = Sandbox::root("pg15-chain");
    for (database, query, expect, code, said) in [
        ("shop", "select 1", ">> 0", 2, ">> 0"),
        ("shop", "select 1", "age < banana", 2, "banana"),
        ("none", "select 1", "1", 3, "none"),
        ("shop", "select * from none", "1", 3, "select * from none"),
        ("shop", "select 1 +", "1", 3, "syntax error"),
        ("shop", "select 'x'", "> 0", 3, "invalid input syntax"),
        ("shop", "select 1", "> 5", 1, "expected"),
    ] {
        let clone = sandbox.profile(NEWEST).write();
        add(
            &clone,
            &format!(
                "[verify]\npages = false\n[[verify.sql]]\nname = \"wrong\"\n\
                 database = \"{database}\"\nquery = \"{query}\"\nexpect = \"{expect}\""
            ),
        );
        let output = verify(&clone, &[]);
        assert_eq!(output.code(), Some(code), "{expect} {query}: {output}");
        assert!(output.stderr.contains(said), "{expect} {query}: {output}");
    }
    assert_nothing_stays(&sandbox);
}

/// Less than the profile requests.
const PAGES_ONLY: &[&str] = &["--set", "verify.start=false"];

const OLDEST: &[&str] = &["--set", "verify.backup=oldest-unverified"];

const ALL: &[&str] = &["--set", "verify.backup=all"];

fn metrics(clone: &TestClone<'_>, arguments: &[&str], code: i32) -> String {
    let file = clone.sandbox.path("pbkfs.prom");
    let set = format!("verify.prometheus={}", file.display());
    document(clone, &[arguments, &["--set", &set]].concat(), code);
    let mut check = Command::new("sh");
    check.args(["-c", r#""$0" check metrics <"$1""#]);
    check.arg(common::require_promtool()).arg(&file);
    run(&mut check, LIMIT).expect_ok();
    fs::read_to_string(file).unwrap()
}

#[test]
fn pages_alone_prove_nothing_that_was_asked_for_besides() {
    common::require_everything();
    let sandbox = Sandbox::root("pg15-chain");
    let clone = sandbox.profile(NEWEST).write();
    let done = document(&clone, &["--pages"], 0);
    let report = &done["backups"][0];
    assert_eq!(
        (&done["verdict"], &report["verdict"]),
        (&"pages-right".into(), &"pages-right".into())
    );
    assert_eq!(report["recovered_time"], Value::Null);
    assert_eq!(
        (&done["standing"]["proved"], &done["standing"]["unproved"]),
        (&0.into(), &7.into())
    );
    let text = metrics(&clone, &["--pages"], 0);
    assert!(text.contains("pbkfs_verify_success{"), "{text}");
    assert!(!text.contains("last_success"), "{text}");
    assert!(!text.contains("recovered_timestamp"), "{text}");
    let said = verify(&clone, &["--pages", "-v"]).expect_ok();
    assert!(
        said.contains("pages right") && !said.contains("proved"),
        "{said}"
    );
    assert!(!said.contains("recovered to"), "{said}");
    // For a profile that requests no more, this is a proof.
    let done = document(&clone, &[&["--pages"], PAGES_ONLY].concat(), 0);
    assert_eq!(done["verdict"], "proved");
    assert_eq!(done["standing"]["proved"], 1);
}

/// One damaged backup among all, one night for each backup: checking the next backup
/// does not resolve the alert.
#[test]
fn a_bad_backup_is_bad_every_night_until_it_is_proved() {
    common::require_everything();
    let sandbox = Sandbox::root("pg15-chain");
    let clone = sandbox.profile(NEWEST).write();
    let night = |more: &[&str], code| document(&clone, &[PAGES_ONLY, OLDEST, more].concat(), code);
    let oldest = sandbox.fixture.backups()[0].id.clone();
    let file = sandbox.fixture.largest_data_file(&oldest);
    let whole = fs::read(&file.path).unwrap();
    flip_byte(&file.path, fs::metadata(&file.path).unwrap().len() / 2);

    let done = night(&[], 1);
    assert_eq!(done["backups"][0]["backup"], *oldest);
    let mut looked_at = Vec::new();
    for _ in 2..=7 {
        let done = night(&[], 1);
        let report = &done["backups"][0];
        if report["verdict"] == "proved" {
            looked_at.push(report["backup"].clone());
            assert_eq!(done["verdict"], "proved");
        }
        assert_eq!(done["standing"]["bad"][0]["backup"], *oldest);
    }
    assert!(!looked_at.is_empty());
    let output = verify(&clone, PAGES_ONLY);
    let line = format!("backup {oldest}: BAD since");
    assert!(output.stderr.contains(&line), "{output}");
    assert!(
        output.stderr.contains("backup TOW7KQ (DELTA): proved"),
        "{output}"
    );
    let text = metrics(&clone, PAGES_ONLY, 1);
    let sample = format!("backup=\"{oldest}\"}} 1");
    assert!(text.contains(&sample), "{text}");
    assert!(text.contains("state=\"bad\""), "{text}");
    let done = document(
        &clone,
        &[PAGES_ONLY, &["--set", "verify.known_bad=report"]].concat(),
        0,
    );
    assert_eq!(done["standing"]["bad"][0]["backup"], *oldest);

    // A copy of the catalog elsewhere must be checked separately.
    let copy = sandbox.path("copy");
    let mut cp = Command::new("cp");
    run(cp.arg("-a").arg(&sandbox.fixture.catalog).arg(&copy), LIMIT).expect_ok();
    let elsewhere = format!("catalog={}", copy.display());
    let done = document(&clone, &[PAGES_ONLY, &["--set", &elsewhere]].concat(), 0);
    assert_eq!(done["standing"]["bad"], Value::Array(Vec::new()));
    assert_eq!(done["standing"]["proved"], 1);

    // Only a proof clears the verdict; anything less does not.
    fs::write(&file.path, whole).unwrap();
    let this = format!("verify.backup={oldest}");
    document(&clone, &["--pages", "--set", &this], 1);
    document(&clone, &[PAGES_ONLY, &["--set", &this]].concat(), 0);
    let text = metrics(&clone, PAGES_ONLY, 0);
    assert!(text.contains(&format!("backup=\"{oldest}\"}} 0")), "{text}");
}

#[test]
fn cron_gets_no_mail_and_its_files() {
    let pg = common::require_everything();
    let sandbox = Sandbox::root("pg15-chain");
    let clone = sandbox.profile(NEWEST).write();
    let count = {
        let ready = clone.up();
        let count = pg.psql(
            ready.conninfo(),
            "shop",
            "select count(*) from pgbench_accounts",
        );
        clone.down();
        count
    };
    let dumps = sandbox.path("dumps");
    fs::create_dir(&dumps).unwrap();
    let (prom, html) = (sandbox.path("x.prom"), sandbox.path("x.html"));
    add(
        &clone,
        &format!(
            "[verify]\namcheck = true\ndump = [\"shop\"]\ndump_dir = {dumps:?}\nprometheus = {prom:?}\n\
             html = {html:?}\n\
             [[verify.sql]]\nname = \"exact\"\ndatabase = \"shop\"\nquery = \"select count(*) from pgbench_accounts\"\nexpect = {count}\n\
             [[verify.sql]]\nname = \"some\"\ndatabase = \"shop\"\nquery = \"select count(*) from pgbench_accounts\"\nexpect = \"> 0\"\n\
             [[verify.sql]]\nname = \"age\"\ndatabase = \"shop\"\nquery = \"select now() - interval '1 hour'\"\nexpect = \"age < 1 day\"\n\
             [[verify.command]]\nname = \"env\"\nrun = \"test -n \\\"$PGHOST$PGPORT\\\" && test $(id -un) = postgres && test -f $PGDATA/PG_VERSION\"\n"
        ),
    );
    let output = verify(&clone, &[]);
    assert_eq!(
        (output.code(), &*output.stdout, &*output.stderr),
        (Some(0), "", ""),
        "{output}"
    );

    let prom = fs::read_to_string(prom).unwrap();
    for line in [
        "pbkfs_verify_success{profile=\"clone\",instance=\"main\"} 1\n",
        "pbkfs_verify_check_success{profile=\"clone\",instance=\"main\",check=\"sql:exact\"} 1\n",
        "pbkfs_verify_last_success_timestamp_seconds{profile=\"clone\",instance=\"main\"} 1",
        "phase=\"start\"}",
    ] {
        assert!(prom.contains(line), "{prom}");
    }
    assert!(prom.ends_with('\n'));
    let html = fs::read_to_string(html).unwrap();
    assert!(html.contains("<svg") && html.contains(NEWEST) && html.ends_with("</html>\n"));
    assert!(
        !html.contains("src=") && !html.contains("href="),
        "it needs nothing else"
    );
    let dump = dumps.join("shop.dump");
    let listed = pg.run("pg_restore", &["--list", dump.to_str().unwrap()]);
    // Only root can read root's files.
    assert!(!listed.status.success());
    fs::set_permissions(&dump, Permissions::from_mode(0o644)).unwrap();
    let listed = pg
        .run("pg_restore", &["--list", dump.to_str().unwrap()])
        .expect_ok();
    assert!(listed.contains("pgbench_accounts"), "{listed}");
    assert_eq!(fs::read_dir(&dumps).unwrap().count(), 1);
    // With -v, the result is printed.
    let told = verify(&clone, &["--pages", "-v"]);
    assert!(told.stdout.contains("pages right"), "{told}");

    add(
        &clone,
        "[[verify.sql]]\nname = \"wrong\"\ndatabase = \"shop\"\nquery = \"select 1\"\nexpect = \"> 5\"",
    );
    let done = document(&clone, &[], 1);
    assert!(done.to_string().contains("expected"), "{done:#}");
}

#[test]
fn the_oldest_unverified_walks_the_catalog() {
    let sandbox = Sandbox::root("pg15-chain");
    let clone = sandbox.profile(NEWEST).write();
    let ids: Vec<String> = sandbox
        .fixture
        .backups()
        .into_iter()
        .map(|b| b.id)
        .collect();
    let next = || {
        let done = document(&clone, &[PAGES_ONLY, OLDEST].concat(), 0);
        done["backups"][0]["backup"].as_str().unwrap().to_owned()
    };
    let walked: Vec<String> = (0..ids.len() + 1).map(|_| next()).collect();
    assert_eq!(walked[..ids.len()], ids);
    assert_eq!(walked[ids.len()], ids[0], "and around again");
}

/// The first line and the body of each request.
type Asked = Arc<Mutex<Vec<(String, String)>>>;

/// Serves HTTP on loopback, responds with `status`, and records the requests.
fn serve(status: &'static str) -> (String, Asked) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/id", listener.local_addr().unwrap());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let kept = asked.clone();
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let mut client = client;
            client
                .set_read_timeout(Some(Duration::from_secs(10)))
                .unwrap();
            let mut bytes = Vec::new();
            let mut part = [0; 4096];
            // The headers, then a body of the size they give.
            let (head, body) = loop {
                let count = client.read(&mut part).unwrap_or(0);
                bytes.extend(&part[..count]);
                let text = String::from_utf8_lossy(&bytes).into_owned();
                if let Some((head, body)) = text.split_once("\r\n\r\n") {
                    let length = head.lines().find_map(|line| {
                        let (name, value) = line.split_once(':')?;
                        name.eq_ignore_ascii_case("content-length")
                            .then(|| value.trim().parse::<usize>().unwrap())
                    });
                    if body.len() >= length.unwrap_or(0) {
                        break (head.to_owned(), body.to_owned());
                    }
                }
                if count == 0 {
                    break (text, String::new());
                }
            };
            let first = head.lines().next().unwrap_or_default().to_owned();
            kept.lock().unwrap().push((first, body));
            let _ = write!(
                client,
                "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            );
        }
    });
    (url, asked)
}

#[test]
fn a_url_is_told_and_changes_nothing() {
    let sandbox = Sandbox::root("pg15-chain");
    let clone = sandbox.profile(RAW_FULL).write();
    let (url, asked) = serve("200 OK");
    let set = format!("verify.ping={url}");
    document(&clone, &[PAGES_ONLY, &["--set", &set]].concat(), 0);
    let file = sandbox.fixture.largest_data_file(RAW_FULL);
    flip_byte(&file.path, 5000);
    document(&clone, &[PAGES_ONLY, &["--set", &set]].concat(), 1);
    let asked = asked.lock().unwrap().clone();
    let lines: Vec<_> = asked.iter().map(|(line, _)| line.as_str()).collect();
    assert_eq!(
        lines,
        ["start", "0", "start", "1"].map(|what| format!("POST /id/{what} HTTP/1.1"))
    );
    assert!(asked[1].1.contains("proved") && asked[3].1.contains(&file.name));

    // A URL that fails, and one without a server.
    let (failing, tried) = serve("500 Internal Server Error");
    document(
        &clone,
        &["--pages", "--set", &format!("verify.ping={failing}")],
        1,
    );
    assert_eq!(tried.lock().unwrap().len(), 6, "each is tried three times");
    document(
        &clone,
        &["--pages", "--set", "verify.ping=http://127.0.0.1:1/x"],
        1,
    );
}

#[test]
fn after_a_kill_in_any_phase_the_next_run_clears_up() {
    common::require_everything();
    let sandbox = Sandbox::root("pg15-chain");
    let clone = sandbox.profile(NEWEST).write();
    add(
        &clone,
        &format!(
            "[verify]\nhtml = {:?}\ndump = [\"shop\"]\n\
             [[verify.command]]\nname = \"wait\"\nrun = \"test ! -e {1} || {{ touch {1}.seen; sleep 600; }}\"",
            sandbox.path("x.html"),
            sandbox.path("wait").display()
        ),
    );
    for delay in [20, 120, 500, 900, 1500, 2500] {
        let mut running = Running::spawn(&mut command(&clone, &[]));
        thread::sleep(Duration::from_millis(delay));
        if !running.has_ended() {
            running.signal(Signal::SIGKILL);
        }
        let _ = running.wait_or_kill(LIMIT);
        document(&clone, &[], 0);
        assert_nothing_stays(&sandbox);
    }
    // Certainly in the last phase.
    fs::write(sandbox.path("wait"), "").unwrap();
    fs::set_permissions(sandbox.dir(), Permissions::from_mode(0o1777)).unwrap();
    let running = Running::spawn(&mut command(&clone, &[]));
    let seen = sandbox.path("wait.seen");
    eventually("the command runs", LIMIT, || Path::new(&seen).exists());
    running.signal(Signal::SIGKILL);
    let _ = running.wait_or_kill(LIMIT);
    fs::remove_file(sandbox.path("wait")).unwrap();
    document(&clone, &[], 0);
    assert_nothing_stays(&sandbox);
}

/// Each has its own number, and any later one clears up after all of them.
#[test]
fn jobs_that_were_killed_together_are_cleared_up_by_one() {
    common::require_everything();
    let sandbox = Sandbox::root("pg15-chain");
    fs::set_permissions(sandbox.dir(), Permissions::from_mode(0o1777)).unwrap();
    let clone = sandbox.profile(NEWEST).write();
    let seen = sandbox.path("seen");
    let run = format!(
        "[[verify.command]]\nname = \"wait\"\nrun = \"touch {}.$PPID; sleep 600\"",
        seen.display()
    );
    add(&clone, &run);
    let start = |_| Running::spawn(&mut command(&clone, &["--set", "verify.pages=false"]));
    let jobs: Vec<_> = (0..3).map(start).collect();
    let count = || {
        let entries = fs::read_dir(sandbox.dir()).unwrap().flatten();
        let names = entries.map(|entry| entry.file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("seen.")).count()
    };
    eventually("all of them are running", LIMIT, || count() == 3);
    for job in &jobs {
        job.signal(Signal::SIGKILL);
    }
    for job in jobs {
        let _ = job.wait_or_kill(LIMIT);
    }
    // A job that needs no mount, in a place of its own, clears up after all of them.
    document(&clone, &["--pages"], 0);
    assert_nothing_stays(&sandbox);
}
