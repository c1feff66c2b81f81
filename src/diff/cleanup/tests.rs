use std::fs;
use std::os::unix::fs::symlink;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use roaring::RoaringBitmap;

use super::*;
use crate::diff::layout::LOCK_FILE;
use crate::diff::{
    Batch, BlockChunk, ContentRecord, Diff, FORMAT_VERSION, HeldBlocks, InodeKind, InodeRecord,
    NameEntry,
};

fn binding() -> Binding {
    Binding {
        version: FORMAT_VERSION,
        catalog: "/srv/backup".into(),
        instance: "main".into(),
        system_identifier: Some(7),
        backup: "AAA".into(),
        chain: vec!["AAA".into()],
        image: "00ff".into(),
    }
}

fn open(root: &Path) -> Diff {
    let lock = DiffLock::acquire(root, &LockHolder::default()).unwrap();
    Diff::open(lock, &binding()).unwrap()
}

fn file() -> InodeRecord {
    InodeRecord {
        kind: InodeKind::File,
        mode: 0o600,
        uid: 26,
        gid: 26,
        nlink: 1,
        atime_ns: None,
        mtime_ns: 0,
        ctime_ns: 0,
        link: None,
    }
}

/// A diff with two changed segments of one relation, a new relation of two
/// forks, a file that is no relation, and one hidden name.
fn changed_diff(root: &Path) {
    let diff = open(root);
    let blocks = |origin: &str| ContentRecord::Blocks {
        origin: origin.into(),
        size: 8192,
        base_len: 8192,
        mtime_ns: 0,
    };
    let new = 1 << 32;
    let whole = || ContentRecord::Whole { origin: None };
    let batch = Batch {
        names: vec![
            (3, b"16400".to_vec(), Some(NameEntry::Inode(new))),
            (3, b"16400_fsm".to_vec(), Some(NameEntry::Inode(new + 1))),
            (3, b"16385".to_vec(), Some(NameEntry::Whiteout)),
        ],
        contents: vec![
            (10, Some(blocks("base/5/1259"))),
            (11, Some(blocks("base/5/1259.1"))),
            (12, Some(blocks("postgresql.conf"))),
            (new, Some(whole())),
            (new + 1, Some(whole())),
        ],
        blocks: vec![BlockChunk {
            ino: 10,
            chunk: 0,
            blocks: HeldBlocks {
                data: RoaringBitmap::from([0]),
                small: RoaringBitmap::new(),
            },
        }],
        inodes: vec![(new, Some(file())), (new + 1, Some(file()))],
        next_ino: Some(new + 2),
        ..Batch::default()
    };
    diff.storage()
        .create(10)
        .unwrap()
        .write_all_at(&[1; 8192], 0)
        .unwrap();
    diff.commit(&batch).unwrap();
}

#[test]
fn changes_are_counted_by_file_and_relation() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("diff");
    changed_diff(&root);
    let cleanup = Cleanup::begin(&root).unwrap();
    let changes = cleanup.changes().unwrap();
    assert_eq!((changes.files, changes.relations), (5, 2));
    assert_eq!((changes.bytes, changes.names), (8192, 3));
    assert_eq!(
        changes.to_string(),
        "8.0 KiB in 5 files of 2 relations, and 3 changed names"
    );
}

#[test]
fn an_emptied_diff_can_be_bound_anew_and_holds_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("diff");
    changed_diff(&root);
    Cleanup::begin(&root).unwrap().run().unwrap();
    let left: Vec<_> = fs::read_dir(&root)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, [LOCK_FILE]);

    let lock = DiffLock::acquire(&root, &LockHolder::default()).unwrap();
    let mut other = binding();
    other.backup = "BBB".into();
    let diff = Diff::open(lock, &other).unwrap();
    assert_eq!(diff.store().namespace().unwrap().names, []);
    drop(diff);
    assert!(Cleanup::begin(&root).unwrap().changes().unwrap().is_empty());
}

#[test]
fn what_is_in_use_or_no_diff_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("diff");
    let used = open(&root);
    assert!(matches!(Cleanup::begin(&root), Err(DiffError::Busy { .. })));
    drop(used);

    fs::write(dir.path().join("precious"), "x").unwrap();
    for path in [dir.path().to_owned(), dir.path().join("precious")] {
        let error = Cleanup::begin(&path).unwrap_err();
        assert!(matches!(error, DiffError::NotADiff { .. }), "{error}");
    }
    assert!(!dir.path().join(LOCK_FILE).exists());
}

/// Puts something in a part's place; it may point to the second path, which is
/// precious.
type Trap = fn(&Path, &Path);

const TRAPS: [(&str, Trap); 4] = [
    ("a link", |at, to| symlink(to, at).unwrap()),
    ("a pipe", |at, _| mkfifo(at, Mode::S_IRWXU).unwrap()),
    ("a hard link", |at, to| {
        // Only a file can have another name; a directory cannot.
        let to = match to.is_dir() {
            true => to.join("10"),
            false => to.to_owned(),
        };
        fs::hard_link(to, at).unwrap();
    }),
    ("a directory", |at, _| fs::create_dir(at).unwrap()),
];

/// Each part of a diff in turn is something else. What can be removed by its name is
/// removed, what it points to never is, and nothing waits for a pipe.
#[test]
fn what_stands_in_a_parts_place_goes_by_its_name_or_is_refused() {
    let parts = [META_FILE, BINDING_FILE, LOCK_FILE, DATA_DIR, "data/10"];
    for (part, (what, make)) in parts
        .iter()
        .flat_map(|part| TRAPS.iter().map(move |trap| (*part, *trap)))
    {
        let case = format!("{what} at {part}");
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("diff");
        changed_diff(&root);
        let precious = dir.path().join("precious");
        let trap = root.join(part);
        if part == DATA_DIR {
            fs::remove_dir_all(&trap).unwrap();
            fs::create_dir(&precious).unwrap();
            fs::write(precious.join("10"), "precious").unwrap();
        } else {
            fs::remove_file(&trap).unwrap();
            fs::write(&precious, "precious").unwrap();
        }
        make(&trap, &precious);

        let counted = Cleanup::begin(&root).and_then(|cleanup| cleanup.changes());
        let done = Cleanup::begin(&root).and_then(Cleanup::run);
        let goes = match part {
            LOCK_FILE => false,
            // It is a directory, as it should be.
            DATA_DIR => what == "a directory",
            _ => what != "a directory",
        };
        assert_eq!(done.is_ok(), goes, "{case}: {done:?}");
        assert_eq!(trap.symlink_metadata().is_ok(), !goes, "{case}");
        let is_foreign = part == BINDING_FILE && what != "a hard link";
        if part == META_FILE || is_foreign {
            assert!(counted.is_err(), "{case}");
        }
        let file = match part {
            DATA_DIR => precious.join("10"),
            _ => precious,
        };
        assert_eq!(fs::read(file).unwrap(), b"precious", "{case}");
        if goes {
            open(&root);
        }
    }
}

#[test]
fn strangers_stay_and_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("diff");
    changed_diff(&root);
    let strangers = [
        root.join("data/007"),
        root.join("data/notes"),
        root.join("notes"),
    ];
    for stranger in &strangers {
        fs::write(stranger, "x").unwrap();
    }
    let cleanup = Cleanup::begin(&root).unwrap();
    assert_eq!(cleanup.strangers().unwrap(), strangers);
    cleanup.run().unwrap();
    assert!(strangers.iter().all(|stranger| stranger.exists()));
    assert!(!root.join("data/10").exists() && !root.join(BINDING_FILE).exists());
    assert!(Diff::remove(&root).is_err(), "not ours alone");
    assert!(strangers.iter().all(|stranger| stranger.exists()));
}

#[test]
fn damage_can_be_cleaned_away_but_not_counted() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("diff");
    changed_diff(&root);
    fs::write(root.join(BINDING_FILE), "{ not json").unwrap();
    fs::write(root.join(META_FILE), vec![0x5A; 10_000]).unwrap();
    // A killed process leaves such a file.
    fs::write(root.join(".pbkfs-new-0123456789abcdef"), "{").unwrap();
    let cleanup = Cleanup::begin(&root).unwrap();
    assert!(cleanup.binding().is_err() && cleanup.changes().is_err());
    let damage = cleanup.changes().unwrap_err();
    assert!(matches!(damage, DiffError::Damaged { .. }), "{damage}");
    assert_eq!(cleanup.strangers().unwrap(), Vec::<PathBuf>::new());
    cleanup.run().unwrap();
    assert_eq!(fs::read_dir(&root).unwrap().count(), 1);
    open(&root);
}
