//! An undamaged store with records that no clone creates: the diff was copied from
//! elsewhere, and is somebody else's data.

use pbkfs::internals::diff::{
    Batch, ContentRecord, HeldBlocks, InodeKind, InodeRecord, NameEntry, Store,
};

use crate::case::Case;
use crate::mutation::Mutation;

/// The first of the clone's own inode numbers that is not in use.
const FIRST: u64 = (1 << 32) + 90_000;
const ROOT: u64 = 1;

pub fn all() -> Vec<Mutation> {
    let mut mutations = names();
    mutations.extend(trees());
    mutations.extend(contents());
    mutations.extend(inodes());
    mutations.extend(deltas());
    mutations
}

fn mutation(name: String, batch: impl Fn(&Case) -> Batch + Send + Sync + 'static) -> Mutation {
    Mutation::new(name, move |case| {
        let store = Store::open_in(&case.path("diff")).unwrap();
        store.commit(&batch(case)).unwrap();
    })
}

fn inode(kind: InodeKind) -> InodeRecord {
    InodeRecord {
        kind,
        mode: 0o600,
        uid: 0,
        gid: 0,
        nlink: 1,
        atime_ns: None,
        mtime_ns: 0,
        ctime_ns: 0,
        link: None,
    }
}

fn whole() -> ContentRecord {
    ContentRecord::Whole { origin: None }
}

/// Returns a batch with one of the clone's own files at a name in the root.
fn file(name: &[u8], record: InodeRecord, content: Option<ContentRecord>) -> Batch {
    Batch {
        names: vec![(ROOT, name.to_vec(), Some(NameEntry::Inode(FIRST)))],
        inodes: vec![(FIRST, Some(record))],
        contents: vec![(FIRST, content)],
        next_ino: Some(FIRST + 1),
        ..Batch::default()
    }
}

fn names() -> Vec<Mutation> {
    let names: [(&str, Vec<u8>); 10] = [
        ("no letter", Vec::new()),
        ("a dot", b".".to_vec()),
        ("two dots", b"..".to_vec()),
        ("a way out", b"../../outside/secret".to_vec()),
        ("an absolute path", b"/etc/passwd".to_vec()),
        ("a NUL", b"a\0b".to_vec()),
        ("300 letters", vec![b'x'; 300]),
        ("60000 letters", vec![b'x'; 60_000]),
        ("an escape", b"\x1b[31mred".to_vec()),
        ("the hidden directory", b".pbkfs".to_vec()),
    ];
    let mutation = |(what, name): (&str, Vec<u8>)| {
        mutation(format!("a name has {what}"), move |_| {
            file(&name, inode(InodeKind::File), Some(whole()))
        })
    };
    names.into_iter().map(mutation).collect()
}

/// Rows of the names table.
type Names = Vec<(u64, Vec<u8>, Option<NameEntry>)>;

/// Names that point where no name should.
fn trees() -> Vec<Mutation> {
    let at = |dir: u64, ino: u64| (dir, b"loop".to_vec(), Some(NameEntry::Inode(ino)));
    let trees = [
        (
            "a directory in itself",
            vec![at(ROOT, FIRST), at(FIRST, FIRST)],
        ),
        (
            "two directories in each other",
            vec![at(FIRST, FIRST + 1), at(FIRST + 1, FIRST)],
        ),
        ("the root in itself", vec![at(ROOT, ROOT)]),
        (
            "the root in a directory",
            vec![at(ROOT, FIRST), at(FIRST, ROOT)],
        ),
        ("a name in no directory", vec![at(FIRST + 7, FIRST)]),
        ("a name of no inode", vec![at(ROOT, FIRST + 7)]),
        ("a name of the last inode", vec![at(ROOT, u64::MAX)]),
        (
            "a name of an inode beyond the image",
            vec![at(ROOT, (1 << 32) - 1)],
        ),
        (
            "a name in a file",
            vec![at(ROOT, FIRST + 2), at(FIRST + 2, FIRST)],
        ),
    ];
    let mutation = |(what, names): (&str, Names)| {
        mutation(format!("there is {what}"), move |_| Batch {
            names: names.clone(),
            inodes: vec![
                (FIRST, Some(inode(InodeKind::Directory))),
                (FIRST + 1, Some(inode(InodeKind::Directory))),
                (FIRST + 2, Some(inode(InodeKind::File))),
            ],
            contents: vec![(FIRST + 2, Some(whole()))],
            next_ino: Some(FIRST + 3),
            ..Batch::default()
        })
    };
    trees.into_iter().map(mutation).collect()
}

fn contents() -> Vec<Mutation> {
    let blocks = |origin: &str, size, base_len| ContentRecord::Blocks {
        origin: origin.into(),
        size,
        base_len,
        mtime_ns: i64::MAX,
    };
    let contents = [
        (
            "all of a secret",
            ContentRecord::Whole {
                origin: Some("/etc/shadow".into()),
            },
        ),
        ("a size without end", blocks("base/1/1255", u64::MAX, 8192)),
        ("a base without end", blocks("base/1/1255", 8192, u64::MAX)),
        (
            "both without end",
            blocks("base/1/1255", u64::MAX, u64::MAX),
        ),
        (
            "an origin outside",
            blocks("../../outside/secret", 30_000, 30_000),
        ),
        ("an absolute origin", blocks("/etc/passwd", 1000, 1000)),
        ("a directory as origin", blocks("base", 1000, 1000)),
        ("no origin", blocks("", 1000, 1000)),
        ("an exabyte", blocks("base/1/1255", 1 << 60, 1 << 60)),
    ];
    let mut mutations = Vec::new();
    for (what, content) in contents {
        for ino in [FIRST, 30] {
            let content = content.clone();
            let whose = if ino == FIRST {
                "a new file"
            } else {
                "a file of the image"
            };
            mutations.push(mutation(format!("{whose} has {what}"), move |_| {
                let names = vec![(ROOT, b"hostile".to_vec(), Some(NameEntry::Inode(ino)))];
                Batch {
                    names,
                    inodes: vec![(ino, Some(inode(InodeKind::File)))],
                    contents: vec![(ino, Some(content.clone()))],
                    ..Batch::default()
                }
            }));
        }
    }
    mutations
}

fn inodes() -> Vec<Mutation> {
    let with = |change: fn(&mut InodeRecord)| {
        let mut record = inode(InodeKind::Symlink);
        record.link = Some(b"new".to_vec());
        change(&mut record);
        record
    };
    let records = [
        (
            "a link to nothing",
            with(|record| record.link = Some(Vec::new())),
        ),
        ("a link without target", with(|record| record.link = None)),
        (
            "a link with NUL",
            with(|record| record.link = Some(b"a\0b".to_vec())),
        ),
        (
            "a link of 100 kB",
            with(|record| record.link = Some(vec![b'a'; 100_000])),
        ),
        ("a link with a content", with(|_| {})),
        (
            "a directory with a content",
            with(|record| record.kind = InodeKind::Directory),
        ),
        (
            "all mode bits",
            with(|record| {
                record.kind = InodeKind::File;
                record.mode = u32::MAX;
            }),
        ),
        ("the first time", with(|record| record.mtime_ns = i64::MIN)),
        ("the last time", with(|record| record.ctime_ns = i64::MAX)),
        ("no name", with(|record| record.nlink = 0)),
        ("all names", with(|record| record.nlink = u32::MAX)),
        ("the last owner", with(|record| record.uid = u32::MAX)),
    ];
    let mut mutations: Vec<_> = records
        .into_iter()
        .map(|(what, record)| {
            mutation(format!("an inode is or has {what}"), move |_| {
                file(b"hostile", record.clone(), Some(whole()))
            })
        })
        .collect();
    for (what, next) in [
        ("0", 0),
        ("the root's", ROOT),
        ("the last", u64::MAX),
        ("a used one", 1 << 32),
    ] {
        mutations.push(mutation(format!("the next inode is {what}"), move |_| {
            Batch {
                next_ino: Some(next),
                ..Batch::default()
            }
        }));
    }
    mutations
}

fn deltas() -> Vec<Mutation> {
    let deltas: [(&str, Vec<u8>); 5] = [
        ("empty", Vec::new()),
        ("cut off", vec![0, 0, 5, 0, 1]),
        ("beyond the block", vec![0xFF, 0xFF, 1, 0, 1]),
        ("across the end", vec![0xFF, 0x1F, 2, 0, 1, 1]),
        ("100 kB", vec![0; 100_000]),
    ];
    let mut mutations = Vec::new();
    for (what, delta) in deltas {
        for block in [0, u32::MAX] {
            let delta = delta.clone();
            mutations.push(mutation(
                format!("the small block {block} is {what}"),
                move |_| {
                    let mut held = HeldBlocks::default();
                    held.small.insert(block);
                    let chunk = pbkfs::internals::diff::BlockChunk {
                        ino: 30,
                        chunk: block / pbkfs::internals::diff::BLOCKS_PER_CHUNK,
                        blocks: held,
                    };
                    Batch {
                        contents: vec![(
                            30,
                            Some(ContentRecord::Blocks {
                                origin: "base/1/1255".into(),
                                size: 100_000,
                                base_len: 100_000,
                                mtime_ns: 0,
                            }),
                        )],
                        names: vec![(ROOT, b"hostile".to_vec(), Some(NameEntry::Inode(30)))],
                        blocks: vec![chunk],
                        deltas: vec![(30, block, Some(delta.clone().into()))],
                        ..Batch::default()
                    }
                },
            ));
        }
    }
    mutations
}
