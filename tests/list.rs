//! `pbkfs list`: the same facts as pg_probackup's own list, and what each backup can
//! be used for.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::fs;

use common::session::LIMIT;
use common::{FIXTURES, Listing, OsUser, Output, Sandbox, refused, run};
use serde_json::Value;

fn list(sandbox: &Sandbox, arguments: &[&str]) -> Output {
    let mut command = sandbox.pbkfs();
    command.arg("list").arg("-B").arg(&sandbox.fixture.catalog);
    run(command.args(arguments), LIMIT)
}

fn backups(sandbox: &Sandbox) -> Vec<Value> {
    let text = list(sandbox, &["--json"]).expect_ok();
    let report: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(report["version"], 1);
    assert!(report["instances"][0]["system_identifier"].is_string());
    assert_eq!(report["catalog"], sandbox.fixture.catalog.to_str().unwrap());
    assert_eq!(report["instances"].as_array().unwrap().len(), 1);
    assert_eq!(report["instances"][0]["name"], "main");
    report["instances"][0]["backups"]
        .as_array()
        .unwrap()
        .clone()
}

#[test]
fn every_backup_with_what_pg_probackup_says_of_it() {
    common::require_root();
    for name in FIXTURES {
        let sandbox = Sandbox::root(name);
        let before = Listing::of(&sandbox.fixture.catalog);
        let show = fs::read_to_string(common::fixture::recorded(name).join("show.json")).unwrap();
        let show: Value = serde_json::from_str(&show).unwrap();
        let recorded = show[0]["backups"].as_array().unwrap();
        let listed = backups(&sandbox);
        assert_eq!(listed.len(), recorded.len());
        for line in &listed {
            let recorded = recorded
                .iter()
                .find(|other| other["id"] == line["id"])
                .unwrap();
            for (ours, theirs) in [
                ("mode", "backup-mode"),
                ("status", "status"),
                ("wal", "wal"),
                ("compress_alg", "compress-alg"),
                ("data_bytes", "data-bytes"),
                ("pgdata_bytes", "pgdata-bytes"),
                ("parent", "parent-backup-id"),
            ] {
                assert_eq!(line[ours], recorded[theirs], "{name}: {ours} of {line}");
            }
            let id = line["id"].as_str().unwrap();
            let chain = sandbox.fixture.chain(id);
            assert_eq!(line["chain"], serde_json::json!(chain));
            assert_eq!(line["mountable"], true);
            assert_eq!(line["reason"], Value::Null);
        }
        before.assert_unchanged(&sandbox.fixture.catalog);
    }
}

#[test]
fn a_chain_is_a_tree_of_80_columns() {
    common::require_root();
    let sandbox = Sandbox::root("pg15-chain");
    for (locale, inner, last) in [("C.UTF-8", "├ ", "└ "), ("C", "|-", "`-")] {
        let mut command = sandbox.pbkfs();
        command
            .env("LC_ALL", locale)
            .args(["list", "--instance", "main", "-B"]);
        let text = run(command.arg(&sandbox.fixture.catalog), LIMIT).expect_ok();
        assert!(text.is_ascii() || locale == "C.UTF-8", "{text}");
        let mut lines = text.lines().peekable();
        assert_eq!(lines.next(), Some("instance main"));
        assert!(lines.next().unwrap().starts_with("ID "), "{text}");
        let (mut above, mut seen) = (String::new(), 0);
        while let Some(line) = lines.next() {
            assert!(line.chars().count() <= 80, "{line}");
            let is_member = line.starts_with(inner) || line.starts_with(last);
            let id = line.trim_start_matches(inner).trim_start_matches(last);
            let id = id.split(' ').next().unwrap();
            let chain = sandbox.fixture.chain(id);
            assert_eq!(chain.len() > 1, is_member, "{line}");
            let told = lines.peek().and_then(|line| line.strip_prefix("      on "));
            match chain.len() {
                1 => assert!(line.contains("FULL") && told.is_none(), "{line}"),
                len if chain[len - 2] == above => assert_eq!(told, None, "{line}"),
                len => assert_eq!(told, Some(&*chain[len - 2]), "{line}"),
            }
            if told.is_some() {
                lines.next();
            }
            let is_end = lines.peek().is_none_or(|next| next.starts_with('T'));
            assert_eq!(line.starts_with(last), is_member && is_end, "{text}");
            above = id.to_owned();
            seen += 1;
        }
        assert_eq!(seen, sandbox.fixture.backups().len(), "{text}");
    }
}

#[test]
fn what_cannot_be_mounted_says_why() {
    common::require_root();
    let sandbox = Sandbox::root("pg15-debian");
    let [full, delta]: [_; 2] = sandbox.fixture.backups().try_into().unwrap();
    let control = sandbox.fixture.backup_dir(&full.id).join("backup.control");
    let text = fs::read_to_string(&control).unwrap();
    fs::write(&control, text.replace("status = OK", "status = CORRUPT")).unwrap();
    let listed = backups(&sandbox);
    assert_eq!(listed[0]["status"], "CORRUPT");
    for line in &listed {
        assert_eq!(line["mountable"], false);
        let reason = line["reason"].as_str().unwrap();
        assert!(
            reason.contains(&full.id) && reason.contains("CORRUPT"),
            "{reason}"
        );
    }
    let human = list(&sandbox, &[]).expect_ok();
    assert_eq!(human.matches("not mountable: ").count(), 2, "{human}");

    fs::rename(sandbox.fixture.backup_dir(&full.id), sandbox.path("gone")).unwrap();
    let listed = backups(&sandbox);
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0]["id"], delta.id.as_str());
    assert!(listed[0]["reason"].as_str().unwrap().contains(&full.id));
}

/// Facts that cannot be determined are left out, and the reason is given.
#[test]
fn what_cannot_be_read_is_not_guessed() {
    common::require_root();
    let sandbox = Sandbox::root("pg15-debian");
    let [full, delta]: [_; 2] = sandbox.fixture.backups().try_into().unwrap();
    let control = sandbox.fixture.backup_dir(&delta.id).join("backup.control");
    let text = fs::read_to_string(&control).unwrap();
    fs::write(&control, text.replace("status = OK", "status = FINE")).unwrap();
    let listed = backups(&sandbox);
    let line = listed.iter().find(|line| line["id"] == *delta.id).unwrap();
    for unknown in ["mode", "wal", "compress_alg", "server_version", "parent"] {
        assert_eq!(line[unknown], Value::Null, "{unknown}");
    }
    let reason = line["reason"].as_str().unwrap();
    assert!(reason.contains("status cannot be \"FINE\""), "{reason}");
    let human = list(&sandbox, &[]).expect_ok();
    let line = human.lines().find(|line| line.contains(&delta.id)).unwrap();
    let words: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(words[..4], [&*delta.id, "?", "UNKNOWN", "?"], "{line}");

    // If the newest backup is unusable, "latest" is the one before it.
    let version = text
        .lines()
        .find(|line| line.starts_with("server-version"))
        .unwrap();
    for broken in ["server-version = fifteen", "server-version = 9.6"] {
        fs::write(&control, text.replace(version, broken)).unwrap();
        let clone = sandbox.profile("latest").mount_only().write();
        let plan = clone.pbkfs("plan", &["--json"]);
        assert!(
            plan.stdout
                .contains(&format!("\"backup\": \"{}\"", full.id)),
            "{plan}"
        );
        assert!(plan.stderr.contains(&delta.id), "{plan}");
    }
}

#[test]
fn no_catalog_no_instance() {
    common::require_root();
    let sandbox = Sandbox::root("pg15-debian");
    let missing = sandbox.path("missing");
    let mut command = sandbox.pbkfs();
    let output = run(command.args(["list", "-B"]).arg(&missing), LIMIT);
    refused(&output, 4, missing.to_str().unwrap());
    let output = list(&sandbox, &["--instance", "mian"]);
    refused(&output, 4, "mian");
    refused(&output, 4, "main");
    let no_catalog = sandbox.path("tmp");
    let output = run(sandbox.pbkfs().args(["list", "-B"]).arg(&no_catalog), LIMIT);
    refused(&output, 4, no_catalog.to_str().unwrap());
    refused(&run(sandbox.pbkfs().arg("list"), LIMIT), 2, "-B CATALOG");
}

#[test]
fn an_ordinary_user_lists_what_may_be_read() {
    common::require_root();
    let [root, postgres] = [OsUser::root(), OsUser::postgres()];
    let sandbox = Sandbox::new("pg15-debian", postgres.clone());
    let text = list(&sandbox, &[]).expect_ok();
    assert!(text.contains(&sandbox.fixture.newest()), "{text}");

    let sandbox = Sandbox::with_catalog_of(&root, "pg15-debian", postgres);
    let output = list(&sandbox, &[]);
    refused(&output, 4, sandbox.fixture.catalog.to_str().unwrap());
    refused(&output, 4, "Permission denied");
}

/// A broken configuration of one instance does not hide the others.
#[test]
fn a_broken_instance_does_not_hide_the_others() {
    common::require_root();
    let sandbox = Sandbox::root("pg15-debian");
    let broken = sandbox.fixture.catalog.join("backups/broken");
    fs::create_dir(&broken).unwrap();
    fs::write(broken.join("pg_probackup.conf"), "system-identifier = x\n").unwrap();
    let output = list(&sandbox, &[]);
    assert_eq!(output.code(), Some(4), "{output}");
    assert!(
        output.stderr.contains("broken/pg_probackup.conf"),
        "{output}"
    );
    assert!(
        output.stdout.contains(&sandbox.fixture.newest()),
        "{output}"
    );
}

#[test]
fn a_reader_who_has_gone_is_no_error() {
    common::require_root();
    let sandbox = Sandbox::root("pg15-debian");
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = sandbox.pbkfs();
    command.arg("list").arg("-B").arg(&sandbox.fixture.catalog);
    let output = command.stdout(writer).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
}

#[test]
fn an_answer_that_is_lost_is_an_error() {
    common::require_root();
    let sandbox = Sandbox::root("pg15-debian");
    let full = fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let mut command = sandbox.pbkfs();
    command.arg("list").arg("-B").arg(&sandbox.fixture.catalog);
    let output = command.stdout(full).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("cannot write to standard output"), "{said}");
}

/// pg_probackup's own status does not reflect this until somebody validates.
#[test]
fn wal_that_a_backup_lacks_is_named() {
    common::require_root();
    let sandbox = Sandbox::root("pg15-chain");
    let all = sandbox.fixture.backups();
    let archived = all.iter().rfind(|backup| !backup.stream).unwrap();
    let listed = |id: &str| {
        let lines = backups(&sandbox);
        lines.into_iter().find(|line| line["id"] == id).unwrap()
    };
    assert_eq!(listed(&archived.id)["own_wal"]["state"], "complete");
    fs::remove_dir_all(sandbox.fixture.catalog.join("wal/main")).unwrap();
    fs::create_dir(sandbox.fixture.catalog.join("wal/main")).unwrap();
    for backup in &all {
        let line = listed(&backup.id);
        if backup.stream {
            assert_eq!(line["own_wal"]["state"], "complete", "{line}");
            continue;
        }
        assert_eq!(line["own_wal"]["state"], "missing", "{line}");
        assert_eq!(line["own_wal"]["timeline"], 1);
        let segment = line["own_wal"]["segment"].as_str().unwrap();
        let clone = sandbox.profile(&backup.id).mount_only().write();
        let plan = clone.pbkfs("plan", &[]).expect_ok();
        let told = format!("WAL       the WAL segment {segment} of timeline 1");
        assert!(plan.contains(&told), "{plan}");
    }
}

/// Decided from the versions alone if nothing else is read, and file by file in a
/// plan.
#[test]
fn a_chain_that_restore_may_lose_data_of_is_told() {
    common::require_root();
    let sandbox = Sandbox::root("pg15-old");
    for line in backups(&sandbox) {
        let is_newer = ["TP44EL", "TP44EW", "TP44F7"].contains(&line["id"].as_str().unwrap());
        let marked: &[&str] = if is_newer { &["TP44E8"] } else { &[] };
        assert_eq!(line["restore_may_lose"], serde_json::json!(marked));
        assert_eq!(line["restore_warning"].is_string(), is_newer);
    }
    for (backup, loses) in [("TP44F7", true), ("TP44E8", false)] {
        let clone = sandbox.profile(backup).mount_only().write();
        let plan = clone.pbkfs("plan", &[]).expect_ok();
        let told = format!("own restore of backup {backup} loses base/");
        assert_eq!(plan.contains(&told), loses, "{plan}");
    }
}

/// The archive's list reports what is not a segment, whatever its name.
#[test]
fn an_empty_file_is_no_segment_of_the_archive() {
    common::require_root();
    let sandbox = Sandbox::root("pg15-chain");
    let archive = sandbox.fixture.catalog.join("wal/main");
    let list = || {
        let mut command = sandbox.pbkfs();
        command.args(["wal", "list", "--catalog"]);
        run(command.arg(&sandbox.fixture.catalog), LIMIT).expect_ok()
    };
    let names = fs::read_dir(&archive).unwrap().flatten();
    let mut names: Vec<String> = names
        .map(|entry| entry.file_name().into_string().unwrap())
        .filter(|name| {
            let segment = name.strip_suffix(".gz").unwrap_or(name);
            segment.len() == 24 && segment.starts_with("00000001")
        })
        .collect();
    names.sort();
    let (file, segment) = (&names[1], &names[1][..24]);
    fs::remove_file(archive.join(file)).unwrap();
    let text = list();
    assert!(text.contains(&format!("missing {segment}\n")), "{text}");
    fs::write(archive.join(format!("{segment}.gz")), "").unwrap();
    let text = list();
    assert!(text.contains("DEGRADED"), "{text}");
    let broken = format!("{segment} has the wrong size");
    assert!(text.contains(&broken), "{text}");
}
