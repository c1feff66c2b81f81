//! The output of `--json` matches its schema, and has no other fields.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use common::fixture::flip_byte;
use common::{OsUser, Sandbox, assert_nothing_stays, run};
use jsonschema::Validator;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(240);
const DIR: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/config/schema");

fn schema(name: &str) -> Validator {
    let path = Path::new(DIR).join(format!("{name}.schema.json"));
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    jsonschema::draft202012::new(&serde_json::from_str(&text).unwrap()).unwrap()
}

/// Validates a document against its schema, and returns it.
#[track_caller]
fn holds(name: &str, text: &str) -> Value {
    let document: Value = serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"));
    let errors: Vec<String> = schema(name)
        .iter_errors(&document)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    assert!(errors.is_empty(), "{name}: {errors:#?}\n{document:#}");
    assert!(
        document["version"]
            .as_u64()
            .is_some_and(|version| version > 0)
    );
    no_number_is_too_large(&document);
    document
}

/// JavaScript, jq and others store a number as a double.
#[track_caller]
fn no_number_is_too_large(document: &Value) {
    match document {
        Value::Number(number) => {
            let size = number.as_i64().map(i64::unsigned_abs);
            assert!(number.is_f64() || size.is_some_and(|size| size < 1 << 53));
        }
        Value::Array(items) => items.iter().for_each(no_number_is_too_large),
        Value::Object(fields) => fields.values().for_each(no_number_is_too_large),
        _ => {}
    }
}

#[test]
fn the_schemas_are_those_of_the_program() {
    const MEND: &str = "run: cargo run -- generate schema config/schema";
    let dir = tempfile::tempdir().unwrap();
    let mut generate = Command::new(env!("CARGO_BIN_EXE_pbkfs"));
    generate.args(["generate", "schema"]).arg(dir.path());
    run(&mut generate, LIMIT).expect_ok();
    let names = |dir: &Path| {
        let all = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
        let mut names: Vec<_> = all.map(|entry| entry.file_name()).collect();
        names.sort();
        names
    };
    let made = names(dir.path());
    assert_eq!(made, names(Path::new(DIR)), "{MEND}");
    for name in made {
        let read = |dir: &Path| fs::read_to_string(dir.join(&name)).unwrap();
        assert_eq!(read(dir.path()), read(Path::new(DIR)), "{MEND}");
    }
}

/// Every profile in `config` is valid by the schema for editors, and so are other
/// profiles that users write; a value that no key accepts is not.
#[test]
fn the_profiles_are_what_their_schema_says() {
    let schema = schema("profile");
    let refused = |text: &str| {
        let profile: toml::Value = toml::from_str(text).unwrap();
        let profile = serde_json::to_value(profile).unwrap();
        let errors = schema.iter_errors(&profile);
        errors.map(|error| error.to_string()).collect::<Vec<_>>()
    };
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let files = fs::read_dir(config)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let profiles = files.filter(|path| path.extension().is_some_and(|ext| ext == "toml"));
    let mut count = 0;
    for path in profiles {
        let errors = refused(&fs::read_to_string(&path).unwrap());
        assert!(errors.is_empty(), "{}: {errors:?}", path.display());
        count += 1;
    }
    assert!(count >= 5, "config has {count} profiles");
    for right in [
        "cache_size = 1024\nlock_backups = true\nfence.cpus = 2",
        "recovery.timeline = 2\nverify.dump = true\nverify.amcheck = ['a']",
        "postgres.settings = { work_mem = '1MB', jit = false, cron.use = 1 }",
        "[[verify.sql]]\nname = 'a'\ndatabase = 'b'\nquery = 'c'\nexpect = 1",
    ] {
        assert!(refused(right).is_empty(), "{right}: {:?}", refused(right));
    }
    for wrong in [
        "catalogue = '/x'",
        "postgres.port = 0",
        "postgres.prot = 1",
        "lock_backups = 'no'",
        "metadata = 'neither'",
        "backup = 'a b'",
        "cache_size = '1 gigabyte'",
        "recovery.action = 'stop'",
        "verify.amcheck = 'shop'",
        "[[verify.sql]]\nname = 'a'",
    ] {
        assert!(!refused(wrong).is_empty(), "{wrong}");
    }
}

/// All documents over the life of one clone, on a catalog with an archive.
#[test]
fn what_a_session_prints() {
    let pg = common::require_everything();
    let sandbox = Sandbox::with_catalog_of(&OsUser::postgres(), "pg15-chain", OsUser::root());
    let clone = sandbox.profile("latest").write();
    let json = |command: &str| clone.pbkfs(command, &["--json"]).expect_ok();
    let catalog = sandbox.fixture.catalog.to_str().unwrap().to_owned();
    let of_catalog = |arguments: &[&str]| {
        let mut command = sandbox.pbkfs();
        command.args(arguments).args(["-B", &catalog, "--json"]);
        run(&mut command, LIMIT).expect_ok()
    };
    let listed = holds("list", &of_catalog(&["list"]));
    let identifier = &listed["instances"][0]["system_identifier"];
    assert!(identifier.as_str().unwrap().parse::<u64>().unwrap() > 1 << 53);
    let wal = holds("wal-list", &of_catalog(&["wal", "list"]));
    assert_ne!(wal["instances"][0]["timelines"], Value::Array(Vec::new()));
    holds("plan", &json("plan"));
    holds("show-config", &json("show-config"));

    let ready = clone.pbkfs("up", &["--detach", "--json"]).expect_ok();
    let ready = holds("ready", &ready);
    let conninfo = ready["conninfo"].as_str().unwrap();
    pg.psql(conninfo, "postgres", "create table t as select 1");
    let status = holds("status", &json("status"));
    assert_ne!(status["sessions"][0]["counters"]["reads"], Value::Null);
    holds("diff", &json("diff"));
    clone.down();
    let nothing = clone.pbkfs("status", &["--json"]);
    assert_eq!(nothing.code(), Some(3), "{nothing}");
    holds("status", &nothing.stdout);
    let changed = holds("diff", &json("diff"));
    assert_ne!(changed["databases"], Value::Array(Vec::new()));
    assert_nothing_stays(&sandbox);
}

/// For a damaged backup, and for one that restore loses data of.
#[test]
fn what_verify_prints() {
    common::require_everything();
    for fixture in ["pg15-chain", "pg15-old"] {
        let sandbox = Sandbox::with_catalog_of(&OsUser::postgres(), fixture, OsUser::root());
        if fixture == "pg15-chain" {
            let file = sandbox.fixture.largest_data_file("TOW7KG");
            flip_byte(&file.path, 2 * 8200 + 8 + 5000);
        }
        let clone = sandbox.profile("latest").write();
        let arguments = ["--json", "--pages", "--set", "verify.backup=all"];
        let output = clone.pbkfs("verify", &arguments);
        let document = holds("verify", &output.stdout);
        assert!(
            document["backups"].as_array().unwrap().len() > 1,
            "{output}"
        );
    }
}

/// A field that the schema does not describe is refused; otherwise the schema would
/// enforce nothing.
#[test]
fn a_field_that_nobody_described_is_found() {
    let text = r#"{"version": 1, "sessions": [], "surprise": 1}"#;
    let document: Value = serde_json::from_str(text).unwrap();
    assert!(!schema("status").is_valid(&document));
}
