//! The WAL directory, moved into the diff.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use super::support::{BS, MemLower, binding, memory_dir, options, pattern};
use crate::diff::{Cleanup, Diff, DiffLock, LockHolder, inspect};
use crate::overlay::{AttrChange, ChangeKind, Ino, Overlay, OverlayOptions, WalPlace, changes};

const FIRST: &str = "000000010000000000000001";
const SECOND: &str = "000000010000000000000002";
const MARK: &str = "archive_status/000000010000000000000001.done";

fn image() -> MemLower {
    MemLower::new()
        .file("PG_VERSION", b"15\n".to_vec())
        .dir("pg_wal")
        .file(&format!("pg_wal/{FIRST}"), pattern(1, 0, 3 * BS))
        .file(&format!("pg_wal/{SECOND}"), pattern(2, 0, BS))
        .dir("pg_wal/archive_status")
        .file(&format!("pg_wal/{MARK}"), Vec::new())
}

fn ours() -> (u32, u32) {
    (
        nix::unistd::geteuid().as_raw(),
        nix::unistd::getegid().as_raw(),
    )
}

/// Opens an overlay with this user's files, because only root can give files away.
fn open(root: &Path) -> Overlay<MemLower> {
    let lock = DiffLock::acquire(root, &LockHolder::default()).unwrap();
    let diff = Diff::open(lock, &binding()).unwrap();
    let options = OverlayOptions {
        uid: ours().0,
        gid: ours().1,
        ..options(false)
    };
    Overlay::new(image(), Some(diff), options).unwrap()
}

#[test]
fn the_wal_directory_is_moved_as_it_is_and_stays_moved() {
    let dir = memory_dir();
    let root = dir.path().join("diff");
    let overlay = open(&root);
    let second = overlay.at(&format!("pg_wal/{SECOND}")).unwrap();
    overlay.write(second, 10, b"of the clone").unwrap();
    let written = overlay.bytes(second).unwrap();
    assert_eq!(overlay.wal_place().unwrap(), WalPlace::Tree(4 * BS as u64));

    let to = overlay.layer().unwrap().wal_dir();
    overlay.copy_wal(ours(), true).unwrap();
    // Until the link exists, the tree's own directory counts.
    assert!(matches!(overlay.wal_place().unwrap(), WalPlace::Tree(_)));
    overlay.link_wal(&to).unwrap();
    assert_eq!(overlay.wal_place().unwrap(), WalPlace::Diff(to.clone()));
    drop(overlay);

    let overlay = open(&root);
    assert_eq!(overlay.wal_place().unwrap(), WalPlace::Diff(to.clone()));
    assert_eq!(fs::read(to.join(FIRST)).unwrap(), pattern(1, 0, 3 * BS));
    assert_eq!(fs::read(to.join(SECOND)).unwrap(), written);
    assert_eq!(fs::read(to.join(MARK)).unwrap(), b"");
    assert_eq!(fs::metadata(to.join(FIRST)).unwrap().mode() & 0o777, 0o600);
    let names: Vec<_> = overlay.read_dir(Ino::ROOT).unwrap();
    assert!(names.iter().any(|entry| entry.name == "pg_wal"));

    let moved = dir.path().join("elsewhere/.pbkfs-wal");
    overlay.link_wal(&moved).unwrap();
    assert_eq!(overlay.wal_place().unwrap(), WalPlace::Diff(moved));
}

/// The copies are outside the mount, where set-user-ID programs run, and where a file
/// given away belongs to its new owner.
#[test]
fn what_the_tree_says_of_owner_and_mode_does_not_leave_it() {
    let dir = memory_dir();
    let overlay = open(&dir.path().join("diff"));
    let to = overlay.layer().unwrap().wal_dir();
    for (path, mode) in [
        ("pg_wal".to_owned(), 0o7777),
        (format!("pg_wal/{FIRST}"), 0o6755),
        ("pg_wal/archive_status".to_owned(), 0o2777),
    ] {
        let change = AttrChange {
            mode: Some(mode),
            uid: Some(12345),
            gid: Some(12345),
            ..AttrChange::default()
        };
        let ino = overlay.at(&path).unwrap();
        overlay.set_attr(ino, &change).unwrap();
    }
    overlay.copy_wal(ours(), false).unwrap();
    for (path, mode) in [("", 0o700), (FIRST, 0o600), ("archive_status", 0o700)] {
        let copy = fs::metadata(to.join(path)).unwrap();
        assert_eq!(copy.mode() & 0o7777, mode, "{path}");
        assert_eq!((copy.uid(), copy.gid()), ours(), "{path}");
    }
}

#[test]
fn a_link_of_somebody_elses_is_left_alone() {
    let dir = memory_dir();
    let overlay = open(&dir.path().join("diff"));
    let name = OsStr::new("pg_wal");
    let other = Path::new("/srv/wal/pg_wal");
    overlay.link_wal(other).unwrap();
    assert_eq!(overlay.wal_place().unwrap(), WalPlace::Elsewhere);
    overlay.unlink(Ino::ROOT, name).unwrap();
    assert_eq!(overlay.wal_place().unwrap(), WalPlace::Elsewhere);
}

#[test]
fn what_became_of_it_is_told_and_cleaned_up() {
    let dir = memory_dir();
    let root = dir.path().join("diff");
    let overlay = open(&root);
    let to = overlay.layer().unwrap().wal_dir();
    overlay.copy_wal(ours(), false).unwrap();
    overlay.link_wal(&to).unwrap();
    assert_eq!(overlay.changes().unwrap(), []);

    fs::write(to.join(SECOND), vec![7; BS]).unwrap();
    fs::rename(to.join(FIRST), to.join("000000010000000000000003")).unwrap();
    fs::remove_file(to.join(MARK)).unwrap();
    let precious = dir.path().join("precious");
    fs::write(&precious, b"x").unwrap();
    symlink(&precious, to.join("link")).unwrap();
    let mounted = overlay.changes().unwrap();
    let told: Vec<_> = mounted
        .iter()
        .map(|change| (change.kind, change.path.as_str(), change.blocks))
        .collect();
    let path = |name: &str| format!("pg_wal/{name}");
    let expected = [
        (ChangeKind::Deleted, path(FIRST), 0),
        (ChangeKind::Changed, path(SECOND), 1),
        (ChangeKind::New, path("000000010000000000000003"), 3),
        (ChangeKind::Deleted, path(MARK), 0),
        (ChangeKind::New, path("link"), 1),
    ];
    let expected: Vec<_> = expected
        .iter()
        .map(|(kind, path, blocks)| (*kind, path.as_str(), *blocks))
        .collect();
    assert_eq!(told, expected);
    drop(overlay);

    let (_, records) = inspect(&root, &LockHolder::default()).unwrap();
    assert_eq!(changes(&records, Some(&image()), &root), mounted);
    let cleanup = Cleanup::begin(&root).unwrap();
    assert!(cleanup.changes().unwrap().bytes >= 4 * BS as u64);
    assert!(cleanup.removals().unwrap().contains(&to));
    assert_eq!(
        cleanup.strangers().unwrap(),
        Vec::<std::path::PathBuf>::new()
    );
    cleanup.run().unwrap();
    assert!(!to.exists());
    assert_eq!(fs::read(&precious).unwrap(), b"x");
}
