//! What a clone's superuser can leave in the data directory for the next time that
//! pbkfs, as root, reads it. It is planted through the mount, and owned by the
//! server's user.

use std::fs;
use std::os::unix::fs::{lchown, symlink};
use std::path::Path;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::case::{Case, sparse};
use crate::common::OsUser;
use crate::mutation::Mutation;

/// The file in which a mutation records what to plant.
const PLAN: &str = "plan";

/// Names that pbkfs or the starting server reads, writes or removes.
const NAMES: [&str; 12] = [
    ".pbkfs-recovery.json",
    ".pbkfs-recovery.json.tmp",
    "recovery.signal",
    "standby.signal",
    "backup_label",
    "postgresql.auto.conf",
    "postgresql.conf",
    "global/pg_control",
    "pg_wal",
    "pg_wal/00000002.history",
    "postmaster.pid",
    "PG_VERSION",
];

const KINDS: [&str; 6] = [
    "a link to a file outside",
    "a link to /dev/zero",
    "a FIFO",
    "a directory",
    "a file of 1 GB",
    "nonsense",
];

/// Texts for files that have a syntax.
const TEXTS: [(&str, &str); 18] = [
    ("postgresql.auto.conf", "include '/dev/zero'\n"),
    ("postgresql.auto.conf", "include 'fifo'\n"),
    (
        "postgresql.auto.conf",
        "include 'postgresql.auto.conf'\ninclude 'postgresql.auto.conf'\ninclude 'postgresql.auto.conf'\ninclude 'postgresql.auto.conf'\ninclude 'postgresql.auto.conf'\ninclude 'postgresql.auto.conf'\n",
    ),
    ("postgresql.auto.conf", "include_dir '/dev'\n"),
    ("postgresql.auto.conf", "include '../outside/secret'\n"),
    (
        "postgresql.auto.conf",
        "shared_preload_libraries = '../outside/secret'\n",
    ),
    (
        "postgresql.auto.conf",
        "unix_socket_directories = '/dev/zero'\n",
    ),
    (
        "postgresql.auto.conf",
        "data_directory = '/'\nhba_file = '/dev/zero'\n",
    ),
    (
        "postgresql.auto.conf",
        "log_directory = '../outside'\nlogging_collector = on\n",
    ),
    (
        "postmaster.pid",
        "1\n/\n1\n5432\n/tmp\nlocalhost\n1 1\nready\n",
    ),
    ("postmaster.pid", "99999999999999999999\n"),
    ("postmaster.pid", "-1\n"),
    (
        ".pbkfs-recovery.json",
        "{\"version\":1,\"target\":\"\\u001b[31m\",\"promoted\":true,\"lsn\":\"x\",\"time\":\"9999-12-31 23:59:59-23\"}",
    ),
    (".pbkfs-recovery.json", "[[[[[[[["),
    ("recovery.signal", "x\n"),
    ("backup_label", "START WAL LOCATION: x\n"),
    ("pg_tblspc/99999", "-> /etc"),
    ("pg_tblspc/99998", "-> ../../outside"),
];

pub fn all() -> Vec<Mutation> {
    let plan = |title: String, what: String, name: &'static str| {
        Mutation::new(title, move |case| {
            fs::write(case.path(PLAN), format!("{name}\n{what}")).unwrap();
        })
    };
    let mut mutations = Vec::new();
    for (at, name) in NAMES.into_iter().enumerate() {
        // Only every other combination for most names, because the server is slow;
        // neighbouring names cover the other kinds.
        for (number, kind) in KINDS.into_iter().enumerate() {
            if at < 4 || (at + number) % 2 == 0 {
                mutations.push(plan(format!("{kind} at {name}"), kind.to_owned(), name));
            }
        }
    }
    for (number, (name, text)) in TEXTS.into_iter().enumerate() {
        mutations.push(plan(
            format!("text {number} in {name}"),
            format!("text {text}"),
            name,
        ));
    }
    mutations
}

/// Plants what the mutation recorded.
fn plant(mnt: &Path, outside: &Path, plan: &str) {
    let (name, what) = plan.split_once('\n').unwrap();
    let at = mnt.join(name);
    match fs::symlink_metadata(&at) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(&at).unwrap(),
        Ok(_) => fs::remove_file(&at).unwrap(),
        // The directory may be a link to the server's WAL directory.
        Err(_) => fs::create_dir_all(at.parent().unwrap()).unwrap(),
    }
    match what {
        "a link to a file outside" => symlink(outside.join("secret"), &at).unwrap(),
        "a link to /dev/zero" => symlink("/dev/zero", &at).unwrap(),
        "a FIFO" => mkfifo(&at, Mode::S_IRWXU).unwrap(),
        "a directory" => fs::create_dir(&at).unwrap(),
        "a file of 1 GB" => sparse(&at, 1 << 30),
        "nonsense" => fs::write(&at, vec![0xFF; 9000]).unwrap(),
        text => match text.strip_prefix("text -> ") {
            Some(target) => symlink(target, &at).unwrap(),
            None => fs::write(&at, text.strip_prefix("text ").unwrap()).unwrap(),
        },
    }
    let server = OsUser::postgres();
    lchown(&at, Some(server.uid), Some(server.gid)).unwrap();
    if what.contains("fifo") {
        mkfifo(&mnt.join("fifo"), Mode::S_IRWXU).unwrap();
    }
}

/// Plants, and runs everything that root does with such a diff afterwards.
pub fn look_at_planted(case: &mut Case) {
    let plan = fs::read_to_string(case.path(PLAN)).unwrap();
    let outside = case.path("outside");
    let is_planted = case.mount(&["-d", "diff"], move |mnt| plant(mnt, &outside, &plan));
    assert!(is_planted, "the diff is undamaged");
    case.up(&[]);
    case.up(&["--set", "recovery.target=immediate"]);
    case.look_at_diff();
}
