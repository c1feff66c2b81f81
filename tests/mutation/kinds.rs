//! Every kind of thing in place of each kind of file.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::mkfifo;

use crate::case::{Case, IDS, sparse};
use crate::mutation::Mutation;

/// What can be at a name.
const KINDS: [&str; 12] = [
    "a link to a secret",
    "a link to a control file",
    "a link to a binding",
    "a link to /dev/zero",
    "a link to itself",
    "a link to a directory",
    "a FIFO",
    "a socket",
    "a device",
    "a directory",
    "an empty file",
    "a file of 1 TB",
];

/// Puts something of that kind at a name.
pub fn put(case: &Case, kind: &str, at: &Path) {
    match fs::symlink_metadata(at) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(at).unwrap(),
        Ok(_) => fs::remove_file(at).unwrap(),
        Err(_) => fs::create_dir_all(at.parent().unwrap()).unwrap(),
    }
    let mode = Mode::from_bits_truncate(0o666);
    match kind {
        "a link to a secret" => symlink(case.path("outside/secret"), at).unwrap(),
        "a link to a control file" => symlink(case.path("outside/control"), at).unwrap(),
        "a link to a binding" => symlink(case.path("outside/binding"), at).unwrap(),
        "a link to /dev/zero" => symlink("/dev/zero", at).unwrap(),
        "a link to itself" => symlink(at.file_name().unwrap(), at).unwrap(),
        "a link to a directory" => symlink(case.path("outside/directory"), at).unwrap(),
        "a FIFO" => mkfifo(at, mode).unwrap(),
        "a socket" => drop(bind(at)),
        "a device" => mknod(at, SFlag::S_IFCHR, mode, makedev(1, 5)).unwrap(),
        "a directory" => fs::create_dir(at).unwrap(),
        "an empty file" => drop(File::create(at).unwrap()),
        "a file of 1 TB" => sparse(at, 1 << 40),
        other => panic!("no kind {other}"),
    }
}

/// A socket's path must be short, so the socket is created elsewhere and moved.
fn bind(at: &Path) -> UnixListener {
    let short = PathBuf::from(format!(
        "/tmp/pbkfs-mutation-{}",
        at.to_str().unwrap().len()
    ));
    let short = short.with_extension(format!("{:?}", std::thread::current().id()));
    let _ = fs::remove_file(&short);
    let listener = UnixListener::bind(&short).unwrap();
    // The destination may be on another file system.
    fs::rename(&short, at).unwrap_or_else(|_| {
        fs::remove_file(&short).unwrap();
        mknod(at, SFlag::S_IFSOCK, Mode::S_IRWXU, 0).unwrap();
    });
    listener
}

fn each(places: &[&str]) -> Vec<Mutation> {
    let mut mutations = Vec::new();
    for place in places {
        for kind in KINDS {
            let at = (*place).to_owned();
            mutations.push(Mutation::new(format!("{kind} at {place}"), move |case| {
                put(case, kind, &case.path(&at));
            }));
        }
    }
    mutations
}

pub fn of_catalog() -> Vec<Mutation> {
    let [full, delta] = IDS;
    let of = |id: &str, name: &str| format!("catalog/backups/main/{id}/{name}");
    let mut mutations = each(&[
        &of(full, "backup.control"),
        &of(full, "backup_content.control"),
        &of(full, "database/backup_label"),
        &of(delta, "page_header_map"),
        &of(full, "database/base/1/1255"),
        &of(full, "database/PG_VERSION"),
        &of(delta, "database/global/pg_control"),
        &of(full, "database/base/1/pg_filenode.map"),
        &of(delta, "database/tablespace_map"),
    ]);
    let others = [
        of(full, "database"),
        of(full, "database/base"),
        of(full, "database/base/1"),
        "catalog/backups/main/TOW7ZZ".to_owned(),
        "catalog/backups/main/pg_probackup.conf".to_owned(),
        "catalog/backups/other".to_owned(),
        "catalog/wal/main".to_owned(),
        "catalog/wal/main/000000010000000000000048".to_owned(),
    ];
    for (at, place) in others.into_iter().enumerate() {
        for kind in KINDS.into_iter().skip(at % 2).step_by(2) {
            let at = place.clone();
            mutations.push(Mutation::new(format!("{kind} at {place}"), move |case| {
                put(case, kind, &case.path(&at));
            }));
        }
    }
    mutations
}

/// Returns the first file in a directory: a data file of the diff, or a segment of
/// its WAL.
pub fn first_in(case: &Case, dir: &str) -> PathBuf {
    let mut files: Vec<_> = fs::read_dir(case.path(dir))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .collect();
    files.sort();
    files
        .into_iter()
        .next()
        .expect("a server has written to it")
}

pub fn of_diff() -> Vec<Mutation> {
    let mut mutations = each(&[
        "diff/meta.redb",
        "diff/.pbkfs-binding.json",
        "diff/.pbkfs-binding.json.tmp",
        "diff/.pbkfs-lock",
        "diff/data",
        "diff/data/4294999999",
        "diff/data/name",
        "diff/.pbkfs-wal",
        "diff/.pbkfs-wal/00000002.history",
        "diff/.pbkfs-wal/archive_status",
        "diff/stranger",
    ]);
    for (dir, what) in [
        ("diff/data", "a data file"),
        ("diff/.pbkfs-wal", "a segment"),
    ] {
        for kind in KINDS {
            mutations.push(Mutation::new(format!("{kind} at {what}"), move |case| {
                put(case, kind, &first_in(case, dir));
            }));
        }
    }
    mutations
}
