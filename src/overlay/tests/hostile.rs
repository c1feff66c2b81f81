//! Diffs whose records were crafted to do harm. Each causes an error when the diff is
//! layered over the image or when the file is used, and nothing loops forever.

use std::path::Path;

use super::support::{BS, MemLower, binding, memory_dir, open_in, options};
use crate::diff::{
    Batch, BlockChunk, ContentRecord, Diff, DiffError, DiffLock, HeldBlocks, InodeKind,
    InodeRecord, LockHolder, NameEntry,
};
use crate::overlay::{Ino, Overlay, OverlayError, WalPlace};

const NEW: u64 = 1 << 32;

/// Creates an image with inodes 1 to 6.
fn image() -> MemLower {
    MemLower::new()
        .file("PG_VERSION", vec![1; 3 * BS])
        .dir("base")
        .dir("base/1")
        .file("base/1/file", vec![2; 10])
        .dir("global")
}

fn inode(kind: InodeKind) -> InodeRecord {
    InodeRecord {
        kind,
        mode: 0o700,
        uid: 26,
        gid: 26,
        nlink: 1,
        atime_ns: None,
        mtime_ns: i64::MIN,
        ctime_ns: i64::MAX,
        link: None,
    }
}

/// Opens an overlay with a diff of these records.
fn laid_over(batch: &Batch) -> Result<Overlay<MemLower>, OverlayError> {
    let dir = memory_dir();
    let lock = DiffLock::acquire(&dir.path().join("diff"), &LockHolder::default()).unwrap();
    let diff = Diff::open(lock, &binding()).unwrap();
    for (ino, _) in &batch.contents {
        diff.storage().create(*ino).unwrap();
    }
    diff.commit(batch).unwrap();
    Overlay::new(image(), Some(diff), options(false))
}

fn refused(what: &str, batch: &Batch) {
    let Err(error) = laid_over(batch) else {
        panic!("{what} is taken");
    };
    let is_bad = matches!(error, OverlayError::Diff(DiffError::BadRecord { .. }));
    assert!(is_bad, "{what}: {error}");
}

fn names(names: &[(u64, &str, u64)]) -> Batch {
    let entry = |ino| match ino {
        0 => NameEntry::Whiteout,
        ino => NameEntry::Inode(ino),
    };
    let directories = 0..4;
    Batch {
        names: names
            .iter()
            .map(|(dir, name, ino)| (*dir, name.as_bytes().to_vec(), Some(entry(*ino))))
            .collect(),
        inodes: directories
            .map(|n| (NEW + n, Some(inode(InodeKind::Directory))))
            .collect(),
        next_ino: Some(NEW + 10),
        ..Batch::default()
    }
}

#[test]
fn names_make_a_tree() {
    laid_over(&names(&[])).unwrap();
    // The image's directory is moved, and one of the diff's takes its place.
    let moved = names(&[(6, "moved", 3), (1, "base", NEW), (NEW, "deep", NEW + 1)]);
    let overlay = laid_over(&moved).unwrap();
    assert_eq!(overlay.at("global/moved/1/file").unwrap(), Ino(5));
    assert_eq!(overlay.at("base/deep").unwrap(), Ino(NEW + 1));
    // Its own place vanished with the directory around it.
    laid_over(&names(&[(6, "moved", 4), (1, "base", 0)])).unwrap();
    laid_over(&names(&[(1, "base", 3)])).unwrap();

    for (what, batch) in [
        ("an unknown inode", names(&[(1, "a", 7)])),
        ("an unknown inode of its own", names(&[(1, "a", NEW + 5)])),
        ("an unknown directory", names(&[(99, "a", NEW)])),
        ("a name in a file", names(&[(2, "a", NEW)])),
        ("a second root", names(&[(3, "a", 1)])),
        ("two names", names(&[(1, "a", NEW), (1, "b", NEW)])),
        ("the image's and a second one", names(&[(1, "a", 3)])),
        ("a second one further down", names(&[(6, "a", 4)])),
        ("itself", names(&[(NEW, "a", NEW)])),
        (
            "a circle",
            names(&[(NEW, "a", NEW + 1), (NEW + 1, "a", NEW)]),
        ),
        (
            "a circle with the image's",
            names(&[(4, "a", 3), (1, "base", 0)]),
        ),
    ] {
        refused(what, &batch);
    }
}

#[test]
fn an_inode_is_of_one_kind() {
    let record = |ino, kind| Batch {
        inodes: vec![(ino, Some(inode(kind)))],
        next_ino: Some(NEW + 10),
        ..Batch::default()
    };
    let whole = |ino| {
        let mut batch = record(NEW, InodeKind::Directory);
        let whole = ContentRecord::Whole { origin: None };
        batch.contents.push((ino, Some(whole)));
        batch
    };
    let overlay = laid_over(&record(2, InodeKind::File)).unwrap();
    // Times at the limits of the representable range.
    overlay.attr(Ino(2)).unwrap();
    refused("a file as a directory", &record(2, InodeKind::Directory));
    refused("a directory as a file", &record(3, InodeKind::File));
    refused("no inode", &record(77, InodeKind::File));
    refused("content of a directory", &whole(3));
    refused("content of the diff's directory", &whole(NEW));
    refused("content of nothing", &whole(77));
}

#[test]
fn blocks_are_within_their_file() {
    let batch = |size, base_len, block: u32| Batch {
        contents: vec![(
            2,
            Some(ContentRecord::Blocks {
                origin: Path::new("PG_VERSION").into(),
                size,
                base_len,
                mtime_ns: i64::MIN,
            }),
        )],
        blocks: vec![BlockChunk {
            ino: 2,
            chunk: block / crate::diff::BLOCKS_PER_CHUNK,
            blocks: HeldBlocks {
                data: [block].into_iter().collect(),
                ..HeldBlocks::default()
            },
        }],
        ..Batch::default()
    };
    let bs = BS as u64;
    let overlay = laid_over(&batch(2 * bs, 2 * bs, 1)).unwrap();
    assert_eq!(overlay.attr(Ino(2)).unwrap().size, 2 * bs);
    for (what, batch) in [
        ("a size without end", batch(u64::MAX, bs, 1)),
        ("a size of too many blocks", batch((1 << 45) + 1, bs, 1)),
        ("a block behind the end", batch(2 * bs, bs, 2)),
        ("the last block of all", batch(2 * bs, bs, u32::MAX)),
        ("more of the image", batch(9 * bs, 4 * bs, 1)),
    ] {
        let overlay = laid_over(&batch).unwrap();
        for error in [
            overlay.attr(Ino(2)).map(|_| ()).unwrap_err(),
            overlay.open(Ino(2)).unwrap_err(),
        ] {
            let is_bad = matches!(error, OverlayError::Diff(DiffError::BadRecord { .. }));
            assert!(is_bad, "{what}: {error}");
        }
    }
}

/// Unbounded recursion into directories would overflow the stack.
#[test]
fn a_wal_directory_without_bottom_stays_where_it_is() {
    let dir = memory_dir();
    let overlay = open_in(MemLower::new().dir("pg_wal"), dir.path(), false);
    assert_eq!(overlay.wal_place().unwrap(), WalPlace::Tree(0));
    let mut at = overlay.at("pg_wal").unwrap();
    for _ in 0..5 {
        let made = overlay.make_dir(at, "d".as_ref(), 0o700, 26, 26);
        at = made.unwrap().ino;
    }
    let place = overlay.wal_place();
    assert!(matches!(place, Err(OverlayError::Unsupported)), "{place:?}");
}
