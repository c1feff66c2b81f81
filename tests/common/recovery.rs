//! Recovery of the clones of pg15-chain, whose archive has restore points.

use std::fs;

use super::PgTools;
use super::fixture::RestorePoint;
use super::process::{OsUser, Output};
use super::sandbox::Sandbox;
use super::session::{Ready, TestClone};

/// The last ARCHIVE backup before the restore points.
pub const BACKUP: &str = "TOW7K6";

/// Creates a sandbox in which root runs pbkfs, on a catalog owned by the user that
/// PostgreSQL runs as.
pub fn sandbox() -> Sandbox {
    Sandbox::with_catalog_of(&OsUser::postgres(), "pg15-chain", OsUser::root())
}

pub fn points(sandbox: &Sandbox) -> [RestorePoint; 3] {
    sandbox.fixture.restore_points().try_into().unwrap()
}

/// Returns `--set recovery.KEY=VALUE` for each.
pub fn sets(values: &[(&str, &str)]) -> Vec<String> {
    values
        .iter()
        .flat_map(|(key, value)| ["--set".to_owned(), format!("recovery.{key}={value}")])
        .collect()
}

pub fn strs(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

#[track_caller]
pub fn assert_at(pg: &PgTools, conninfo: &str, point: &RestorePoint) {
    let answer = pg.psql(conninfo, &point.db, &point.sql);
    assert_eq!(answer, point.answer, "{point:?}");
}

/// Fails unless the server answers as the live cluster did just before `backup`.
#[track_caller]
pub fn assert_as_before(pg: &PgTools, conninfo: &str, sandbox: &Sandbox, backup: &str) {
    for expectation in sandbox.fixture.expectations(backup) {
        let answer = pg.psql(conninfo, &expectation.db, &expectation.sql);
        assert_eq!(answer, expectation.answer, "{backup}: {expectation:?}");
    }
}

#[track_caller]
pub fn up_to(clone: &TestClone<'_>, values: &[(&str, &str)]) -> Ready {
    clone.up_with(&strs(&sets(values)))
}

/// Returns the output of an `up` whose recovery must fail.
#[track_caller]
pub fn fails(clone: &TestClone<'_>, values: &[(&str, &str)]) -> Output {
    let arguments = [vec!["--detach".to_owned()], sets(values)].concat();
    clone.pbkfs("up", &strs(&arguments))
}

/// Archives the finished files of a promoted clone's timeline 2 in its catalog, as an
/// archive_command would: the history and the segments.
pub fn archive_second_timeline(pg: &PgTools, clone: &TestClone<'_>, ready: &Ready) {
    let ask = "select pg_walfile_name(pg_current_wal_insert_lsn())";
    let unfinished = pg.psql(ready.conninfo(), "postgres", ask);
    let mut copied = 0;
    for entry in fs::read_dir(clone.target.join("pg_wal")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        let is_segment = name.len() == 24 && *name < *unfinished;
        if name.starts_with("00000002") && (is_segment || name.ends_with(".history")) {
            let stored = clone.sandbox.fixture.wal(name);
            fs::copy(&path, &stored).unwrap();
            OsUser::postgres().own(&stored);
            copied += 1;
        }
    }
    assert!(
        copied > 1,
        "expected a history and segments, not {copied} files"
    );
}
