//! Stores that are damaged, and stores that somebody crafted to do harm. Each answer is
//! a value or a typed error: the diff does not panic, hang or loop forever.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::sync::{Arc, Once, mpsc};
use std::thread;
use std::time::Duration;

use redb::{Database, ReadableDatabase, TableDefinition};
use roaring::RoaringBitmap;

use super::directory::Root;
use super::layout::META_FILE;
use super::*;

/// The time limit for reading one damaged store; most take milliseconds.
const PATIENCE: Duration = Duration::from_secs(60);

const PAGE: usize = 4096;

fn memory_dir() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .unwrap()
}

/// Installs the command line's panic hook, which prints no contained panic.
fn keep_contained_panics_quiet() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let print = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !panic_is_contained() {
                print(info);
            }
        }));
    });
}

/// A pseudo-random number generator that always yields the same sequence.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next() as u8).collect()
    }
}

fn inode(kind: InodeKind) -> InodeRecord {
    InodeRecord {
        kind,
        mode: 0o600,
        uid: 26,
        gid: 26,
        nlink: 1,
        atime_ns: None,
        mtime_ns: 1,
        ctime_ns: 2,
        link: (kind == InodeKind::Symlink).then(|| b"../somewhere".to_vec()),
    }
}

/// Creates a batch with some of everything, so that each table has more than one page.
fn batch(first: u64) -> Batch {
    let new = (1 << 32) + first;
    let mut batch = Batch {
        next_ino: Some(new + 200),
        ..Batch::default()
    };
    for n in 0..100 {
        let (file, link) = (new + 2 * n, new + 2 * n + 1);
        for (ino, kind) in [(file, InodeKind::File), (link, InodeKind::Symlink)] {
            let name = format!("a name of some length, {ino}").into_bytes();
            batch.names.push((1, name, Some(NameEntry::Inode(ino))));
            batch.inodes.push((ino, Some(inode(kind))));
        }
        let whole = ContentRecord::Whole { origin: None };
        batch.contents.push((file, Some(whole)));
        let ino = 10 + first + n;
        let blocks = ContentRecord::Blocks {
            origin: format!("base/5/{ino}").into(),
            size: 1 << 30,
            base_len: 1 << 30,
            mtime_ns: 5,
        };
        batch.contents.push((ino, Some(blocks)));
        let blocks = HeldBlocks {
            data: (0..5000).step_by(3).collect(),
            small: [1, 4].into_iter().collect(),
        };
        let chunk = BlockChunk {
            ino,
            chunk: 0,
            blocks,
        };
        batch.blocks.push(chunk);
        for block in [1, 4] {
            batch.deltas.push((ino, block, Some(vec![7; 300].into())));
        }
    }
    batch
}

/// Creates a store such as a clone might leave.
fn real_store(dir: &Path) -> Vec<u8> {
    let store = open(dir).unwrap();
    for n in 0..3 {
        store.commit(&batch(n * 1000)).unwrap();
    }
    store.set_note("recovery", Some(&[3; 900])).unwrap();
    drop(store);
    fs::read(dir.join(META_FILE)).unwrap()
}

fn open(dir: &Path) -> Result<Store, DiffError> {
    Store::open(StoreBackend::New(Arc::new(Root::open(dir)?)))
}

/// Reads everything; continues after an error, as a mount would.
fn use_all(dir: &Path) -> Result<(), DiffError> {
    let store = open(dir)?;
    let mut answers = vec![
        store.namespace().map(|_| ()),
        store.contents().map(|_| ()),
        store.inodes_with_content().map(|_| ()),
        store.saved().map(|_| ()),
        store.note("recovery").map(|_| ()),
    ];
    for ino in [10, 55, 1044, 2109, 1 << 32, (1 << 32) + 2020] {
        answers.push(store.content(ino).map(|_| ()));
        answers.push(store.delta(ino, 4).map(|_| ()));
    }
    answers.push(store.commit(&batch(5000)));
    answers.push(store.set_note("recovery", None));
    answers.push(store.namespace().map(|_| ()));
    drop(store);
    answers.into_iter().collect()
}

fn damage(bytes: &mut Vec<u8>, chance: &mut Chance) -> String {
    let pages = bytes.len() / PAGE;
    let [one, other] = [chance.below(pages) * PAGE, chance.below(pages) * PAGE];
    match chance.below(9) {
        0 => {
            let count = 1 + chance.below(16);
            for _ in 0..count {
                let at = chance.below(bytes.len());
                bytes[at] = chance.next() as u8;
            }
            format!("{count} bytes anywhere")
        }
        1 => {
            let at = chance.below(512);
            bytes[at] ^= 1 << chance.below(8);
            format!("a bit of byte {at}")
        }
        2 => {
            bytes.truncate(chance.below(bytes.len()));
            format!("cut to {}", bytes.len())
        }
        3 => {
            let more = 1 + chance.below(8 * PAGE);
            bytes.extend(chance.bytes(more));
            format!("{more} bytes more")
        }
        4 => {
            bytes[one..one + PAGE].fill(0);
            format!("zeros at {one}")
        }
        5 => {
            let page = bytes[one..one + PAGE].to_vec();
            bytes.copy_within(other..other + PAGE, one);
            bytes[other..other + PAGE].copy_from_slice(&page);
            format!("{one} and {other} swapped")
        }
        6 => {
            bytes.copy_within(other..other + PAGE, one);
            format!("{other} copied to {one}")
        }
        7 => {
            let noise = chance.bytes(PAGE);
            bytes[one..one + PAGE].copy_from_slice(&noise);
            format!("noise at {one}")
        }
        // At a page's start, which describes its content.
        _ => {
            let at = one + chance.below(16);
            bytes[at] = chance.next() as u8;
            format!("byte {at}")
        }
    }
}

#[test]
fn a_damaged_store_is_an_error_and_never_a_panic() {
    keep_contained_panics_quiet();
    let whole = memory_dir();
    let mut good = real_store(whole.path());
    use_all(whole.path()).unwrap();
    // Damage only the part that is in use.
    let used = good.iter().rposition(|byte| *byte != 0).unwrap();
    let len = good.len();
    good.truncate((used / PAGE + 1) * PAGE);
    let mut chance = Chance(0x5EED_0F0A_D1FF);
    let mut damaged = 0;
    for n in 0..600 {
        let mut bytes = good.clone();
        let what = damage(&mut bytes, &mut chance);
        if bytes.len() == good.len() {
            bytes.resize(len, 0);
        }
        let dir = memory_dir();
        fs::write(dir.path().join(META_FILE), bytes).unwrap();
        let path = dir.path().to_owned();
        let (done, wait) = mpsc::channel();
        let user = thread::spawn(move || done.send(use_all(&path)).unwrap());
        let answer = wait.recv_timeout(PATIENCE);
        let answer = answer.unwrap_or_else(|why| panic!("damage {n}, {what}: {why}"));
        user.join().unwrap();
        match answer {
            Ok(()) => {}
            Err(DiffError::Damaged { .. }) => damaged += 1,
            Err(
                DiffError::BadRecord { .. } | DiffError::Version { .. } | DiffError::Store { .. },
            ) => {}
            Err(other) => panic!("damage {n}, {what}: {other}"),
        }
    }
    assert!(damaged > 100, "{damaged} of 600 were found");
}

#[test]
fn a_damaged_store_says_what_to_do_and_stays_damaged() {
    keep_contained_panics_quiet();
    let dir = memory_dir();
    fs::write(dir.path().join(META_FILE), vec![0x5A; 100_000]).unwrap();
    let error = open(dir.path()).map(|_| ()).unwrap_err();
    assert!(matches!(error, DiffError::Damaged { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("meta.redb: ") && text.contains("cleanup --force -d"));

    // A panic during use.
    let dir = memory_dir();
    let store = open(dir.path()).unwrap();
    let trap = |_: &Database| -> Result<(), redb::Error> { panic!("a trap") };
    for _ in 0..2 {
        let error = store.with("read", trap).unwrap_err();
        assert!(matches!(error, DiffError::Damaged { .. }), "{error}");
        // The trap's text goes to the log.
        assert!(!error.to_string().contains("a trap"), "{error}");
    }
    let error = store.namespace().unwrap_err();
    assert!(matches!(error, DiffError::Damaged { .. }), "{error}");
}

const NAMES: TableDefinition<(u64, &[u8]), u64> = TableDefinition::new("names");
const INODES: TableDefinition<u64, &[u8]> = TableDefinition::new("inodes");
const CONTENTS: TableDefinition<u64, &[u8]> = TableDefinition::new("contents");
const BLOCKS: TableDefinition<(u64, u32), &[u8]> = TableDefinition::new("blocks");
const DELTAS: TableDefinition<(u64, u32), &[u8]> = TableDefinition::new("deltas");
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");

/// Creates a store with rows that only another program writes.
fn with_rows(rows: impl FnOnce(&redb::WriteTransaction)) -> (tempfile::TempDir, Store) {
    let dir = memory_dir();
    drop(open(dir.path()).unwrap());
    let database = Database::open(dir.path().join(META_FILE)).unwrap();
    let transaction = database.begin_write().unwrap();
    rows(&transaction);
    transaction.commit().unwrap();
    drop(database);
    let store = open(dir.path()).unwrap();
    (dir, store)
}

fn is_bad<T: std::fmt::Debug>(what: &str, answer: Result<T, DiffError>) {
    let error = answer.expect_err(what);
    let is_bad = matches!(
        error,
        DiffError::BadRecord { .. } | DiffError::Damaged { .. }
    );
    assert!(is_bad, "{what}: {error}");
}

#[test]
fn names_and_inodes_that_cannot_be_are_refused() {
    let long = [b'x'; 256];
    let names = [b"".as_slice(), b".", b"..", b"a/b", b"/", b"a\0b", &long];
    for name in names {
        let (_dir, store) = with_rows(|rows| {
            let mut names = rows.open_table(NAMES).unwrap();
            names.insert((1, name), 0).unwrap();
        });
        is_bad(&name.escape_ascii().to_string(), store.namespace());
    }
    let change = |change: fn(&mut InodeRecord)| {
        let mut record = inode(InodeKind::Symlink);
        change(&mut record);
        serde_json::to_vec(&record).unwrap()
    };
    let good = change(|_| {});
    for (ino, json) in [
        (5, change(|record| record.mode = 0o100_644)),
        (5, change(|record| record.link = None)),
        (5, change(|record| record.link = Some(Vec::new()))),
        (5, change(|record| record.link = Some(b"a\0b".to_vec()))),
        (5, change(|record| record.link = Some(vec![b'a'; 4096]))),
        (5, change(|record| record.kind = InodeKind::Fifo)),
        (5, b"{".to_vec()),
        (5, vec![b' '; 100_000]),
        (0, good.clone()),
        (u64::MAX, good.clone()),
        // No number was allocated yet.
        (1 << 32, good.clone()),
    ] {
        let (_dir, store) = with_rows(|rows| {
            let mut inodes = rows.open_table(INODES).unwrap();
            inodes.insert(ino, json.as_slice()).unwrap();
        });
        is_bad(&format!("inode {ino}"), store.namespace());
    }
    for next in [0, 5, (1 << 32) + 7, u64::MAX] {
        let (_dir, store) = with_rows(|rows| {
            rows.open_table(META)
                .unwrap()
                .insert("next_ino", next)
                .unwrap();
            let mut inodes = rows.open_table(INODES).unwrap();
            inodes.insert((1 << 32) + 7, good.as_slice()).unwrap();
        });
        is_bad(&format!("the next inode {next}"), store.namespace());
    }
}

#[test]
fn blocks_and_differences_that_cannot_be_are_refused() {
    let bitmap = |blocks: &[u32]| {
        let mut bytes = Vec::new();
        let blocks: RoaringBitmap = blocks.iter().copied().collect();
        blocks.serialize_into(&mut bytes).unwrap();
        bytes
    };
    let outside = bitmap(&[BLOCKS_PER_CHUNK - 1, BLOCKS_PER_CHUNK]);
    let small_outside = [bitmap(&[1]), bitmap(&[u32::MAX])].concat();
    // Cookies that claim containers that do not exist.
    let claims = [0x3A, 0x30, 0, 0, 0xFF, 0xFF, 0, 0].to_vec();
    let runs = [0x3B, 0x30, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF].to_vec();
    let long = [bitmap(&[1]), vec![0; 100_000]].concat();
    for row in [outside, small_outside, claims, runs, long, vec![7]] {
        let (_dir, store) = with_rows(|rows| {
            let json = br#"{"layout":"blocks","origin":"b","size":9,"base_len":9,"mtime_ns":0}"#;
            let mut contents = rows.open_table(CONTENTS).unwrap();
            contents.insert(9, json.as_slice()).unwrap();
            let mut blocks = rows.open_table(BLOCKS).unwrap();
            blocks.insert((9, 0), row.as_slice()).unwrap();
        });
        is_bad("a file's blocks", store.content(9));
        is_bad("all files' blocks", store.contents());
    }
    let (_dir, store) = with_rows(|rows| {
        let mut deltas = rows.open_table(DELTAS).unwrap();
        deltas.insert((9, 1), [1; 8193].as_slice()).unwrap();
    });
    is_bad("a difference", store.delta(9, 1));
}

/// Tables of other types, and missing ones.
#[test]
fn a_store_of_something_else_is_damaged() {
    let dir = memory_dir();
    let database = Database::create(dir.path().join(META_FILE)).unwrap();
    let transaction = database.begin_write().unwrap();
    let other: TableDefinition<&str, &str> = TableDefinition::new("meta");
    let mut table = transaction.open_table(other).unwrap();
    table.insert("format", "3").unwrap();
    drop(table);
    transaction.commit().unwrap();
    assert!(database.begin_read().is_ok());
    drop(database);
    is_bad("other types", open(dir.path()).map(|_| ()));

    let (_dir, store) = with_rows(|rows| {
        rows.delete_table(NAMES).unwrap();
    });
    is_bad("a missing table", store.namespace());
}
