//! The contents of a catalog, a clone, a file name or an argument can neither change
//! the terminal nor forge a line of a table, a message, a log or a page.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use common::session::{LIMIT, TestClone};
use common::{Output, Running, Sandbox, assert_nothing_stays, eventually, run};
use serde_json::Value;

/// Clears the screen, sets the window title, moves back in the line, sets a colour
/// with a C1 control, reverses the text, and hides in it.
const ODD: &str =
    "\x1b[2J\x1b]0;owned\x07\r\t\x08\x7f\u{9b}31m\u{202e}\u{2066}\u{200e}\u{200b}\u{feff}";

/// Harmless text, for comparing the number of lines.
const TAME: &str = "tame";

fn is_odd(c: char) -> bool {
    c != '\n' && c.is_control()
        || ('\u{200b}'..='\u{200f}').contains(&c)
        || ('\u{202a}'..='\u{202e}').contains(&c)
        || ('\u{2066}'..='\u{2069}').contains(&c)
        || c == '\u{feff}'
}

#[track_caller]
fn assert_clean(text: &str) {
    if let Some(at) = text.find(is_odd) {
        panic!("odd at {at}: {text:?}");
    }
}

/// Runs a command whose output must be clean.
#[track_caller]
fn clean(command: &mut Command) -> Output {
    let output = run(command, LIMIT);
    assert_clean(&output.stdout);
    assert_clean(&output.stderr);
    output
}

#[track_caller]
fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("no JSON ({error}): {text}"))
}

/// Returns the number of lines on standard output and standard error.
fn line_counts(output: &Output) -> (usize, usize) {
    (output.stdout.lines().count(), output.stderr.lines().count())
}

/// Puts `text` into all of a backup's free-form values, and those that an error
/// quotes.
fn spoil(sandbox: &Sandbox, id: &str, values: &[(&str, String)]) {
    let control = sandbox.fixture.backup_dir(id).join("backup.control");
    let old = fs::read_to_string(&control).unwrap();
    let is_kept = |line: &&str| {
        let key = line.split(" = ").next().unwrap();
        !values.iter().any(|(spoilt, _)| *spoilt == key)
    };
    let mut new: String = old
        .lines()
        .filter(is_kept)
        .map(|line| format!("{line}\n"))
        .collect();
    for (key, value) in values {
        new.push_str(&format!("{key} = '{value}'\n"));
    }
    fs::write(&control, new).unwrap();
}

/// Returns the output of `list` and similar commands for a catalog that contains this
/// text.
fn shown(text: &str, values: &[&str]) -> Vec<Output> {
    let sandbox = Sandbox::root("pg15-debian");
    let [full, delta]: [_; 2] = sandbox.fixture.backups().try_into().unwrap();
    let values: Vec<_> = values
        .iter()
        .map(|key| (*key, format!("1{text}")))
        .collect();
    spoil(&sandbox, &delta.id, &values);
    let backups = sandbox.fixture.catalog.join("backups");
    let twin = backups.join(format!("twin{text}"));
    fs::create_dir(&twin).unwrap();
    fs::copy(
        backups.join("main/pg_probackup.conf"),
        twin.join("pg_probackup.conf"),
    )
    .unwrap();
    fs::create_dir(twin.join(&full.id)).unwrap();
    let control = sandbox.fixture.backup_dir(&full.id).join("backup.control");
    fs::copy(control, twin.join(&full.id).join("backup.control")).unwrap();
    let catalog = &sandbox.fixture.catalog;
    let profile = sandbox.profile(&delta.id).mount_only().write();
    let profile = &profile.profile;
    let commands: [&[&str]; 4] = [
        &["list", "-B"],
        &["list", "--json", "-B"],
        &["list", "--instance", "main", "-B"],
        &["plan"],
    ];
    let mut outputs: Vec<_> = commands
        .map(|arguments| {
            let mut command = sandbox.pbkfs();
            command.args(arguments);
            clean(match arguments {
                ["list", ..] => command.arg(catalog),
                _ => command.arg(profile),
            })
        })
        .into();
    for name in [format!("no{text}"), format!("twin{text}")] {
        for what in [&["list"][..], &["wal", "list"]] {
            let mut command = sandbox.pbkfs();
            command.args(what).args(["--instance", &name, "-B"]);
            outputs.push(clean(command.arg(catalog)));
        }
    }
    outputs
}

#[test]
fn values_of_a_catalog() {
    common::require_root();
    for keys in [
        &["note", "server-version", "program-version"][..],
        &["status"],
        &["parent-backup-id", "compress-alg"],
        &["backup-mode"],
        &["start-time"],
        &["stop-lsn"],
    ] {
        let hostile = shown(ODD, keys);
        let tame = shown(TAME, keys);
        for (hostile, tame) in hostile.iter().zip(&tame) {
            assert_eq!(line_counts(hostile), line_counts(tame), "{hostile}\n{tame}");
            assert_eq!(hostile.code(), tame.code(), "{hostile}\n{tame}");
        }
    }
    // JSON has the exact values.
    let listed = json(&shown(ODD, &["note"])[1].stdout);
    let instances = listed["instances"].as_array().unwrap();
    let names: Vec<_> = instances
        .iter()
        .map(|of| of["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["main", &*format!("twin{ODD}")]);
    let notes = instances[0]["backups"].as_array().unwrap().iter();
    let notes: Vec<_> = notes.filter_map(|backup| backup["note"].as_str()).collect();
    assert_eq!(notes, [format!("1{ODD}")]);
}

#[test]
fn an_instance_cannot_forge_the_lines_of_another() {
    common::require_root();
    let sandbox = Sandbox::root("pg15-debian");
    let name = "x\ninstance main\n  no backups";
    let dir = sandbox.fixture.catalog.join("backups").join(name);
    fs::create_dir(&dir).unwrap();
    let mut command = sandbox.pbkfs();
    command.args(["list", "-B"]).arg(&sandbox.fixture.catalog);
    let output = clean(&mut command);
    let all = format!("{}{}", output.stdout, output.stderr);
    assert_eq!(
        all.lines().filter(|line| *line == "instance main").count(),
        1,
        "{all}"
    );
    // It has none itself.
    let empty = all.lines().filter(|line| *line == "  no backups");
    assert_eq!(empty.count(), 1, "{all}");
    assert!(all.contains(r"x\ninstance main\n  no backups"), "{all}");
}

/// Creates a profile like one with plain names, using TOML's own escapes.
fn profile<'a>(sandbox: &'a Sandbox, name: &str, more: &str) -> TestClone<'a> {
    let path = |name: String| sandbox.path(&name);
    let (target, diff) = (path(name.to_owned()), path(format!("{name}.diff")));
    let text = |path: &Path| toml::Value::from(path.to_str().unwrap()).to_string();
    let toml = format!(
        "catalog = {}\ninstance = \"main\"\nbackup = \"latest\"\ntarget = {}\ndiff_dir = {}\n{more}\n",
        text(&sandbox.fixture.catalog),
        text(&target),
        text(&diff),
    );
    let file = path(format!("{name}.toml"));
    fs::write(&file, toml).unwrap();
    TestClone::new(sandbox, file, target, Some(diff))
}

const MOUNT_ONLY: &str = "[postgres]\nlaunch = false";

#[test]
fn file_names_of_a_clone() {
    common::require_everything();
    let sandbox = Sandbox::root("pg15-debian");
    let clone = sandbox.profile("latest").mount_only().write();
    clone.up();
    let long = format!("base/5/{ODD}");
    let names: [&[u8]; 6] = [
        long.as_bytes(),
        b"base/5/a\nin all: nothing changed",
        b"b\ndatabase 5: nothing changed\n  new",
        b"bad\xff\xfe\x9b",
        b"it's \\n",
        b"plain name",
    ];
    for name in names {
        fs::write(clone.target.join(OsStr::from_bytes(name)), "x").unwrap();
    }
    fs::create_dir(clone.target.join("dir\r\n")).unwrap();
    fs::rename(
        clone.target.join("PG_VERSION"),
        clone.target.join("was\x1bthis"),
    )
    .unwrap();
    fs::rename(
        clone.target.join("was\x1bthis"),
        clone.target.join("is\nthis"),
    )
    .unwrap();
    let check = || {
        let text = clean(&mut clone.command("diff", &[])).expect_ok();
        let made = text.lines().filter(|line| line.starts_with("  new  "));
        assert_eq!(made.count(), names.len(), "{text}");
        let starts = [
            "  ",
            "diff ",
            "backup ",
            "database ",
            "other files:",
            "in all: ",
        ];
        for line in text.lines() {
            assert!(starts.iter().any(|start| line.starts_with(start)), "{text}");
        }
        assert_eq!(text.matches("\nin all: ").count(), 1, "{text}");
        for known in [
            r"$'base/5/a\nin all: nothing changed'",
            r"  it's \n",
            "  plain name",
        ] {
            assert!(text.contains(known), "no {known}: {text}");
        }
        let listed = json(&clean(&mut clone.command("diff", &["--json"])).expect_ok());
        let inside = listed["databases"].as_array().unwrap().iter();
        let inside = inside.flat_map(|database| database["files"].as_array().unwrap());
        let paths: Vec<_> = inside.map(|file| file["path"].as_str().unwrap()).collect();
        assert!(paths.contains(&&*long), "{paths:?}");
    };
    check();
    clone.down();
    check();
    let diff = clone.diff.clone().unwrap();
    let mut command = sandbox.pbkfs();
    clean(command.args(["cleanup", "--force", "-d"]).arg(&diff)).expect_ok();
    assert_nothing_stays(&sandbox);
}

/// The whole life of a clone whose paths are hostile.
#[test]
fn paths_of_a_profile() {
    common::require_everything();
    let sandbox = Sandbox::root("pg15-debian");
    let name = format!("x\nready target=forged{ODD}");
    let log = sandbox.path("log");
    let place = format!(
        "[log]\nlevel = \"debug\"\nfile = {:?}\n{MOUNT_ONLY}",
        log.to_str().unwrap()
    );
    let clone = profile(&sandbox, &name, &place);
    for subcommand in ["plan", "diff", "down", "status"] {
        let output = clean(&mut clone.command(subcommand, &[]));
        assert!(!output.stdout.contains("\nready"), "{output}");
    }
    let ready = clean(&mut clone.command("up", &["--detach"])).expect_ok();
    assert_eq!(ready.lines().count(), 1, "{ready}");
    assert!(ready.starts_with("ready target=$'/"), "{ready}");
    let status = clean(&mut clone.command("status", &[])).expect_ok();
    assert!(
        status.starts_with("ready $'/") && !status.contains("\nready"),
        "{status}"
    );
    let ours = json(&clean(&mut clone.command("status", &["--json"])).expect_ok());
    assert_eq!(
        ours["sessions"][0]["target"],
        clone.target.to_str().unwrap()
    );
    let metrics = clean(&mut clone.command("status", &["--prometheus"])).expect_ok();
    assert!(
        metrics
            .lines()
            .all(|line| line.starts_with("# ") || line.starts_with("pbkfs_"))
    );
    // Already in use.
    let again = clean(&mut clone.command("up", &[]));
    assert_eq!(again.stderr.lines().count(), 1, "{again}");
    let down = clean(&mut clone.command("down", &[])).expect_ok();
    assert_eq!(down.lines().count(), 1, "{down}");
    let mut unmount = sandbox.pbkfs();
    clean(unmount.args(["unmount", "-D"]).arg(&clone.target)).expect_ok();
    let logged = fs::read_to_string(&log).unwrap();
    assert_clean(&logged);
    assert!(
        logged.contains(r"x\nready target=forged\x1b[2J"),
        "{logged}"
    );
    assert!(
        logged.lines().all(|line| line.starts_with("20")),
        "{logged}"
    );
    for subcommand in ["up", "plan"] {
        fs::write(&clone.profile, format!("catalog = \"/\x1b[2J\"\n{ODD} = 1")).unwrap();
        let output = clean(&mut clone.command(subcommand, &[]));
        assert_eq!(output.code(), Some(2), "{output}");
        assert_eq!(output.stderr.matches("\npbkfs: ").count(), 0, "{output}");
        let own = output
            .stderr
            .lines()
            .filter(|line| !line.starts_with("    "));
        assert_eq!(
            own.count(),
            1,
            "the excerpt of the profile is indented: {output}"
        );
    }
    fs::remove_file(&clone.profile).unwrap();
    let output = clean(&mut clone.command("up", &[]));
    assert_eq!(line_counts(&output), (0, 1), "{output}");
}

#[test]
fn lines_of_a_json_log() {
    common::require_everything();
    let sandbox = Sandbox::root("pg15-debian");
    let clone = profile(&sandbox, &format!("x\ny{ODD}"), MOUNT_ONLY);
    let mut up = clone.command("up", &["--log-format", "json", "--verbose"]);
    let running = Running::spawn(&mut up);
    eventually("the clone is ready", LIMIT, || {
        running.stdout().ends_with('\n')
    });
    clone.down();
    let output = running.wait(LIMIT);
    assert_clean(&output.stderr);
    let said: Vec<Value> = output.stderr.lines().map(json).collect();
    let target = |line: &&Value| line["span"]["target"] == clone.target.to_str().unwrap();
    assert!(said.iter().any(|line| target(&line)), "{output}");
}

#[test]
fn arguments() {
    common::require_root();
    let sandbox = Sandbox::root("pg15-debian");
    let forged = format!("{ODD}\nerror: forged\nUsage: forged");
    let calls: [&[&str]; 8] = [
        &["{}"],
        &["list", "--{}"],
        &["list", "--instance", "main", "{}", "-B", "/x"],
        &["mount", "--timeout={}"],
        &["mount", "--timeout", "{}"],
        &["up", "p.toml", "--at", "{}"],
        &["--log-format", "{}", "status"],
        &["extract", "--format={}"],
    ];
    for call in calls {
        let with = |text: &str| {
            let arguments = call.iter().map(|argument| argument.replace("{}", text));
            clean(sandbox.pbkfs().args(arguments))
        };
        let (hostile, tame) = (with(&forged), with(TAME));
        assert_eq!(hostile.code(), Some(2), "{hostile}");
        let forged =
            |line: &str| line.starts_with("error: forged") || line.starts_with("Usage: forged");
        assert!(!hostile.stderr.lines().any(forged), "{hostile}");
        // The suggestion of a similar word may be missing.
        assert!(
            line_counts(&hostile).1 <= line_counts(&tame).1,
            "{hostile}\n{tame}"
        );
    }
    let bad = OsStr::from_bytes(b"--\xff\x1b[2J");
    assert_eq!(clean(sandbox.pbkfs().arg("list").arg(bad)).code(), Some(2));
}

#[test]
fn reports_of_a_verification() {
    common::require_everything();
    let sandbox = Sandbox::root("pg15-debian");
    let name = format!("x<td>\nmain backup Y: proved{ODD}");
    let [html, metrics] = ["page.html", "metrics.prom"].map(|name| sandbox.path(name));
    let more = format!(
        "[verify]\nhtml = {html:?}\nprometheus = {metrics:?}\nstate_dir = {:?}\n{MOUNT_ONLY}",
        sandbox.path("state")
    );
    let clone = profile(&sandbox, &name, &more);
    let file = sandbox
        .fixture
        .largest_data_file(&sandbox.fixture.backups()[0].id);
    common::fixture::flip_byte(&file.path, 8 + 4000);
    let pages = &["--pages", "--set", "verify.backup=all"];
    let cron = clean(&mut clone.command("verify", pages));
    assert_eq!(cron.code(), Some(1), "{cron}");
    assert!(
        !cron.stderr.lines().any(|line| line.contains("Y: proved")),
        "{cron}"
    );
    let page = fs::read_to_string(&html).unwrap();
    assert_clean(&page);
    assert!(
        page.contains(r"x&lt;td&gt;\nmain backup Y: proved\x1b[2J"),
        "{page}"
    );
    let metrics = fs::read_to_string(&metrics).unwrap();
    assert_clean(&metrics);
    assert!(
        metrics
            .lines()
            .all(|line| line.starts_with("# ") || line.starts_with("pbkfs_"))
    );
    assert_nothing_stays(&sandbox);
}

/// A pg_probackup that fails, and says so in lines of its own.
#[test]
fn messages_of_pg_probackup() {
    common::require_root();
    let sandbox = Sandbox::root("pg15-debian");
    let program = sandbox.path("pg_probackup");
    let script = "#!/bin/sh\n[ $1 = version ] && echo 'pg_probackup 2.5.16' && exit\n\
        printf 'WARNING: \\033[2Jone\\r\\npbkfs: forged\\302\\233\\n' >&2\nexit 1\n";
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let clone = sandbox
        .profile("latest")
        .with("pg_probackup", &format!("{program:?}"))
        .with("metadata", "\"pg_probackup\"")
        .write();
    let output = clean(&mut clone.command("plan", &[]));
    let lines: Vec<_> = output.stderr.lines().collect();
    let [first, one, forged] = lines[..] else {
        panic!("{output}")
    };
    assert!(
        first.starts_with("pbkfs: `") && first.ends_with("it said:"),
        "{output}"
    );
    assert_eq!(one, r"    WARNING: \x1b[2Jone");
    assert_eq!(forged, r"    pbkfs: forged\u009b");
}
