//! Whatever is in place of a file of the catalog: nothing blocks on it, nothing
//! outside the catalog is exposed through it, and each command ends with a known code
//! and a sentence.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use common::process::mounts_in;
use common::session::UNKNOWN_CASE;
use common::{Output, Sandbox, TestClone, assert_nothing_stays, run};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::mkfifo;

/// Longer than anything here takes, if nothing blocks: each command works on some
/// megabytes.
const LIMIT: Duration = Duration::from_secs(30);

/// Contents that root can read but the clone must not.
const SECRET: &str = "root's own secret";

/// The DELTA that is tested, and its FULL.
const FIXTURE: &str = "pg15-hazards";
const TARGET: &str = "TOW7GA";
const FULL: &str = "TOW7FV";

/// What can be in place of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    LinkOutside,
    LinkWithin,
    Fifo,
    Socket,
    Device,
    Directory,
    /// A sparse file of one terabyte.
    Sparse,
}

const KINDS: [Kind; 7] = [
    Kind::LinkOutside,
    Kind::LinkWithin,
    Kind::Fifo,
    Kind::Socket,
    Kind::Device,
    Kind::Directory,
    Kind::Sparse,
];

/// The exit code of each command with something else in place of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Codes {
    list: i32,
    plan: i32,
    mount: i32,
    verify: i32,
    wal: i32,
}

struct Catalog {
    sandbox: Sandbox,
    secret: PathBuf,
}

impl Catalog {
    fn new() -> Self {
        Self::of(FIXTURE)
    }

    fn of(fixture: &str) -> Self {
        common::require_everything();
        let sandbox = Sandbox::root(fixture);
        let secret = sandbox.path("secret");
        fs::write(&secret, SECRET).unwrap();
        Self { sandbox, secret }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.sandbox.fixture.catalog.join(name)
    }

    /// Puts something else in a file's place, calls `look`, and puts the file back.
    /// Meanwhile, the file itself stays in the catalog under another name.
    fn with(&self, name: &str, kind: Kind, look: impl FnOnce()) {
        let (path, aside) = (self.path(name), self.sandbox.path("aside"));
        let within = path.with_file_name("within");
        fs::rename(&path, &aside).unwrap();
        fs::copy(&aside, &within).unwrap();
        // Removed on drop, after `look`.
        let mut socket = None;
        match kind {
            Kind::LinkOutside => symlink(&self.secret, &path).unwrap(),
            Kind::LinkWithin => symlink("within", &path).unwrap(),
            Kind::Fifo => mkfifo(&path, Mode::S_IRWXU).unwrap(),
            Kind::Socket => socket = Some(bind(&path)),
            Kind::Device => {
                let zero = makedev(1, 5);
                mknod(&path, SFlag::S_IFCHR, Mode::S_IRWXU, zero).unwrap();
            }
            Kind::Directory => fs::create_dir(&path).unwrap(),
            Kind::Sparse => File::create(&path).unwrap().set_len(1 << 40).unwrap(),
        }
        look();
        drop(socket);
        fs::remove_file(&within).unwrap();
        fs::remove_dir(&path)
            .or_else(|_| fs::remove_file(&path))
            .unwrap();
        fs::rename(&aside, &path).unwrap();
    }

    fn pbkfs(&self, arguments: &[&str]) -> Output {
        let mut command = self.sandbox.pbkfs();
        checked(run(command.args(arguments), LIMIT))
    }

    fn codes(&self, clone: &TestClone<'_>, reads: &str, kind: Kind) -> Codes {
        let catalog = self.sandbox.fixture.catalog.to_str().unwrap();
        let of = |output: Output| checked(output).code().unwrap();
        let state = format!("verify.state_dir={}", self.sandbox.path("state").display());
        let verify = ["--pages", "--set", &state];
        Codes {
            list: of(self.pbkfs(&["list", "-B", catalog])),
            plan: of(run(&mut clone.command("plan", &[]), LIMIT)),
            mount: self.mount(catalog, reads, kind),
            verify: of(run(&mut clone.command("verify", &verify), LIMIT)),
            wal: of(self.pbkfs(&["wal", "list", "-B", catalog])),
        }
    }

    /// Mounts, and reads a file that needs the one that was replaced.
    fn mount(&self, catalog: &str, reads: &str, kind: Kind) -> i32 {
        let target = self.sandbox.path("look");
        let at = target.to_str().unwrap();
        let select = ["-B", catalog, "--instance", "main", "-i", TARGET];
        let arguments = [&["mount", "-D", at, "--read-only"], &select[..]].concat();
        let mounted = self.pbkfs(&arguments);
        if mounted.status.success() {
            let file = target.join(reads);
            // No more than the size of any file in the fixture: the sparse one is
            // huge.
            let mut head = Command::new("head");
            let read = run(head.args(["-c", "10000000"]).arg(&file), LIMIT);
            assert!(
                !read.stdout.contains(SECRET),
                "{reads} exposes an outside file"
            );
            let is_error = read.stderr.contains("Input/output error");
            assert!(is_error || kind == Kind::Sparse, "{kind:?}: {read}");
            self.pbkfs(&["unmount", "-D", at]).expect_ok();
        }
        assert!(!mounts_in(&target).contains(&target));
        mounted.code().unwrap()
    }
}

fn bind(path: &Path) -> UnixListener {
    // The path itself may be too long for a socket address.
    let dir = File::open(path.parent().unwrap()).unwrap();
    let descriptor = std::os::fd::AsRawFd::as_raw_fd(&dir);
    let name = path.file_name().unwrap().to_str().unwrap();
    UnixListener::bind(format!("/proc/self/fd/{descriptor}/{name}")).unwrap()
}

/// Checks what is true of every run, however it ends.
#[track_caller]
fn checked(output: Output) -> Output {
    let said = format!("{}{}", output.stdout, output.stderr);
    assert!(!said.contains(SECRET), "{output}");
    for raw in [UNKNOWN_CASE, "Os { code", "Error("] {
        assert!(!said.contains(raw), "not a sentence for people: {output}");
    }
    if output.code() != Some(0) {
        // `plan` reports what is wrong as part of its output.
        assert!(said.len() > 40, "no sentence: {output}");
    }
    output
}

/// Tries every kind in place of `name`. `reads` is the file of the mount that needs
/// it. A terabyte in place of a file that is stored whole may be read.
#[track_caller]
fn every_kind(name: &str, reads: &str, expected: Codes) {
    each_kind(name, reads, |_| expected);
}

/// The same, with codes that depend on the kind.
#[track_caller]
fn each_kind(name: &str, reads: &str, expected: impl Fn(Kind) -> Codes) {
    let catalog = Catalog::new();
    let clone = catalog.sandbox.profile(TARGET).write();
    for kind in KINDS {
        catalog.with(name, kind, || {
            let codes = catalog.codes(&clone, reads, kind);
            assert_eq!(codes, expected(kind), "{kind:?} as {name}");
        });
    }
    assert_nothing_stays(&catalog.sandbox);
}

fn in_target(file: &str) -> String {
    format!("backups/main/{TARGET}/{file}")
}

fn largest_data_file() -> String {
    Catalog::new().sandbox.fixture.largest_data_file(FULL).name
}

/// Codes if only what needs the file fails, and `verify` has evidence.
const DAMAGED: Codes = Codes {
    list: 0,
    plan: 0,
    mount: 0,
    verify: 1,
    wal: 0,
};

/// Codes if nothing can be said about the backup.
const UNKNOWN: Codes = Codes {
    list: 0,
    plan: 4,
    mount: 4,
    verify: 3,
    wal: 0,
};

#[test]
fn the_instances_configuration() {
    let nothing = Codes {
        list: 4,
        verify: 1,
        wal: 4,
        ..UNKNOWN
    };
    every_kind("backups/main/pg_probackup.conf", "PG_VERSION", nothing);
}

#[test]
fn the_backups_control_file() {
    every_kind(&in_target("backup.control"), "PG_VERSION", UNKNOWN);
}

#[test]
fn the_tablespace_map() {
    every_kind(&in_target("database/tablespace_map"), "PG_VERSION", UNKNOWN);
}

#[test]
fn the_content_list() {
    let unusable = Codes {
        plan: 4,
        mount: 4,
        ..DAMAGED
    };
    let list = in_target("backup_content.control");
    every_kind(&list, "PG_VERSION", unusable);
}

#[test]
fn the_header_map() {
    let map = format!("backups/main/{FULL}/page_header_map");
    // `plan` reads pg_subscription.
    let damaged = Codes { plan: 4, ..DAMAGED };
    every_kind(&map, &largest_data_file(), damaged);
}

#[test]
fn a_data_file() {
    let name = largest_data_file();
    let stored = format!("backups/main/{FULL}/database/{name}");
    every_kind(&stored, &name, DAMAGED);
}

#[test]
fn a_file_that_is_stored_whole() {
    let name = "global/pg_filenode.map";
    every_kind(&in_target(&format!("database/{name}")), name, DAMAGED);
    // Without a label nothing starts, and `plan` reports that; it does not read the
    // whole file.
    let label = "backup_label";
    each_kind(&in_target(&format!("database/{label}")), label, |kind| {
        let plan = if kind == Kind::Sparse { 0 } else { 4 };
        Codes { plan, ..DAMAGED }
    });
}

#[test]
fn the_clusters_control_file() {
    let name = "global/pg_control";
    let unusable = Codes {
        plan: 4,
        mount: 4,
        ..DAMAGED
    };
    every_kind(&in_target(&format!("database/{name}")), name, unusable);
}

#[test]
fn a_file_of_the_archive() {
    let catalog = Catalog::of("pg15-chain");
    let at = catalog.sandbox.fixture.catalog.to_str().unwrap();
    let history = "00000002.history";
    fs::write(
        catalog.path("wal/main").join(history),
        "1\t0/6200000\tno reason\n",
    )
    .unwrap();
    let asked = "00000001000000000000004D";
    let segment = format!("{asked}.gz");
    let fetched = catalog.sandbox.path("fetched");
    // Without a history nothing can be determined; anything that is not a segment is
    // ignored.
    for (stored, asked, listed) in [(&*segment, asked, 0), (history, history, 4)] {
        for kind in KINDS {
            catalog.with(&format!("wal/main/{stored}"), kind, || {
                let list = catalog.pbkfs(&["wal", "list", "-B", at]);
                if kind != Kind::Sparse {
                    assert_eq!(list.code(), Some(listed), "{kind:?}: {list}");
                    assert!(list.stderr.contains(stored), "{kind:?}: {list}");
                    assert!(list.stderr.contains("does not belong there"), "{list}");
                }
                let to = fetched.to_str().unwrap();
                let get = ["wal-get", "-B", at, "--instance", "main", asked, to];
                let get = catalog.pbkfs(&get);
                assert_eq!(get.code(), Some(200), "{kind:?}: {get}");
                assert!(get.stderr.contains(stored), "{kind:?}: {get}");
                assert!(!fetched.exists());
            });
        }
    }
}

/// `latest` is the newest backup that can be used, and the log says why it is not the
/// newest of all.
#[test]
fn the_latest_is_one_that_can_be_opened() {
    let catalog = Catalog::new();
    let clone = catalog.sandbox.profile("latest").write();
    for kind in [Kind::Fifo, Kind::LinkOutside, Kind::Sparse] {
        catalog.with(&in_target("backup_content.control"), kind, || {
            let plan = checked(run(&mut clone.command("plan", &[]), LIMIT));
            assert_eq!(plan.code(), Some(0), "{kind:?}: {plan}");
            assert!(plan.stdout.contains("TOW7G5"), "{plan}");
            let told: Vec<_> = plan.stderr.lines().filter(|l| l.contains(TARGET)).collect();
            assert_eq!(told.len(), 1, "{plan}");
            assert!(told[0].contains("skipped"), "{plan}");
        });
    }
}

#[test]
fn the_clusters_settings() {
    let name = "postgresql.conf";
    // `plan` shows what the server would be started with. A file that can be read but
    // is not a configuration is an error only for the server.
    let unusable = |kind| Codes {
        plan: if kind == Kind::Sparse { 7 } else { 4 },
        ..DAMAGED
    };
    each_kind(&in_target(&format!("database/{name}")), name, unusable);
}
