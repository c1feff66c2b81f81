//! A backup's configuration never keeps a clone from starting: what cannot work on
//! this host is left out, and reported.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::time::Duration;

use common::{Listing, OsUser, Output, Sandbox, TestClone, assert_nothing_stays, refused, run};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(240);

/// Start of the log line that says what is left out.
const TOLD: &str = "the server does without parts of the configuration that cannot work here: ";

/// Returns the report of what is left out, which must be one line.
#[track_caller]
fn told(output: &Output) -> String {
    let lines: Vec<&str> = output
        .stderr
        .lines()
        .filter(|line| line.contains(TOLD))
        .collect();
    let [line] = lines[..] else {
        panic!("not one line: {output}");
    };
    assert!(line.contains("WARN"), "{line}");
    line.split_once(TOLD).unwrap().1.to_owned()
}

/// Starts the clone; returns its output and the connection string of its server.
#[track_caller]
fn up(clone: &TestClone<'_>) -> (Output, String) {
    let output = clone.pbkfs("up", &["--detach", "--json"]);
    assert_eq!(output.code(), Some(0), "{output}");
    let ready: Value = serde_json::from_str(&output.stdout).unwrap();
    let conninfo = ready["conninfo"].as_str().unwrap().to_owned();
    (output, conninfo)
}

/// Creates a catalog whose backups each have a line that does not work on this host.
fn bad_lines() -> Sandbox {
    Sandbox::with_catalog_of(&OsUser::postgres(), "cases/configuration", OsUser::root())
}

/// Runs a shell command in the mounted data directory, without a server.
fn edit(clone: &TestClone<'_>, script: &str) {
    clone.up_with(&["--set", "postgres.launch=false"]);
    let script = format!("cd {} && {script}", clone.target.display());
    let user = OsUser::postgres();
    run(user.command("sh").args(["-ec", &script]), LIMIT).expect_ok();
    clone.down();
}

fn starts_without(backup: &str, text: &str, reason: &str) {
    let pg = common::require_everything();
    let sandbox = bad_lines();
    let before = Listing::of(&sandbox.fixture.catalog);
    let clone = sandbox.profile(backup).throw_away().write();

    let plan = clone.pbkfs("plan", &["--json"]);
    let plan: Value = serde_json::from_str(&plan.expect_ok()).unwrap();
    let left_out = plan["left_out"].as_array().unwrap();
    assert_eq!(left_out.len(), 1, "{left_out:?}");
    assert_eq!(
        (left_out[0]["text"].as_str(), left_out[0]["reason"].as_str()),
        (Some(text), Some(reason))
    );
    let plan = clone.pbkfs("plan", &[]).expect_ok();
    assert!(plan.contains(text) && plan.contains(reason), "{plan}");

    let (output, conninfo) = up(&clone);
    let line = told(&output);
    assert!(line.starts_with(text) && line.ends_with(reason), "{line}");
    assert_eq!(
        pg.psql(&conninfo, "postgres", "select count(*) from t"),
        "1000"
    );
    clone.down();

    // Without a terminal, jobs print nothing unless `-v` is given.
    let state = format!("verify.state_dir={}", sandbox.path("state").display());
    let mut verify = clone.command("verify", &["-v", "--set", &state]);
    let output = run(&mut verify, LIMIT);
    assert_eq!(output.code(), Some(0), "{output}");
    assert_eq!(told(&output), line);
    let query = [
        "-v",
        "-d",
        "postgres",
        "--query",
        "select count(*) from t",
        "-o",
        "-",
    ];
    let output = run(&mut clone.command("extract", &query), LIMIT);
    assert_eq!(output.code(), Some(0), "{output}");
    assert_eq!(told(&output), line);
    assert!(output.stdout.contains("1000"), "{output}");
    assert!(Listing::of(&sandbox.fixture.catalog) == before);
    assert_nothing_stays(&sandbox);
}

#[test]
fn an_include_that_is_not_there_is_left_out() {
    starts_without(
        "TP40C7",
        "include '/opt/pgconf_h3/my.conf'",
        "it does not exist",
    );
}

#[test]
fn a_locale_that_is_not_installed_is_left_out() {
    starts_without(
        "TP40DA",
        "lc_messages = 'ru_RU.UTF-8'",
        "this locale is not installed here",
    );
}

#[test]
fn a_setting_of_another_edition_is_left_out() {
    starts_without(
        "TP40FT",
        "enable_compound_index_stats = 'on'",
        "this server does not recognize it",
    );
}

#[test]
fn a_time_zone_that_is_not_installed_is_left_out() {
    starts_without(
        "TP40H6",
        "timezone = 'Europe/Nowhere'",
        "this time zone is not installed here",
    );
}

#[test]
fn alter_system_goes_on_from_what_the_server_takes() {
    let pg = common::require_everything();
    let sandbox = Sandbox::root("pg15-chain");
    let clone = sandbox.profile(&sandbox.fixture.newest()).write();
    edit(
        &clone,
        "cat >> postgresql.auto.conf <<'END'\n\
         lc_time = 'ru_RU.UTF-8'\n\
         enable_compound_index_stats = on\n\
         work_mem = '7MB'\n\
         include 'not.there'\n\
         END\n\
         cat >> postgresql.conf <<'END'\n\
         max_connections = 99999999999\n\
         wal_sync_method = blah\n\
         timezone = 'Europe/Nowhere'\n\
         what is that\n\
         unix_socket_group = 'nosuchgroup'\n\
         min_dynamic_shared_memory = 1TB\n\
         maintenance_work_mem = '33MB'\n\
         END",
    );
    let (output, conninfo) = up(&clone);
    let line = told(&output);
    for wrong in [
        "lc_time = 'ru_RU.UTF-8'",
        "enable_compound_index_stats = 'on'",
        "include 'not.there'",
        "max_connections = '99999999999'",
        "wal_sync_method = 'blah'",
        "timezone = 'Europe/Nowhere'",
        "what is that",
    ] {
        assert!(line.contains(wrong), "{wrong}: {line}");
    }
    let show = |conninfo: &str, name: &str| pg.psql(conninfo, "postgres", &format!("show {name}"));
    assert_eq!(show(&conninfo, "work_mem"), "7MB");
    assert_eq!(show(&conninfo, "maintenance_work_mem"), "33MB");
    // A setting made in the clone takes effect and persists.
    pg.psql(&conninfo, "postgres", "alter system set work_mem = '9MB'");
    pg.psql(&conninfo, "postgres", "select pg_reload_conf()");
    common::eventually("the setting takes effect", LIMIT, || {
        show(&conninfo, "work_mem") == "9MB"
    });
    clone.down();
    let (output, conninfo) = up(&clone);
    assert!(!told(&output).contains("lc_time"), "{output}");
    assert_eq!(show(&conninfo, "work_mem"), "9MB");
    clone.down();
    // The profile has precedence.
    let ready = clone.up_with(&["--set", "postgres.settings.work_mem=11MB"]);
    assert_eq!(show(ready.conninfo(), "work_mem"), "11MB");
    clone.down();
    assert_nothing_stays(&sandbox);
}

#[test]
fn what_a_clone_sets_for_its_databases_and_roles_does_not_keep_it_from_starting() {
    let pg = common::require_everything();
    let sandbox = Sandbox::root("pg15-chain");
    let clone = sandbox.profile(&sandbox.fixture.newest()).write();
    let (_, conninfo) = up(&clone);
    pg.psql(
        &conninfo,
        "postgres",
        "create role weak; create schema evil; \
         create function evil.current_setting(text) returns text language sql \
           as $$select '/nowhere'::text$$; \
         create view evil.pg_settings as select 1 / 0 as name; \
         alter database postgres set search_path = evil, pg_catalog; \
         alter database postgres set client_encoding = 'LATIN1'; \
         alter database postgres set datestyle = 'German'; \
         alter database postgres set statement_timeout = 1; \
         alter database postgres set lock_timeout = 1; \
         alter database postgres set idle_session_timeout = 1; \
         alter database postgres set default_transaction_read_only = on; \
         alter database postgres set default_transaction_isolation = 'serializable'; \
         alter database postgres set default_transaction_deferrable = on; \
         alter role postgres set local_preload_libraries = 'nosuchlibrary'; \
         alter role postgres set session_preload_libraries = 'nosuchlibrary'; \
         alter role postgres set role = 'weak'",
    );
    clone.down();
    up(&clone);
    clone.down();
    assert_nothing_stays(&sandbox);
}

#[test]
fn a_database_whose_locale_is_not_installed_is_named() {
    let pg = common::require_everything();
    let sandbox = Sandbox::root("pg15-chain");
    let clone = sandbox.profile(&sandbox.fixture.newest()).write();
    let (_, conninfo) = up(&clone);
    pg.psql(
        &conninfo,
        "postgres",
        "update pg_database set datcollate = 'xx_YY.UTF-8' where datname = 'postgres'",
    );
    clone.down();
    let output = clone.pbkfs("up", &["--detach"]);
    let said = "the database \"postgres\" needs the locale set by its LC_COLLATE \"xx_YY.UTF-8\", \
                which is not installed on this host; install it";
    refused(&output, 7, said);
    assert_nothing_stays(&sandbox);
}
