//! The project's recorded catalogs, for the tests of this crate.
//!
//! `postgres/fixtures/NAME/` contains a catalog created by a real PostgreSQL and
//! pg_probackup, and what the real `pg_probackup show` printed for it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::store::{LocalStore, StorePath};
use super::{Catalog, Instance};

/// Every recorded catalog; each has the one instance `main`.
pub(crate) const ALL: [&str; 7] = [
    "pg15-chain",
    "pg15-debian",
    "pg15-hazards",
    "pg15-old",
    "pg15-ptrack",
    "pg17-chain",
    "pg18-chain",
];

fn folder(name: &str) -> PathBuf {
    let place = include!("../../tests/common/bundled.rs");
    place(name)
}

/// Returns the output of the real program: `recorded/FILE` of a fixture.
pub(crate) fn recorded(name: &str, file: &str) -> String {
    fs::read_to_string(folder(name).join("recorded").join(file)).unwrap()
}

/// Unpacks only a fixture's metadata files, without the stored data.
pub(crate) fn unpack_metadata(name: &str) -> TempDir {
    unpack(name, &["--exclude=*/database/*/*", "--exclude=*/wal/*/*"])
}

/// Unpacks a fixture's WAL archive, and its instance without any backup.
pub(crate) fn unpack_wal(name: &str) -> TempDir {
    unpack(name, &["--exclude=*/backups/*/*/*"])
}

/// Unpacks a fixture's metadata, its WAL archive, and the WAL in its backups.
pub(crate) fn unpack_all_wal(name: &str) -> TempDir {
    unpack(name, &["--exclude=*/database/base/*"])
}

fn unpack(name: &str, filter: &[&str]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let packed = fs::File::open(folder(name).join("catalog.tar.zst")).unwrap();
    let mut tar = Command::new("tar")
        .args(["-x", "--no-same-owner", "-C"])
        .arg(dir.path())
        .args(filter)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    zstd::stream::copy_decode(packed, tar.stdin.take().unwrap()).unwrap();
    assert!(tar.wait().unwrap().success());
    dir
}

/// Wraps a directory as a store of its own.
pub(crate) fn place(dir: &Path) -> StorePath {
    StorePath::root(std::sync::Arc::new(LocalStore::new(dir.to_owned())))
}

/// Returns the instance `main` of an unpacked fixture.
pub(crate) fn main_instance(unpacked: &TempDir) -> Instance {
    Catalog::open(&unpacked.path().join("catalog"))
        .unwrap()
        .instance("main")
        .unwrap()
}
