//! `pbkfs extract`: the lost table comes back, and nothing else is touched.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use common::{OsUser, Output, PgTools, PlainServer, Sandbox, TestClone, assert_nothing_stays, run};

const LIMIT: Duration = Duration::from_secs(240);

fn extract(clone: &TestClone<'_>, output: &Path, arguments: &[&str]) -> Output {
    let mut command = clone.command("extract", &["--database", "shop", "-o"]);
    command.arg(output).args(arguments);
    run(&mut command, LIMIT)
}

/// Starts a separate, empty server.
fn fresh<'a>(pg: &'a PgTools, sandbox: &Sandbox) -> PlainServer<'a> {
    let dir = sandbox.path("fresh");
    fs::create_dir(&dir).unwrap();
    pg.user.own(&dir);
    let data = dir.join("data");
    let init = ["-N", "-A", "trust", "-D", data.to_str().unwrap()];
    pg.run("initdb", &init).expect_ok();
    pg.start_on(&data, &dir)
}

fn brings_the_table_back(user: OsUser) {
    let pg = common::require_everything();
    let sandbox = Sandbox::with_catalog_of(&OsUser::postgres(), "pg15-chain", user);
    let clone = sandbox.profile("latest").write();
    let points = sandbox.fixture.restore_points();
    let point = points
        .iter()
        .find(|point| point.name == "before_mistake")
        .unwrap();
    let output = sandbox.path("pitr.sql");
    let extracted = extract(
        &clone,
        &output,
        &["--table", "public.pitr", "--at", &point.time],
    );
    assert_eq!(
        (extracted.code(), &*extracted.stdout, &*extracted.stderr),
        (Some(0), "", ""),
        "{extracted}"
    );
    assert_eq!(fs::metadata(&output).unwrap().uid(), sandbox.user.uid);
    assert_nothing_stays(&sandbox);

    let server = fresh(&pg, &sandbox);
    pg.run("createdb", &["--maintenance-db", &server.conninfo, "shop"])
        .expect_ok();
    let copy = sandbox.path("fresh/pitr.sql");
    // The fixture's server was a build with a column option of its own, which no
    // other server accepts.
    let text = fs::read_to_string(&output).unwrap();
    let lines = text.lines().filter(|line| !line.contains("pg_attver"));
    fs::write(
        &copy,
        lines.map(|line| format!("{line}\n")).collect::<String>(),
    )
    .unwrap();
    pg.user.own(&copy);
    let shop = format!("{} dbname=shop", server.conninfo);
    pg.run(
        "psql",
        &[
            "-Xq",
            "-v",
            "ON_ERROR_STOP=1",
            "-d",
            &shop,
            "-f",
            copy.to_str().unwrap(),
        ],
    )
    .expect_ok();
    assert_eq!(pg.psql(&server.conninfo, "shop", &point.sql), point.answer);
}

#[test]
fn the_lost_table_comes_back_as_root() {
    brings_the_table_back(OsUser::root());
}

#[test]
fn the_lost_table_comes_back_as_postgres() {
    brings_the_table_back(OsUser::postgres());
}

#[test]
fn every_format_and_a_query() {
    let pg = common::require_everything();
    let sandbox = Sandbox::root("pg15-chain");
    let clone = sandbox.profile("TOW7KQ").write();
    let listed = |path: &Path| {
        let mut command = OsUser::root().command(pg.bin.join("pg_restore"));
        run(command.arg("--list").arg(path), LIMIT).expect_ok()
    };
    let custom = sandbox.path("x.dump");
    let tables = ["--table", "pgbench_b*", "--table", "pgbench_tellers"];
    extract(
        &clone,
        &custom,
        &[&tables[..], &["--format", "custom"]].concat(),
    )
    .expect_ok();
    let directory = sandbox.path("x.dir");
    extract(
        &clone,
        &directory,
        &[&tables[..], &["--format", "directory"]].concat(),
    )
    .expect_ok();
    for text in [listed(&custom), listed(&directory)] {
        assert!(
            text.contains("TABLE DATA public pgbench_branches"),
            "{text}"
        );
        assert!(text.contains("TABLE DATA public pgbench_tellers"), "{text}");
        assert!(!text.contains("pgbench_accounts"), "{text}");
    }
    for entry in fs::read_dir(&directory).unwrap() {
        assert_eq!(entry.unwrap().metadata().unwrap().uid(), 0);
    }
    let only = sandbox.path("x.sql");
    extract(
        &clone,
        &only,
        &["--table", "pgbench_branches", "--schema-only"],
    )
    .expect_ok();
    let text = fs::read_to_string(&only).unwrap();
    assert!(
        text.contains("CREATE TABLE") && !text.contains("COPY "),
        "{text}"
    );
    extract(
        &clone,
        &only,
        &["--table", "pgbench_branches", "--data-only", "--force"],
    )
    .expect_ok();
    let text = fs::read_to_string(&only).unwrap();
    assert!(
        !text.contains("CREATE TABLE") && text.contains("COPY "),
        "{text}"
    );

    let csv = sandbox.path("x.csv");
    let query = "select bid, 'a,b' as text from pgbench_branches;";
    extract(&clone, &csv, &["--query", query, "--csv"]).expect_ok();
    assert_eq!(fs::read_to_string(&csv).unwrap(), "bid,text\n1,\"a,b\"\n");
    assert_nothing_stays(&sandbox);
}

/// Runs `extract PROFILE -o - ARGUMENTS`.
fn print(clone: &TestClone<'_>, arguments: &[&str]) -> Output {
    let mut command = clone.command("extract", &["-o", "-"]);
    run(command.args(arguments), LIMIT)
}

#[test]
fn a_result_goes_to_standard_output_from_the_database_that_has_it() {
    common::require_everything();
    let sandbox = Sandbox::root("pg15-chain");
    let clone = sandbox.profile("TOW7KQ").write();
    let dumped = print(&clone, &["-t", "pgbench_branches"]);
    assert_eq!(dumped.stderr, "", "{dumped}");
    let sql = dumped.expect_ok();
    assert!(sql.contains("COPY public.pgbench_branches"), "{sql}");
    assert!(
        !sql.contains("tablespace"),
        "another server may lack it: {sql}"
    );
    assert!(!sandbox.path("-").exists());

    let kept = print(
        &clone,
        &["-t", "pgbench_branches", "--tablespaces", "--", "--inserts"],
    );
    let sql = kept.expect_ok();
    assert!(sql.contains("SET default_tablespace"), "{sql}");
    assert!(sql.contains("INSERT INTO public.pgbench_branches"), "{sql}");

    let query = "select bid, 'a,b' as text from pgbench_branches";
    let aligned = print(&clone, &["-d", "shop", "--query", query]).expect_ok();
    assert_eq!(
        aligned,
        " bid | text \n-----+------\n   1 | a,b\n(1 row)\n\n"
    );
    let csv = print(&clone, &["-d", "shop", "--query", query, "--csv"]).expect_ok();
    assert_eq!(csv, "bid,text\n1,\"a,b\"\n");
    assert_nothing_stays(&sandbox);
}

#[test]
fn a_database_is_found_or_named() {
    common::require_everything();
    let sandbox = Sandbox::root("pg15-chain");
    let clone = sandbox.profile("TOW7KQ").write();
    for (arguments, code, said) in [
        (&["-d", "nosuch", "-t", "pgbench_branches"][..], 2, "shop"),
        (
            &["-d", "nosuch", "--query", "select 1"],
            2,
            "no database nosuch",
        ),
        (
            &["-t", "pg_catalog.pg_class"],
            2,
            "choose one with --database",
        ),
        (&["-t", "nosuch"], 3, "no database has all of nosuch"),
        (&["-t", "x", "--format", "directory"], 2, "standard output"),
        (&["-t", "x", "--", "--file=/tmp/x"], 2, "--output"),
    ] {
        common::refused(&print(&clone, arguments), code, said);
    }
    assert_nothing_stays(&sandbox);
}

#[test]
fn a_catalog_can_be_named_without_a_profile() {
    common::require_everything();
    let sandbox = Sandbox::new("pg15-chain", OsUser::postgres());
    let job = |arguments: &[&str]| {
        let mut command = sandbox.pbkfs();
        command.env("BACKUP_PATH", &sandbox.fixture.catalog);
        // A variable as Kubernetes sets it for a service of that name.
        command.env("PBKFS_SERVICE_HOST", "10.0.0.1");
        run(command.args(arguments), LIMIT)
    };
    let arguments = ["extract", "--instance", "main", "-i", "tow7kq", "-t"];
    let table = [&arguments[..], &["pgbench_branches", "-o", "-"]].concat();
    let sql = job(&table).expect_ok();
    assert!(sql.contains("COPY public.pgbench_branches"), "{sql}");
    let verify = [
        "verify",
        "--instance",
        "main",
        "-i",
        "TOW7KQ",
        "--json",
        "--pages",
    ];
    let verified = job(&verify).expect_ok();
    assert!(verified.contains("\"backup\": \"TOW7KQ\""), "{verified}");
    // A catalog on the command line takes precedence.
    let elsewhere = [&arguments[..], &["x", "-o", "-", "-B", "/nowhere"]].concat();
    common::refused(&job(&elsewhere), 4, "/nowhere");
    common::refused(&job(&["verify"]), 2, "--instance NAME");
    assert!(job(&["list"]).expect_ok().contains("TOW7KQ"));
    assert!(job(&["wal", "list"]).expect_ok().contains("timeline 1"));
    assert_nothing_stays(&sandbox);
}

#[test]
fn nothing_partial_is_left_and_nothing_replaced() {
    common::require_everything();
    let sandbox = Sandbox::root("pg15-chain");
    let clone = sandbox.profile("TOW7KQ").write();
    let names = || {
        let mut names: Vec<_> = fs::read_dir(sandbox.dir())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        names.sort();
        names
    };
    let before = names();
    let output = sandbox.path("out");
    for (arguments, said) in [
        (&["--table", "nosuch"][..], "no matching tables"),
        (
            &["--table", "nosuch", "--format", "directory"],
            "no matching tables",
        ),
        (
            &["--query", "select * from nosuch", "--csv"],
            "does not exist",
        ),
        (
            &["--query", "select 1/(bid-1) from pgbench_branches", "--csv"],
            "division by zero",
        ),
    ] {
        let output = extract(&clone, &output, arguments);
        assert_eq!(output.code(), Some(3), "{output}");
        assert!(output.stderr.contains(said), "{output}");
        assert_eq!(names(), before, "{arguments:?}");
    }
    fs::write(&output, "mine").unwrap();
    let refused = extract(&clone, &output, &["--table", "pgbench_branches"]);
    common::refused(&refused, 2, "--force");
    assert_eq!(fs::read_to_string(&output).unwrap(), "mine");
    let missing = extract(&clone, &sandbox.path("no/dir"), &["--table", "x"]);
    common::refused(&missing, 3, "no/dir");
    assert_nothing_stays(&sandbox);
}

/// Adds relations that are in no system catalog to the newest FULL: that many more
/// pages, none of which a table's extraction needs.
fn grow(sandbox: &Sandbox, id: &str, files: u32, pages: u32) {
    let dir = sandbox.fixture.backup_dir(id);
    let list = dir.join("backup_content.control");
    let mut text = fs::read_to_string(&list).unwrap();
    let mut bytes = Vec::new();
    for block in 0..pages {
        bytes.extend(block.to_le_bytes());
        bytes.extend(8192_u32.to_le_bytes());
        bytes.extend([0; 8192]);
    }
    let (size, crc) = (bytes.len(), crc32c::crc32c(&bytes));
    for file in 0..files {
        let name = format!("base/1/{}", 900_000 + file);
        fs::write(dir.join("database").join(&name), &bytes).unwrap();
        writeln!(
            text,
            r#"{{"path":"{name}", "size":"{size}", "mode":"33152", "is_datafile":"1", "is_cfs":"0", "crc":"{crc}", "compress_alg":"none", "external_dir_num":"0", "dbOid":"1", "segno":"0", "n_blocks":"{pages}"}}"#
        )
        .unwrap();
    }
    fs::write(&list, &text).unwrap();
    let control = dir.join("backup.control");
    let kept = fs::read_to_string(&control).unwrap();
    let kept: String = kept
        .lines()
        .filter(|line| !line.starts_with("content-crc"))
        .map(|line| format!("{line}\n"))
        .collect();
    fs::write(&control, kept).unwrap();
}

/// Returns what `-v` reports as read and written, in MiB.
fn cost(clone: &TestClone<'_>, output: &Path) -> (f64, f64) {
    let said = extract(
        clone,
        output,
        &["--table", "pgbench_branches", "--force", "-v"],
    );
    assert!(said.status.success(), "{said}");
    let line = said
        .stderr
        .lines()
        .find(|line| line.contains("were read from"))
        .unwrap()
        .to_owned();
    println!("{line}");
    let (_, rest) = line.split_once("; ").unwrap();
    let words: Vec<&str> = rest.split_whitespace().collect();
    let size = |at: usize| {
        let unit = match words[at + 1] {
            "KiB" => 1.0 / 1024.0,
            "MiB" => 1.0,
            "GiB" => 1024.0,
            other => panic!("{other}: {line}"),
        };
        words[at].parse::<f64>().unwrap() * unit
    };
    let written = words.iter().position(|word| *word == "backup,").unwrap() + 1;
    (size(0), size(written))
}

#[test]
fn what_it_takes_does_not_grow_with_the_rest() {
    common::require_everything();
    let sandbox = Sandbox::root("pg15-chain");
    let clone = sandbox.profile("TOW7KG").write();
    let output = sandbox.path("x.sql");
    let small = cost(&clone, &output);
    // From 59 MiB to some 700.
    grow(&sandbox, "TOW7KG", 40, 2000);
    let large = cost(&clone, &output);
    for (small, large) in [(small.0, large.0), (small.1, large.1)] {
        assert!(
            (large - small).abs() < 4.0,
            "{small} MiB became {large} MiB"
        );
    }
}
