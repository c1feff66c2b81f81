//! What can be observed of a clone: its counters, its changes, and its logs.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::fixture::flip_byte;
use common::process::run;
use common::session::{LIMIT, TestClone, sessions_in};
use common::{OsUser, PgTools, Sandbox, assert_nothing_stays, eventually, refused};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("no JSON ({error}): {text}"))
}

/// Returns the counters of the only session on the clone's target.
#[track_caller]
fn counters(clone: &TestClone, arguments: &[&str]) -> Value {
    let mut all = vec!["--json"];
    all.extend(arguments);
    let sessions = json(&clone.pbkfs("status", &all).expect_ok());
    sessions["sessions"][0]["counters"].clone()
}

fn pages(counters: &Value) -> u64 {
    ["raw", "zlib", "pglz", "lz4", "zstd"]
        .iter()
        .map(|codec| counters[format!("pages_{codec}")].as_u64().unwrap())
        .sum()
}

/// The table `t` of the fixture, too large to be copied up whole.
const TABLE: &str = "base/5/16384";

fn counters_move(user: OsUser) {
    common::require_everything();
    let sandbox = Sandbox::new("pg15-debian", user.clone());
    let clone = sandbox.profile("latest").mount_only().write();
    clone.up();
    let before = counters(&clone, &[]);
    let cat = || {
        let read = run(user.command("cat").arg(clone.target.join(TABLE)), LIMIT);
        assert!(read.status.success());
    };
    cat();
    let read = counters(&clone, &[]);
    let mut stat = user.command("stat");
    let length = run(
        stat.args(["--format=%s"]).arg(clone.target.join(TABLE)),
        LIMIT,
    );
    let length: u64 = length.expect_ok().trim().parse().unwrap();
    assert!(length > 1 << 20, "{length}");
    assert!(pages(&read) - pages(&before) >= length / 8192);
    assert!(read["reads"].as_u64() > before["reads"].as_u64());
    assert!(read["read_bytes"].as_u64().unwrap() >= length);
    assert!(read["index_cache_misses"].as_u64().unwrap() > 0);
    assert_eq!(read["writes"], 0);
    assert_eq!(read["diff_blocks"], 0);

    cat();
    let again = counters(&clone, &[]);
    // The kernel has cached them, and may have reclaimed a few of them since.
    let reread = pages(&again) - pages(&read);
    assert!(reread < length / 8192 / 4, "{reread} pages were read again");

    let dd = |seek: &str| {
        let mut dd = user.command("dd");
        dd.args(["if=/dev/zero", "bs=8192", "count=1", "conv=notrunc,fsync"]);
        dd.arg(format!("of={}", clone.target.join(TABLE).display()));
        run(dd.arg(format!("seek={seek}")), LIMIT).expect_ok();
    };
    dd("3");
    dd("7");
    let written = counters(&clone, &[]);
    assert_eq!(written["writes"], 2);
    assert_eq!(written["written_bytes"], 2 * 8192);
    assert_eq!(written["diff_blocks"], 2);
    assert!(written["fsyncs"].as_u64().unwrap() >= 2);
    assert!(written["commits"].as_u64().unwrap() >= 2);

    let text = clone.pbkfs("status", &[]).expect_ok();
    assert!(text.contains("2 changed blocks in the diff"), "{text}");
    let text = clone.pbkfs("status", &["--counters"]).expect_ok();
    assert!(text.contains("written_bytes          16384"), "{text}");

    assert_eq!(counters(&clone, &["--reset"])["writes"], 2);
    let reset = counters(&clone, &[]);
    assert_eq!(reset["writes"], 0);
    assert_eq!(pages(&reset), 0);
    assert_eq!(reset["diff_blocks"], 2, "what is in the diff stays there");
    clone.down();
    assert_nothing_stays(&sandbox);
}

#[test]
fn counters_move_for_root() {
    counters_move(OsUser::root());
}

#[test]
fn counters_move_for_others() {
    counters_move(OsUser::postgres());
}

#[test]
fn small_files_pass_through_for_root() {
    common::require_everything();
    let sandbox = Sandbox::root("pg15-debian");
    let clone = sandbox.profile("latest").mount_only().write();
    clone.up();
    // Opening for writing copies the file, even if nothing is written.
    let small = clone.target.join("PG_VERSION");
    drop(fs::OpenOptions::new().write(true).open(small).unwrap());
    fs::write(clone.target.join("new"), b"new").unwrap();
    let counted = counters(&clone, &[]);
    assert!(counted["passthrough_opens"].as_u64().unwrap() >= 2);
    assert!(counted["copy_ups"].as_u64().unwrap() >= 1);
    // The kernel reports a close with some delay.
    eventually("the closed copy is counted", LIMIT, || {
        counters(&clone, &[])["unchanged_copy_bytes"]
            .as_u64()
            .unwrap()
            >= 3
    });
    clone.down();
}

/// Splits a sample line of the text format into name, labels and value.
fn sample(line: &str) -> (&str, &str, u64) {
    let (name, rest) = line.split_once('{').expect(line);
    let (labels, value) = rest.rsplit_once("} ").expect(line);
    assert!(
        name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'),
        "{line}"
    );
    for label in labels.split("\",") {
        let (key, value) = label.split_once("=\"").expect(line);
        assert!(
            key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'),
            "{line}"
        );
        assert!(!value.trim_end_matches('"').contains('\n'));
    }
    (name, labels, value.parse().expect(line))
}

#[test]
fn prometheus_can_read_it() {
    common::require_everything();
    let sandbox = Sandbox::root("pg15-debian");
    let clone = sandbox.profile("latest").mount_only().write();
    let ready = clone.up();
    fs::read(clone.target.join(TABLE)).unwrap();
    let text = clone.pbkfs("status", &["--prometheus"]).expect_ok();
    assert!(text.ends_with('\n'));
    let mut families = BTreeSet::new();
    let mut family = String::new();
    let mut kind = String::new();
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            family = help.split(' ').next().unwrap().to_owned();
            assert!(family.starts_with("pbkfs_"), "{line}");
            assert!(families.insert(family.clone()), "{family} appears twice");
        } else if let Some(of) = line.strip_prefix("# TYPE ") {
            let (name, of) = of.split_once(' ').unwrap();
            assert_eq!(name, family);
            kind = of.to_owned();
            assert!(["counter", "gauge"].contains(&of), "{line}");
        } else {
            let (name, labels, value) = sample(line);
            assert_eq!(name, family);
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            if name == "pbkfs_build_info" {
                continue;
            }
            let target = clone.target.display();
            let expected = format!(
                "target=\"{target}\",instance=\"main\",backup=\"{}\"",
                ready.backup
            );
            assert!(labels.starts_with(&expected), "{line}");
            if labels.ends_with("codec=\"none\"") {
                assert!(value >= 160, "{line}");
            }
        }
    }
    for expected in [
        "pbkfs_pages_decoded_total",
        "pbkfs_errors_total",
        "pbkfs_session_state",
        "pbkfs_diff_blocks",
        "pbkfs_diff_bytes",
    ] {
        assert!(families.contains(expected), "no {expected}: {text}");
    }
    clone.down();
}

fn threads_are_stopped(pid: i32) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let mut stats = threads.map(|thread| fs::read_to_string(thread.path().join("stat")));
    // The state follows the name, which is in parentheses.
    stats.all(|stat| stat.is_ok_and(|stat| stat.contains(") T ")))
}

/// An owner that hangs is still shown, quickly, and with a warning.
#[test]
fn status_does_not_wait_for_a_hanging_owner() {
    common::require_everything();
    let sandbox = Sandbox::new("pg15-debian", OsUser::postgres());
    let clone = sandbox.profile("latest").mount_only().write();
    let ready = clone.up();
    kill(Pid::from_raw(ready.pid), Signal::SIGSTOP).unwrap();
    // Its threads stop one by one, a little later.
    eventually("every thread of the owner is stopped", LIMIT, || {
        threads_are_stopped(ready.pid)
    });
    let begun = Instant::now();
    let output = run(sandbox.pbkfs().args(["status", "--json"]), LIMIT);
    let took = begun.elapsed();
    kill(Pid::from_raw(ready.pid), Signal::SIGCONT).unwrap();
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert!(
        output.stderr.contains(&format!("pid {}", ready.pid)),
        "{output}"
    );
    let sessions = sessions_in(&output.expect_ok());
    assert_eq!(sessions[0]["state"], "ready");
    assert!(sessions[0].get("counters").is_none(), "{sessions:?}");
    assert!(
        counters(&clone, &[])["reads"].is_u64(),
        "the owner has recovered"
    );
    clone.down();
}

/// Returns the database's files in the output of `diff --json`, as (kind, path).
#[track_caller]
fn relations(report: &Value, database: u64) -> BTreeSet<(String, String)> {
    let databases = report["databases"].as_array().unwrap();
    let files = databases
        .iter()
        .filter(|found| found["oid"] == database)
        .flat_map(|found| found["files"].as_array().unwrap());
    files
        .filter(|file| file["relation"]["relfilenode"].as_u64() >= Some(16384))
        .map(|file| {
            let text = |key| file[key].as_str().unwrap().to_owned();
            (text("kind"), text("path"))
        })
        .collect()
}

fn set(entries: &[(&str, &str)]) -> BTreeSet<(String, String)> {
    let owned = |(kind, path): &(&str, &str)| ((*kind).to_owned(), (*path).to_owned());
    entries.iter().map(owned).collect()
}

fn file<'a>(report: &'a Value, path: &str) -> &'a Value {
    let databases = report["databases"].as_array().unwrap();
    let mut files = databases
        .iter()
        .flat_map(|found| found["files"].as_array().unwrap());
    files
        .find(|file| file["path"] == path)
        .unwrap_or_else(|| panic!("no {path}: {report}"))
}

fn path_of(pg: &PgTools, conninfo: &str, table: &str) -> String {
    let ask = format!("select pg_relation_filepath('{table}')");
    pg.psql(conninfo, "postgres", &ask)
}

fn diff_tells(user: OsUser) {
    let pg = common::require_everything();
    let sandbox = Sandbox::new("pg15-debian", user);
    let clone = sandbox.profile("latest").write();
    let diff = clone.diff.clone().unwrap();
    let ready = clone.up();
    let report = |arguments: &[&str]| json(&clone.pbkfs("diff", arguments).expect_ok());
    assert_eq!(relations(&report(&["--json"]), 5), set(&[]));

    // One row: its page, and the page of its new version.
    let sql = "update t set v = 'changed' where ctid = (select min(ctid) from t); checkpoint";
    for statement in sql.split("; ") {
        pg.psql(ready.conninfo(), "postgres", statement);
    }
    let running = report(&["--json"]);
    assert_eq!(running["mounted"], true);
    assert_eq!(running["backup"], ready.backup.as_str());
    let main: BTreeSet<_> = relations(&running, 5)
        .into_iter()
        .filter(|(_, path)| !path.contains('_'))
        .collect();
    assert_eq!(main, set(&[("changed", TABLE)]));
    let changed = file(&running, TABLE);
    let blocks = changed["blocks"].as_u64().unwrap();
    assert!((1..=3).contains(&blocks), "{changed}");
    assert_eq!(changed["bytes"], blocks * 8192);

    let sql = "create table made as select generate_series(1, 1000) as n; checkpoint";
    for statement in sql.split("; ") {
        pg.psql(ready.conninfo(), "postgres", statement);
    }
    let made = path_of(&pg, ready.conninfo(), "made");
    for statement in ["drop table t", "checkpoint"] {
        pg.psql(ready.conninfo(), "postgres", statement);
    }
    let running = report(&["--json"]);
    let main = |report: &Value| -> BTreeSet<_> {
        relations(report, 5)
            .into_iter()
            .filter(|(_, path)| path == TABLE || *path == made)
            .collect()
    };
    let expected = set(&[("deleted", TABLE), ("new", &made)]);
    assert_eq!(main(&running), expected);
    assert_eq!(file(&running, &made)["bytes"], 5 * 8192);
    let by_diff = run(
        sandbox.pbkfs().args(["diff", "--json", "-d"]).arg(&diff),
        LIMIT,
    );
    assert_eq!(main(&json(&by_diff.expect_ok())), expected);

    clone.down();
    let stopped = report(&["--json"]);
    assert_eq!(stopped["mounted"], false);
    assert_eq!(main(&stopped), expected);
    assert_eq!(file(&stopped, &made)["bytes"], 5 * 8192);
    let text = clone.pbkfs("diff", &[]).expect_ok();
    assert!(
        text.contains("database 5:") && text.contains(&made),
        "{text}"
    );

    // Without the backup, only the names that depend on it are missing.
    fs::rename(&sandbox.fixture.catalog, sandbox.path("store/away")).unwrap();
    let output = run(
        sandbox.pbkfs().args(["diff", "--json", "-d"]).arg(&diff),
        LIMIT,
    );
    assert!(output.stderr.contains("some names are unknown"), "{output}");
    let blind = output.expect_ok();
    assert!(blind.contains("(image node "), "{blind}");
    fs::rename(sandbox.path("store/away"), &sandbox.fixture.catalog).unwrap();
    assert_nothing_stays(&sandbox);
}

#[test]
fn diff_tells_what_root_changed() {
    diff_tells(OsUser::root());
}

#[test]
fn diff_tells_what_others_changed() {
    diff_tells(OsUser::postgres());
}

#[test]
fn diff_of_nothing_is_refused() {
    common::require_everything();
    let sandbox = Sandbox::root("pg15-debian");
    let clone = sandbox.profile("latest").throw_away().mount_only().write();
    refused(&clone.pbkfs("diff", &[]), 2, "diff_dir");
    let diff = |dir: &Path| run(sandbox.pbkfs().args(["diff", "-d"]).arg(dir), LIMIT);
    let missing = sandbox.path("missing");
    refused(&diff(&missing), 5, missing.to_str().unwrap());
    assert!(!missing.exists());
    refused(&run(sandbox.pbkfs().arg("diff"), LIMIT), 2, "<PROFILE>");
    refused(&diff(&sandbox.path("run")), 5, "not a pbkfs diff");
}

#[test]
fn status_of_nothing() {
    common::require_root();
    let sandbox = Sandbox::root("pg15-debian");
    let clone = sandbox.profile("latest").write();
    let status = clone.pbkfs("status", &[]);
    let nothing = format!("nothing runs on {}\n", clone.target.display());
    assert_eq!((status.code(), status.stdout), (Some(3), nothing));
    assert_eq!(clone.status(), Vec::<Value>::new());
    run(sandbox.pbkfs().arg("status"), LIMIT).expect_ok();
    let output = run(sandbox.pbkfs().args(["status", "missing.toml"]), LIMIT);
    refused(&output, 2, "missing.toml");
    refused(
        &clone.pbkfs("status", &["--json", "--counters"]),
        2,
        "--counters",
    );
}

/// Returns the daily files next to the link at `log`.
fn days(log: &Path) -> Vec<PathBuf> {
    let name = log.file_name().unwrap().to_str().unwrap();
    let entries = fs::read_dir(log.parent().unwrap()).unwrap().flatten();
    let days = entries.filter(|entry| {
        let entry_name = entry.file_name().into_string().unwrap();
        entry_name.starts_with(&format!("{name}.")) && entry.file_type().unwrap().is_file()
    });
    days.map(|entry| entry.path()).collect()
}

#[test]
fn a_log_file_gets_every_line_as_json() {
    common::require_everything();
    let sandbox = Sandbox::new("pg15-debian", OsUser::postgres());
    let log = sandbox.path("run/clone.log");
    let clone = sandbox
        .profile("latest")
        .with("log.file", &format!("{log:?}"))
        .with("log.format", "\"json\"")
        .with("log.level", "\"debug\"")
        .setting("observe.conninfo", "host=h password='hunter two' user=u")
        .setting("observe.url", "postgres://u:hunter3@h/db")
        .write();
    let output = clone.pbkfs("up", &["--detach", "--json"]);
    assert_eq!(output.stderr, "", "{output}");
    let ready = json(&output.expect_ok());
    clone.down();
    assert_eq!(days(&log).len(), 1);
    let text = fs::read_to_string(&log).unwrap();
    assert!(!text.contains("hunter"), "{text}");
    let lines: Vec<Value> = text.lines().map(json).collect();
    let stopped = |line: &&Value| line["message"] == "PostgreSQL was stopped";
    let last = lines
        .iter()
        .find(stopped)
        .expect("a line after the clone was ready");
    assert_eq!(last["level"], "INFO");
    assert_eq!(last["span"]["command"], "up");
    assert_eq!(last["span"]["backup"], ready["backup"]);
    assert_eq!(last["span"]["target"], clone.target.to_str().unwrap());
    fs::remove_file(&log).unwrap();
    for day in days(&log) {
        fs::remove_file(day).unwrap();
    }
    assert_nothing_stays(&sandbox);
}

#[test]
fn the_command_line_says_where_to_log() {
    common::require_everything();
    let sandbox = Sandbox::root("pg15-debian");
    let clone = sandbox.profile("latest").mount_only().write();
    let log = sandbox.path("by-flag.log");
    let arguments = ["--detach", "-v", "--log", "by-flag.log"];
    clone.pbkfs("up", &arguments).expect_ok();
    clone.down();
    let text = fs::read_to_string(&log).unwrap();
    assert!(text.contains("command=\"up\""), "{text}");
    assert!(!text.contains('\x1b'), "no colours in a file: {text}");

    let output = clone.pbkfs("plan", &["--json", "-v", "--log-format", "json"]);
    for line in output.stderr.lines() {
        json(line);
    }
    // A log that cannot be created does not make a command fail.
    let lost = clone.pbkfs("status", &["--log", "/proc/no/such.log"]);
    assert!(lost.stderr.contains("/proc/no/such.log"), "{lost}");
    // The code is 3 because nothing is running there.
    assert_eq!(lost.code(), Some(3));
}

#[test]
fn secrets_of_the_command_line_are_not_told() {
    common::require_everything();
    let sandbox = Sandbox::root("pg15-debian");
    let clone = sandbox.profile("latest").write();
    for set in [
        "postgres.settings.primary_conninfo=host=h password=hunter2",
        "postgres.settings.shared_buffers=password='hunter two'",
        "postgres.port=postgres://u:hunter3@h/db",
    ] {
        let output = clone.pbkfs("up", &["-vv", "--set", set]);
        assert!(!output.status.success(), "{output}");
        assert!(!output.stderr.contains("hunter"), "{output}");
        assert!(!output.stderr.is_empty());
    }
    assert_nothing_stays(&sandbox);
}

fn a_damaged_page_is_told(user: OsUser) {
    common::require_everything();
    let sandbox = Sandbox::new("pg15-chain", user.clone());
    let full = sandbox.fixture.backups()[0].id.clone();
    let victim = sandbox.fixture.largest_data_file(&full);
    flip_byte(&victim.path, 8 + 40);
    let clone = sandbox.profile(&full).mount_only().write();
    let (running, _) = clone.up_in_foreground();
    let path = clone.target.join(&victim.name);
    let read = || {
        let output = run(user.command("cat").arg(&path), LIMIT);
        assert!(output.stderr.contains("Input/output error"), "{output}");
    };
    read();
    let faults = |text: &str| {
        let faults = text.lines().filter(|line| line.contains("ERROR"));
        faults.map(str::to_owned).collect::<Vec<_>>()
    };
    eventually("the fault is logged", LIMIT, || {
        !faults(&running.stderr()).is_empty()
    });
    let line = faults(&running.stderr()).remove(0);
    for fact in [
        format!("block 0 of {}", victim.name),
        format!("in backup {full}"),
        "at offset 0 in".to_owned(),
    ] {
        assert!(line.contains(&fact), "{fact} is missing: {line}");
    }
    let counted = counters(&clone, &[]);
    assert!(counted["errors_damaged_page"].as_u64().unwrap() > 0);
    let text = clone.pbkfs("status", &[]).expect_ok();
    assert!(text.contains("requests failed"), "{text}");

    for _ in 0..40 {
        read();
    }
    running.signal(Signal::SIGTERM);
    let output = running.wait(LIMIT);
    let faults = faults(&output.stderr);
    assert!(faults.len() < 30, "a flood: {output}");
    assert!(
        faults
            .iter()
            .any(|line| line.contains("more failures like those above"))
    );
    output.expect_ok();
    assert_nothing_stays(&sandbox);
}

#[test]
fn a_damaged_page_is_told_to_root() {
    a_damaged_page_is_told(OsUser::root());
}

#[test]
fn a_damaged_page_is_told_to_others() {
    a_damaged_page_is_told(OsUser::postgres());
}
