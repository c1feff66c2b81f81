//! `pbkfs plan` finds what `up` would fail with, and reports it in the same words and
//! with the same exit code.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use common::sandbox::Profile;
use common::{Sandbox, TestClone};

/// A reason for `up` to fail.
struct Obstacle {
    /// Part of `up`'s message.
    said: &'static str,
    code: i32,
    profile: for<'a> fn(&'a Sandbox, Profile<'a>) -> Profile<'a>,
    /// Run after the profile was written.
    put: fn(&TestClone<'_>),
}

fn as_it_is<'a>(_: &'a Sandbox, profile: Profile<'a>) -> Profile<'a> {
    profile
}

fn nothing(_: &TestClone<'_>) {}

fn diff_of(clone: &TestClone<'_>) -> PathBuf {
    clone.diff.clone().unwrap()
}

/// Returns where a file of the newest backup is stored.
fn stored(clone: &TestClone<'_>, name: &str) -> PathBuf {
    let fixture = &clone.sandbox.fixture;
    fixture.backup_dir(&fixture.newest()).join(name)
}

fn use_once(clone: &TestClone<'_>) {
    clone.up_with(&["--set", "postgres.launch=false"]);
    clone.down();
}

fn open_to_all(path: &Path) {
    fs::set_permissions(path, Permissions::from_mode(0o777)).unwrap();
}

const OBSTACLES: [Obstacle; 12] = [
    Obstacle {
        said: "open",
        code: 3,
        profile: |sandbox, profile| {
            let open = sandbox.path("open");
            fs::create_dir(&open).unwrap();
            open_to_all(&open);
            profile.target_at(open.join("clone"))
        },
        put: nothing,
    },
    Obstacle {
        said: "not empty",
        code: 5,
        profile: as_it_is,
        put: |clone| {
            fs::create_dir(&clone.target).unwrap();
            fs::write(clone.target.join("mine"), "x").unwrap();
        },
    },
    Obstacle {
        said: "users other than its owner can write",
        code: 5,
        profile: as_it_is,
        put: |clone| {
            use_once(clone);
            open_to_all(&diff_of(clone));
        },
    },
    Obstacle {
        said: "meta.redb: I/O error",
        code: 3,
        profile: as_it_is,
        put: |clone| {
            use_once(clone);
            fs::write(diff_of(clone).join("meta.redb"), vec![0x5A; 100_000]).unwrap();
        },
    },
    Obstacle {
        said: "is not a pbkfs diff",
        code: 5,
        profile: as_it_is,
        put: |clone| {
            fs::create_dir(diff_of(clone)).unwrap();
            fs::write(diff_of(clone).join("mine"), "x").unwrap();
        },
    },
    Obstacle {
        said: "no/such/diff",
        code: 3,
        profile: |sandbox, profile| profile.diff_at(sandbox.path("no/such/diff")),
        put: nothing,
    },
    Obstacle {
        said: "postgres.bin_dir",
        code: 2,
        profile: |_, profile| profile.postgres("bin_dir", "\"/no/such/bin\""),
        put: nothing,
    },
    Obstacle {
        said: "unrecognized configuration parameter \"nosuch\"",
        code: 2,
        profile: |_, profile| profile.setting("nosuch", "1"),
        put: nothing,
    },
    Obstacle {
        said: "invalid value for parameter \"work_mem\"",
        code: 2,
        profile: |_, profile| profile.setting("work_mem", "lots"),
        put: nothing,
    },
    Obstacle {
        said: "backup_label",
        code: 4,
        profile: as_it_is,
        put: |clone| fs::remove_file(stored(clone, "database/backup_label")).unwrap(),
    },
    Obstacle {
        said: "a symbolic link",
        code: 4,
        profile: as_it_is,
        put: |clone| {
            let label = stored(clone, "database/backup_label");
            let elsewhere = clone.sandbox.path("elsewhere");
            fs::rename(&label, &elsewhere).unwrap();
            symlink(&elsewhere, &label).unwrap();
        },
    },
    Obstacle {
        said: "content list",
        code: 4,
        profile: as_it_is,
        put: |clone| fs::remove_file(stored(clone, "backup_content.control")).unwrap(),
    },
];

#[test]
fn plan_finds_what_up_fails_with() {
    common::require_everything();
    for obstacle in OBSTACLES {
        let sandbox = Sandbox::root("pg15-debian");
        let profile = sandbox.profile(&sandbox.fixture.newest());
        let clone = (obstacle.profile)(&sandbox, profile).write();
        (obstacle.put)(&clone);
        let plan = clone.pbkfs("plan", &[]);
        let up = clone.pbkfs("up", &["--detach"]);
        let said = obstacle.said;
        assert_eq!(up.code(), Some(obstacle.code), "{said}: {up}");
        assert!(up.stderr.contains(said), "{said}: {up}");
        assert_eq!(plan.code(), up.code(), "{said}: {plan}");
        let problems = || {
            plan.stdout
                .lines()
                .filter_map(|line| line.strip_prefix("PROBLEM   "))
        };
        let told = problems().any(|problem| problem.contains(said) && up.stderr.contains(problem));
        // Without an image, there is nothing else to report.
        let refused = plan.stderr.contains(said) && up.stderr.contains(plan.stderr.trim());
        assert!(told || refused, "{said}: {plan}{up}");
    }
}

#[test]
fn plan_names_who_changes_a_backup() {
    common::require_everything();
    let sandbox = Sandbox::root("pg15-debian");
    let newest = sandbox.fixture.newest();
    let clone = sandbox.profile(&newest).write();
    let pid = std::process::id();
    let lock = sandbox.fixture.backup_dir(&newest).join("backup.pid");
    fs::write(&lock, format!("{pid}\n")).unwrap();
    let plan = clone.pbkfs("plan", &[]);
    assert_eq!(plan.code(), Some(3), "{plan}");
    let named = format!("backup {newest} is locked by process {pid}");
    assert!(plan.stdout.contains(&named), "{plan}");
    assert!(lock.exists(), "the lock was only read");
    fs::remove_file(&lock).unwrap();
    clone.pbkfs("plan", &[]).expect_ok();
    assert!(!diff_of(&clone).exists() && !clone.target.exists());
}

#[test]
fn a_profiles_mistakes_have_the_exit_code_of_mistakes() {
    common::require_everything();
    let sandbox = Sandbox::root("pg15-debian");
    let clone = sandbox.profile("latest").write();
    for (set, said) in [
        ("postgres.user=nosuchuser", "nosuchuser"),
        ("postgres.bin_dir=/etc/passwd", "not a directory"),
        ("postgres.settings.nosuch=1", "nosuch"),
        ("backup=x y", "backup"),
    ] {
        let up = clone.pbkfs("up", &["--detach", "--set", set]);
        common::refused(&up, 2, said);
    }
}

#[test]
fn settings_fit_a_terminal() {
    common::require_everything();
    let sandbox = Sandbox::root("pg15-hazards");
    let clone = sandbox.profile("latest").write();
    let text = clone.pbkfs("plan", &[]).expect_ok();
    let from = text
        .lines()
        .skip_while(|line| !line.contains("the backup's"));
    let settings = from.take_while(|line| line.starts_with("    "));
    let wide: Vec<&str> = settings.filter(|line| line.chars().count() > 80).collect();
    // The length of a path cannot be limited.
    assert!(
        wide.iter()
            .all(|line| line.contains("clone:  '/") || line.contains("backup: '")),
        "{wide:?}"
    );
    let buffers = text
        .lines()
        .find(|line| line.contains("archive_mode"))
        .unwrap();
    let columns: Vec<&str> = buffers.split_whitespace().collect();
    assert_eq!(columns, ["archive_mode", "'on'", "'off'"]);
}

/// A profile, the environment and --set over the defaults, merged as for a user.
#[test]
fn show_config_says_where_each_value_is_from() {
    let sandbox = Sandbox::root("pg15-debian");
    let clone = sandbox
        .profile("latest")
        .postgres("role", "\"reader\"")
        .setting("work_mem", "64MB")
        .setting("my.password", "geheim")
        .write();
    let show = |arguments: &[&str]| {
        let mut command = clone.command("show-config", arguments);
        command
            .env("PBKFS_LOG__LEVEL", "debug")
            .env("PBKFS_CACHE_SIZE", "1GB");
        common::run(&mut command, common::session::LIMIT)
    };
    let arguments = [
        "--set",
        "postgres.port=5433",
        "--set",
        "postgres.settings.jit=off",
    ];
    let text = show(&arguments).expect_ok();
    let file = clone.profile.to_str().unwrap();
    let written = std::fs::read_to_string(file).unwrap();
    let of_file = |key: &str| {
        let line = written
            .lines()
            .position(|line| line.starts_with(key))
            .unwrap();
        format!("{file}:{}", line + 1)
    };
    let line = |key: &str| {
        let found = text
            .lines()
            .find(|line| line.trim_start_matches('#').starts_with(key));
        let found = found.unwrap_or_else(|| panic!("no {key} in {text}"));
        found
            .split_once("  # ")
            .map(|(value, place)| (value.trim_end(), place))
            .unwrap()
    };
    let target = format!("target = {:?}", clone.target);
    assert_eq!(line("target"), (&*target, &*of_file("target")));
    assert_eq!(line("role"), ("role = \"reader\"", &*of_file("role")));
    assert_eq!(
        line("work_mem"),
        ("work_mem = \"64MB\"", &*of_file("work_mem"))
    );
    assert_eq!(line("jit"), ("jit = \"off\"", "--set"));
    assert_eq!(line("port"), ("port = 5433", "--set"));
    let variable = "environment variable PBKFS_CACHE_SIZE";
    assert_eq!(line("cache_size"), ("cache_size = \"1GB\"", variable));
    assert_eq!(line("start_timeout"), ("start_timeout = 300", "default"));
    assert_eq!(line("memory"), ("#memory", "not set: no limit"));
    assert!(
        !text.contains("geheim") && text.contains("\"my.password\" = \"***\""),
        "{text}"
    );

    // The output is itself a profile, with the same values.
    let again = sandbox.path("again.toml");
    std::fs::write(&again, text.replace("***", "geheim")).unwrap();
    let mut command = sandbox.pbkfs();
    command.arg("show-config").arg(&again).arg("--json");
    let json = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
    let second = json(&common::run(&mut command, common::session::LIMIT).expect_ok());
    let first = json(&show(&[&arguments[..], &["--json"]].concat()).expect_ok());
    let values = |report: &serde_json::Value| {
        let lines = report["keys"].as_array().unwrap().clone().into_iter();
        lines
            .map(|line| (line["key"].clone(), line["value"].clone()))
            .collect::<Vec<_>>()
    };
    assert_eq!(values(&first), values(&second));
    let role = first["keys"]
        .as_array()
        .unwrap()
        .iter()
        .find(|line| line["key"] == "postgres.role");
    let role = role.unwrap();
    assert_eq!(
        (&role["origin"], &role["file"]),
        (&"file".into(), &file.into())
    );

    // A profile that gives no valid plan is shown, and refused.
    let wrong = show(&["--set", "verify.pages=false", "--set", "verify.start=false"]);
    let said = "--set verify.pages=false: invalid value for \"verify.pages\"";
    assert_eq!(wrong.code(), Some(2), "{wrong}");
    assert!(wrong.stderr.contains(said), "{wrong}");
    assert!(wrong.stdout.contains("pages = false"), "{wrong}");
}
