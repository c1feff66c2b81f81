use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use tempfile::TempDir;

use super::*;
use crate::untrusted::refused;

const BACKUP: &str = "backups/main/TOW7GA";

/// A catalog's directories, with one stored file and one segment.
fn catalog() -> (TempDir, StorePath) {
    let dir = tempfile::tempdir().unwrap();
    let at = |path: &str| dir.path().join(path);
    fs::create_dir_all(at(BACKUP).join("database/base/1")).unwrap();
    fs::create_dir_all(at("wal/main")).unwrap();
    fs::write(at(BACKUP).join("database/base/1/1259"), "stored").unwrap();
    fs::write(at("wal/main/segment"), "wal").unwrap();
    let place = StorePath::root(Arc::new(LocalStore::new(dir.path().to_owned())));
    (dir, place)
}

fn why<T: fmt::Debug>(result: io::Result<T>) -> Refused {
    let error = result.unwrap_err();
    refused(&error).unwrap_or_else(|| panic!("{error}"))
}

fn kinds(place: &StorePath) -> Vec<(String, Kind, u64)> {
    let mut entries: Vec<_> = place
        .list()
        .unwrap()
        .into_iter()
        .map(|entry| (entry.name.into_string().unwrap(), entry.kind, entry.length))
        .collect();
    entries.sort_by(|a, b| a.0.cmp(&b.0));
    entries
}

#[test]
fn files_are_read_whole_and_at_offsets() {
    let (_dir, root) = catalog();
    let stored = root.join(BACKUP).join("database/base/1/1259");
    assert_eq!(stored.read(6).unwrap(), b"stored");
    assert_eq!(why(stored.read(5)), Refused::TooLarge { limit: 5 });
    let file = stored.open().unwrap();
    assert_eq!(file.length().unwrap(), 6);
    let mut buf = [0; 3];
    file.fill_at(&mut buf, 3).unwrap();
    assert_eq!(&buf, b"red");
    for offset in [4, 6, 1 << 40, i64::MAX as u64, u64::MAX - 1, u64::MAX] {
        let error = file.fill_at(&mut buf, offset).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{offset}");
    }
    file.expect_sequential();
    assert!(file.descriptor().is_some());
    let mut text = String::new();
    Sequential::new(file).read_to_string(&mut text).unwrap();
    assert_eq!(text, "stored");
}

#[test]
fn links_are_followed_above_a_backup_and_an_archive_only() {
    let (dir, root) = catalog();
    let at = |path: &str| dir.path().join(path);
    // Everything moved to other disks, one step after the other.
    for (number, path) in [BACKUP, "backups/main", "backups", "wal/main", "wal"]
        .into_iter()
        .enumerate()
    {
        let disk = at(&format!("disk{number}"));
        fs::rename(at(path), &disk).unwrap();
        symlink(&disk, at(path)).unwrap();
    }
    let backup = root.join(BACKUP);
    let stored = backup.join("database/base/1/1259");
    assert_eq!(stored.read(10).unwrap(), b"stored");
    assert_eq!(root.join("wal/main/segment").read(10).unwrap(), b"wal");
    assert_eq!(kinds(&root.join("backups"))[0].1, Kind::Directory);
    assert_eq!(kinds(&root.join("backups/main"))[0].1, Kind::Directory);
    assert_eq!(kinds(&root.join("wal"))[0].1, Kind::Directory);

    let secret = at("secret");
    fs::write(&secret, "secret").unwrap();
    let inside = at(BACKUP);
    fs::rename(inside.join("database/base"), at("base")).unwrap();
    symlink(at("base"), inside.join("database/base")).unwrap();
    assert_eq!(why(stored.open()), Refused::Is(Kind::Symlink));
    assert_eq!(
        why(backup.join("database/base/1").list()),
        Refused::Is(Kind::Symlink)
    );
    for path in ["backup.control", "database/backup_label"] {
        symlink(&secret, inside.join(path)).unwrap();
        assert_eq!(why(backup.join(path).open()), Refused::Is(Kind::Symlink));
        assert_eq!(why(backup.join(path).read(10)), Refused::Is(Kind::Symlink));
    }
    for path in ["wal/main/link", "backups/main/pg_probackup.conf"] {
        symlink(&secret, at(path)).unwrap();
        assert_eq!(why(root.join(path).open()), Refused::Is(Kind::Symlink));
    }
    let listed = kinds(&root.join("wal/main"));
    assert_eq!(
        listed[0],
        (
            "link".to_owned(),
            Kind::Symlink,
            secret_length(&at("wal/main/link"))
        )
    );
    assert_eq!(listed[1], ("segment".to_owned(), Kind::File, 3));
}

/// The size of the link itself.
fn secret_length(path: &Path) -> u64 {
    fs::symlink_metadata(path).unwrap().len()
}

#[test]
fn what_is_no_file_is_refused_and_nothing_waits() {
    let (dir, root) = catalog();
    let inside = dir.path().join(BACKUP);
    let backup = root.join(BACKUP);
    mkfifo(&inside.join("fifo"), Mode::S_IRWXU).unwrap();
    let _socket = UnixListener::bind(inside.join("socket")).unwrap();
    for (name, kind) in [
        ("fifo", Kind::Fifo),
        ("socket", Kind::Socket),
        ("database", Kind::Directory),
    ] {
        assert_eq!(why(backup.join(name).open()), Refused::Is(kind), "{name}");
    }
    let dirs = [backup.join("fifo"), root.join("backups/main/fifo")];
    mkfifo(&dir.path().join("backups/main/fifo"), Mode::S_IRWXU).unwrap();
    for place in dirs {
        assert!(place.list().is_err(), "{place:?}");
    }
    // A file in place of a directory.
    let error = backup.join("fifo/below").open().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotADirectory);
}

#[test]
fn no_path_leaves_the_catalog() {
    let (dir, root) = catalog();
    fs::write(dir.path().join("beside"), "x").unwrap();
    for path in [
        "../x",
        "/etc/passwd",
        "backups/../beside",
        "wal/main/../../beside",
    ] {
        assert_eq!(why(root.join(path).open()), Refused::LeadsOut, "{path}");
        assert_eq!(why(root.join(path).list()), Refused::LeadsOut, "{path}");
    }
    assert!(root.open().is_err());
    assert_eq!(kinds(&root).len(), 3);
}

#[test]
fn links_that_lead_nowhere_are_listed_as_what_they_are() {
    let (dir, root) = catalog();
    symlink("nowhere", dir.path().join("backups/dangling")).unwrap();
    symlink("dangling", dir.path().join("backups/again")).unwrap();
    let listed = kinds(&root.join("backups"));
    let kinds: Vec<Kind> = listed.iter().map(|(_, kind, _)| *kind).collect();
    assert_eq!(kinds, [Kind::Symlink, Kind::Symlink, Kind::Directory]);
}

#[test]
fn a_file_without_end_is_not_read_whole() {
    let (dir, root) = catalog();
    let path = dir.path().join(BACKUP).join("backup.control");
    File::create(path).unwrap().set_len(1 << 40).unwrap();
    let read = root.join(BACKUP).join("backup.control").read(1 << 10);
    assert_eq!(why(read), Refused::TooLarge { limit: 1 << 10 });
}

#[test]
fn places_are_compared_by_where_they_are() {
    let (_dir, root) = catalog();
    let (_other, elsewhere) = catalog();
    assert_eq!(root.join("a/b"), root.join("a").join("b"));
    assert_ne!(root.join("a"), root.join("b"));
    assert_ne!(root.join("a"), elsewhere.join("a"));
}
