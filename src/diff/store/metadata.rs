//! Opening the store, reading it and committing to it.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use redb::{Database, Durability, ReadableDatabase, ReadableTable, ReadableTableMetadata};

use super::backend::StoreBackend;
use super::check::{Ascending, check_inode, check_name, check_next_ino, in_order};
use super::commit::{Encoded, apply};
use super::handle::Handle;
use super::record::{Batch, ContentRecord, HeldBlocks, NameEntry, Namespace, ROW_LIMIT};
use super::tables::{
    BLOCKS, CONTENTS, FORMAT, FORMAT_VERSION, INODES, META, NAMES, NEXT_INO, NOTES, WHITEOUT,
    create_tables,
};
use crate::diff::directory::Root;
use crate::diff::error::DiffError;

/// The diff's metadata.
pub struct Store {
    handle: Handle,
}

impl Store {
    /// Opens the store, creating it if the backend is for a new one.
    ///
    /// # Errors
    /// If an I/O operation fails, if the store is damaged, or if a newer version wrote
    /// it.
    pub fn open(backend: StoreBackend) -> Result<Self, DiffError> {
        let is_used = matches!(backend, StoreBackend::In(_));
        let store = Self {
            handle: Handle::new(backend),
        };
        let format = store.with("opened", |database| {
            let format = {
                let read = database.begin_read()?;
                match read.open_table(META) {
                    Ok(table) => table.get(FORMAT)?.map(|v| v.value()),
                    Err(redb::TableError::TableDoesNotExist(_)) if !is_used => None,
                    Err(e) => return Err(e.into()),
                }
            };
            match format {
                None if is_used => Err(redb::Error::Corrupted("it has no format".to_owned())),
                Some(format @ FORMAT_VERSION..) => Ok(format),
                _ => create_tables(database).map(|()| FORMAT_VERSION),
            }
        })?;
        if format > FORMAT_VERSION {
            return Err(DiffError::Version {
                path: store.handle.path(),
                found: u32::try_from(format).unwrap_or(u32::MAX),
                known: u32::try_from(FORMAT_VERSION).unwrap_or(u32::MAX),
            });
        }
        Ok(store)
    }

    /// Opens the store of the diff in a directory, even while the diff is in use.
    ///
    /// # Errors
    /// As for [`Store::open`], and if the directory cannot be opened.
    #[doc(hidden)]
    pub fn open_in(dir: &Path) -> Result<Self, DiffError> {
        Self::open(StoreBackend::In(Arc::new(Root::open(dir)?)))
    }

    /// Runs `work` on the database; see [`Handle::with`].
    pub(in crate::diff) fn with<T>(
        &self,
        action: &'static str,
        work: impl FnOnce(&Database) -> Result<T, redb::Error>,
    ) -> Result<T, DiffError> {
        self.handle.with(action, work)
    }

    /// Applies all of `batch` durably, or nothing.
    ///
    /// # Errors
    /// Returns the file system's error in [`DiffError::Store`].
    pub fn commit(&self, batch: &Batch) -> Result<(), DiffError> {
        let encoded = Encoded::new(batch)?;
        self.with("written", |database| {
            let mut transaction = database.begin_write()?;
            transaction.set_durability(Durability::Immediate)?;
            apply(&transaction, batch, &encoded)?;
            transaction.commit()?;
            Ok(())
        })
    }

    /// Returns all names and inodes, each checked by itself. The memory they take is
    /// bounded by the size of the store on disk.
    ///
    /// # Errors
    /// If an I/O operation fails, or if a record is damaged.
    pub fn namespace(&self) -> Result<Namespace, DiffError> {
        let (names, inodes, next_ino) = self.with("read", |database| {
            let read = database.begin_read()?;
            let mut names: Vec<(u64, Vec<u8>, NameEntry)> = Vec::new();
            for row in read.open_table(NAMES)?.iter()? {
                let (key, value) = row?;
                let (dir, name) = key.value();
                let last = names.last().map(|(dir, name, _)| (*dir, name.as_slice()));
                in_order(last < Some((dir, name)))?;
                names.push((dir, name.to_owned(), entry(value.value())));
            }
            let mut inodes = Vec::new();
            let mut order = Ascending::default();
            for row in read.open_table(INODES)?.iter()? {
                let (ino, json) = row?;
                order.check(ino.value())?;
                inodes.push((ino.value(), limited(json.value())?));
            }
            let next_ino = read.open_table(META)?.get(NEXT_INO)?.map(|v| v.value());
            Ok((names, inodes, next_ino))
        })?;
        for (dir, name, _) in &names {
            check_name(*dir, name)?;
        }
        let inodes = inodes.into_iter().map(|(ino, json)| {
            let record = decode("inode", ino, &json)?;
            check_inode(ino, &record)?;
            Ok((ino, record))
        });
        let namespace = Namespace {
            inodes: inodes.collect::<Result<_, DiffError>>()?,
            names,
            next_ino,
        };
        check_next_ino(&namespace)?;
        Ok(namespace)
    }

    /// Returns the content record of one file with, for the blocks layout, its blocks.
    ///
    /// # Errors
    /// If an I/O operation fails, or if a record is damaged.
    pub fn content(&self, ino: u64) -> Result<Option<(ContentRecord, HeldBlocks)>, DiffError> {
        let (json, held) = self.with("read", |database| {
            let read = database.begin_read()?;
            let json = read.open_table(CONTENTS)?.get(ino)?;
            let json = json.map(|json| limited(json.value())).transpose()?;
            let mut held = Ok(HeldBlocks::default());
            let mut order = Ascending::default();
            if json.is_some() {
                for row in read.open_table(BLOCKS)?.range((ino, 0)..=(ino, u32::MAX))? {
                    let (key, row) = row?;
                    order.check(key.value())?;
                    held = held.and_then(|mut held: HeldBlocks| {
                        held.add(key.value().1, row.value())?;
                        Ok(held)
                    });
                }
            }
            Ok((json, held))
        })?;
        let Some(json) = json else { return Ok(None) };
        let record = decode("content", ino, &json)?;
        let held = held.map_err(|e: std::io::Error| DiffError::record("blocks", ino, &e))?;
        Ok(Some((record, held)))
    }

    /// Returns all content records, each with the number of the file's blocks in the
    /// diff.
    ///
    /// # Errors
    /// If an I/O operation fails, or if a record is damaged.
    pub fn contents(&self) -> Result<Vec<(u64, ContentRecord, u64)>, DiffError> {
        let (rows, chunks) = self.with("read", |database| {
            let read = database.begin_read()?;
            let mut rows = Vec::new();
            let mut order = Ascending::default();
            for row in read.open_table(CONTENTS)?.iter()? {
                let (ino, json) = row?;
                order.check(ino.value())?;
                rows.push((ino.value(), limited(json.value())?));
            }
            let mut chunks = Vec::new();
            let mut order = Ascending::default();
            for row in read.open_table(BLOCKS)?.iter()? {
                let (key, bitmap) = row?;
                order.check(key.value())?;
                let (ino, chunk) = key.value();
                let mut held = HeldBlocks::default();
                let count = held.add(chunk, bitmap.value());
                chunks.push((ino, count.map(|()| held.data.len() + held.small.len())));
            }
            Ok((rows, chunks))
        })?;
        let mut blocks: HashMap<u64, u64> = HashMap::new();
        for (ino, count) in chunks {
            *blocks.entry(ino).or_default() +=
                count.map_err(|e| DiffError::record("blocks", ino, &e))?;
        }
        rows.into_iter()
            .map(|(ino, json)| {
                let count = blocks.get(&ino).copied().unwrap_or(0);
                Ok((ino, decode("content", ino, &json)?, count))
            })
            .collect()
    }

    /// Whether nothing was ever committed.
    ///
    /// # Errors
    /// If an I/O operation fails, or if the store is damaged.
    pub fn is_empty(&self) -> Result<bool, DiffError> {
        self.with("read", |database| {
            let read = database.begin_read()?;
            let meta = read.open_table(META)?;
            Ok(meta.get(NEXT_INO)?.is_none()
                && read.open_table(NAMES)?.is_empty()?
                && read.open_table(INODES)?.is_empty()?
                && read.open_table(CONTENTS)?.is_empty()?
                && read.open_table(NOTES)?.is_empty()?)
        })
    }

    /// Returns the inodes that have a content record.
    ///
    /// # Errors
    /// If an I/O operation fails, or if the store is damaged.
    pub fn inodes_with_content(&self) -> Result<HashSet<u64>, DiffError> {
        self.with("read", |database| {
            let mut inodes = HashSet::new();
            let mut order = Ascending::default();
            for row in database.begin_read()?.open_table(CONTENTS)?.iter()? {
                let ino = row?.0.value();
                order.check(ino)?;
                inodes.insert(ino);
            }
            Ok(inodes)
        })
    }
}

/// Copies a row's value, if it is short enough to be one of ours.
fn limited(value: &[u8]) -> Result<Vec<u8>, redb::Error> {
    match value.len() > ROW_LIMIT {
        true => Err(redb::Error::Corrupted("a record is too long".to_owned())),
        false => Ok(value.to_owned()),
    }
}

fn entry(value: u64) -> NameEntry {
    if value == WHITEOUT {
        NameEntry::Whiteout
    } else {
        NameEntry::Inode(value)
    }
}

fn decode<R: serde::de::DeserializeOwned>(
    what: &str,
    ino: u64,
    json: &[u8],
) -> Result<R, DiffError> {
    serde_json::from_slice(json).map_err(|e| DiffError::record(what, ino, &e))
}

#[cfg(test)]
mod tests {
    use roaring::RoaringBitmap;

    use super::*;
    use crate::diff::store::{BLOCKS_PER_CHUNK, BlockChunk, InodeKind, InodeRecord};

    fn backend(dir: &Path) -> StoreBackend {
        StoreBackend::New(Arc::new(Root::open(dir).unwrap()))
    }

    fn record(mode: u32) -> InodeRecord {
        InodeRecord {
            kind: InodeKind::Symlink,
            mode,
            uid: 1,
            gid: 2,
            nlink: 1,
            atime_ns: None,
            mtime_ns: -5,
            ctime_ns: 6,
            link: Some(vec![0xff, b'/']),
        }
    }

    #[test]
    fn what_is_committed_is_there_after_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let content = ContentRecord::Blocks {
            origin: "base/5/1259".into(),
            size: 10,
            base_len: 3,
            mtime_ns: 9,
        };
        let far = BLOCKS_PER_CHUNK + 1;
        let batch = Batch {
            names: vec![
                (1, b"a".to_vec(), Some(NameEntry::Inode(1 << 32))),
                (1, vec![0xfe], Some(NameEntry::Whiteout)),
            ],
            inodes: vec![(1 << 32, Some(record(0o600)))],
            contents: vec![(9, Some(content.clone()))],
            blocks: vec![
                BlockChunk {
                    ino: 9,
                    chunk: 0,
                    blocks: HeldBlocks {
                        data: [1].into_iter().collect(),
                        small: [2].into_iter().collect(),
                    },
                },
                BlockChunk {
                    ino: 9,
                    chunk: 1,
                    blocks: HeldBlocks {
                        data: [far].into_iter().collect(),
                        small: RoaringBitmap::new(),
                    },
                },
            ],
            deltas: vec![(9, 3, None), (9, 2, Some(b"small".as_slice().into()))],
            next_ino: Some((1 << 32) + 1),
        };
        Store::open(backend(dir.path()))
            .unwrap()
            .commit(&batch)
            .unwrap();

        let store = Store::open(backend(dir.path())).unwrap();
        let namespace = store.namespace().unwrap();
        assert_eq!(
            namespace.names,
            vec![
                (1, b"a".to_vec(), NameEntry::Inode(1 << 32)),
                (1, vec![0xfe], NameEntry::Whiteout)
            ]
        );
        assert_eq!(namespace.inodes, vec![(1 << 32, record(0o600))]);
        assert_eq!(namespace.next_ino, Some((1 << 32) + 1));
        assert_eq!(
            store.content(9).unwrap(),
            Some((
                content,
                HeldBlocks {
                    data: [1, far].into_iter().collect(),
                    small: [2].into_iter().collect(),
                }
            ))
        );
        assert_eq!(store.contents().unwrap()[0].2, 3, "both kinds count");
        assert_eq!(store.content(10).unwrap(), None);
        assert_eq!(store.delta(9, 2).unwrap().unwrap(), b"small");
        assert_eq!(store.delta(9, 1).unwrap(), None);

        let removal = Batch {
            contents: vec![(9, None)],
            ..Batch::default()
        };
        store.commit(&removal).unwrap();
        assert_eq!(store.content(9).unwrap(), None);
        assert_eq!(store.delta(9, 2).unwrap(), None);
        assert!(store.inodes_with_content().unwrap().is_empty());
    }

    #[test]
    fn a_store_of_the_format_before_small_blocks_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("meta.redb");
        let database = Database::create(&path).unwrap();
        let transaction = database.begin_write().unwrap();
        let mut row = Vec::new();
        let blocks: RoaringBitmap = [1, 2].into_iter().collect();
        blocks.serialize_into(&mut row).unwrap();
        let record = br#"{"layout":"blocks","origin":"base/1","size":9,"base_len":9,"mtime_ns":0}"#;
        {
            let mut meta = transaction.open_table(META).unwrap();
            meta.insert(FORMAT, 1).unwrap();
            let mut contents = transaction.open_table(CONTENTS).unwrap();
            contents.insert(9, record.as_slice()).unwrap();
            let mut table = transaction.open_table(BLOCKS).unwrap();
            table.insert((9, 0), row.as_slice()).unwrap();
        }
        transaction.commit().unwrap();
        drop(database);
        let store = Store::open(backend(dir.path())).unwrap();
        let (_, held) = store.content(9).unwrap().unwrap();
        assert_eq!((held.data, held.small), (blocks, RoaringBitmap::new()));
        assert_eq!(store.delta(9, 1).unwrap(), None);
        assert_eq!(store.note("any").unwrap(), None);
    }
}
