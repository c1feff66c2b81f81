//! `pbkfs verify` on a host that differs from the one the backup was taken on, and
//! with the settings stored in a database: neither makes a good backup bad.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;
#[allow(dead_code, clippy::unwrap_used)]
#[path = "../examples/make-catalog/main.rs"]
mod make_catalog;

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser as _;
use common::cluster::Cluster;
use common::{Sandbox, assert_nothing_stays, run};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(240);

/// Creates a catalog of a cluster whose databases are sorted by ICU, prepared by
/// these statements in the database `postgres`.
fn prepared(sandbox: &Sandbox, statements: &[&str]) -> PathBuf {
    let pg = common::require_everything();
    let icu = ["--locale-provider=icu", "--icu-locale=en-US"];
    let cluster = Cluster::new(&pg, sandbox, &icu);
    cluster.while_up(|conninfo| {
        // A setting that one statement stores in its database would also affect the
        // later ones.
        let options = [
            "statement_timeout=0",
            "lock_timeout=0",
            "idle_session_timeout=0",
            "default_transaction_read_only=off",
        ]
        .map(|option| format!("-c {option}"))
        .join(" ");
        let conninfo = format!("{conninfo} options='{options}'");
        for statement in statements {
            pg.psql(&conninfo, "postgres", statement);
        }
    });
    let catalog = sandbox.path("made");
    let arguments = [
        "make-catalog",
        "-B",
        catalog.to_str().unwrap(),
        "-D",
        cluster.data.to_str().unwrap(),
        "--mode",
        "full",
    ];
    make_catalog::make(&make_catalog::Arguments::parse_from(arguments)).unwrap();
    catalog
}

/// Verifies the newest backup with these lines in the profile. Returns the document
/// of a run that ends with this code, and its text report.
fn verified(sandbox: &Sandbox, catalog: &PathBuf, lines: &str, code: i32) -> (Value, String) {
    let profile = sandbox.profile("latest").catalog_at(catalog).throw_away();
    let clone = profile.write();
    let mut file = File::options().append(true).open(&clone.profile).unwrap();
    writeln!(file, "\n{lines}").unwrap();
    let state = format!("verify.state_dir={}", sandbox.path("state").display());
    let mut told = String::new();
    let mut document = Value::Null;
    for form in ["--json", "-v"] {
        let mut command = clone.command("verify", &["--set", &state, form]);
        // Verdicts depend on messages, which a user may have in another language.
        command.env("LC_ALL", "de_DE.UTF-8").env("LANGUAGE", "de");
        let output = run(&mut command, LIMIT);
        assert_eq!(output.code(), Some(code), "{output}");
        match form {
            "--json" => document = serde_json::from_str(&output.stdout).unwrap(),
            // Only a success is printed as a result.
            _ => told = output.stdout + &output.stderr,
        }
    }
    (document, told)
}

fn amcheck(document: &Value) -> (&str, &str) {
    check(document, "amcheck")
}

/// The verdict and the error of the check of that kind.
fn check<'a>(document: &'a Value, kind: &str) -> (&'a str, &'a str) {
    let checks = document["backups"][0]["checks"].as_array().unwrap();
    let check = checks.iter().find(|check| check["kind"] == kind);
    let check = check.unwrap_or_else(|| panic!("no {kind} in {document:#}"));
    let text = |key: &str| check[key].as_str().unwrap_or_default();
    (text("verdict"), text("error"))
}

const WORDS: &str = "create table words as \
    select case i % 2 when 0 then 'a' else 'B' end || i as w, i as n from generate_series(1, 3000) i";

/// An index that was built with one collation but has another in the system catalog,
/// like an index whose collation has changed its order.
const BY_DEFAULT: [&str; 2] = [
    "create index by_default on words (w collate \"C\")",
    "update pg_index set indcollation = '100' where indexrelid = 'by_default'::regclass",
];

/// The same in reverse, with the C collation, which sorts the same everywhere.
const BY_C: [&str; 2] = [
    "create index by_c on words (w)",
    "update pg_index set indcollation = '950' where indexrelid = 'by_c'::regclass",
];

const AGED: &str = "update pg_database set datcollversion = '1.0' where datname = 'postgres'";

const CHECKED: &str = "[verify]\namcheck = [\"postgres\"]";

#[test]
fn an_index_in_the_order_of_another_version_tells_nothing() {
    let sandbox = Sandbox::root("pg15-debian");
    let by_expression = "create index by_expression on words (length(lower(w)))";
    let statements = [&[WORDS, AGED, by_expression][..], &BY_DEFAULT].concat();
    let catalog = prepared(&sandbox, &statements);
    let (document, told) = verified(&sandbox, &catalog, CHECKED, 3);
    let (verdict, error) = amcheck(&document);
    assert_eq!(verdict, "could-not-tell", "{document:#}");
    assert!(
        error.contains("by_default") && error.contains("REINDEX"),
        "{error}"
    );
    let collations = document["backups"][0]["collations"].as_array().unwrap();
    assert_eq!(collations.len(), 1, "{document:#}");
    let known = &collations[0];
    assert_eq!(
        (&known["database"], &known["collation"]),
        (&"postgres".into(), &"en-US".into())
    );
    assert_eq!(
        (&known["recorded"], &known["indexes"]),
        (&"1.0".into(), &2.into())
    );
    assert!(
        told.contains("has version 1.0") && told.contains("2 indexes are"),
        "{told}"
    );
    // It is reported even if nothing is out of order, and is not a fault in itself.
    let (document, _) = verified(&sandbox, &catalog, "", 0);
    assert_eq!(document["backups"][0]["collations"][0]["recorded"], "1.0");
    assert_nothing_stays(&sandbox);
}

#[test]
fn an_index_that_no_other_version_explains_is_bad() {
    let sandbox = Sandbox::root("pg15-debian");
    let statements = [&[WORDS, AGED][..], &BY_DEFAULT, &BY_C].concat();
    let catalog = prepared(&sandbox, &statements);
    let (document, _) = verified(&sandbox, &catalog, CHECKED, 1);
    assert_eq!(amcheck(&document).0, "bad", "{document:#}");
    assert!(amcheck(&document).1.contains("by_c"), "{document:#}");
    assert_nothing_stays(&sandbox);
}

#[test]
fn an_index_out_of_the_order_of_this_version_is_bad() {
    let sandbox = Sandbox::root("pg15-debian");
    let catalog = prepared(&sandbox, &[&[WORDS][..], &BY_DEFAULT].concat());
    let (document, _) = verified(&sandbox, &catalog, CHECKED, 1);
    assert_eq!(amcheck(&document).0, "bad", "{document:#}");
    assert_eq!(document["backups"][0]["collations"], serde_json::json!([]));
    assert_nothing_stays(&sandbox);
}

#[test]
fn the_settings_of_a_database_are_in_no_checks_way() {
    let sandbox = Sandbox::root("pg15-debian");
    let role = common::OsUser::postgres().name;
    let role = format!("alter role {role} set statement_timeout = 5");
    let statements = [
        WORDS,
        "create index on words (w)",
        "alter database postgres set default_transaction_read_only = on",
        "alter database postgres set statement_timeout = 5",
        "alter database postgres set lock_timeout = 1",
        "alter database postgres set idle_in_transaction_session_timeout = 5",
        "alter database postgres set idle_session_timeout = 5",
        &role,
        "alter system set default_transaction_read_only = on",
        "alter system set statement_timeout = 5",
        "create role weak",
        // The last statement, because it affects all later ones.
        "alter database postgres set role = 'weak'",
    ];
    let catalog = prepared(&sandbox, &statements[..]);
    let lines = "[verify]\namcheck = true\ndump = true\n\
        [[verify.sql]]\nname = \"slow\"\ndatabase = \"postgres\"\n\
        query = \"select count(*) from words, pg_sleep(0.2)\"\nexpect = \"3000\"\n\
        [[verify.command]]\nname = \"psql\"\nrun = \"psql -XAtc 'create table t as select 1 as one from pg_sleep(0.2)'\"";
    let (document, _) = verified(&sandbox, &catalog, lines, 0);
    let checks = document["backups"][0]["checks"].as_array().unwrap();
    for kind in ["amcheck", "dump", "sql", "command"] {
        assert!(
            checks.iter().any(|check| check["kind"] == kind),
            "{document:#}"
        );
    }
    assert_nothing_stays(&sandbox);
}

#[test]
fn a_database_whose_locale_is_not_installed_tells_nothing() {
    let sandbox = Sandbox::root("pg15-debian");
    let foreign = "update pg_database set datcollate = 'xx_YY.UTF-8' where datname = 'postgres'";
    let catalog = prepared(&sandbox, &[foreign]);
    let (document, told) = verified(&sandbox, &catalog, "", 3);
    let backup = &document["backups"][0];
    assert_eq!(backup["verdict"], "could-not-tell", "{document:#}");
    let (verdict, error) = check(&document, "start");
    assert_eq!(verdict, "could-not-tell", "{document:#}");
    let named = "the database \"postgres\" needs the locale set by its LC_COLLATE \"xx_YY.UTF-8\"";
    for said in [error, &told] {
        assert!(said.contains(named), "{said}");
    }
    assert_nothing_stays(&sandbox);
}
