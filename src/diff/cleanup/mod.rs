//! Emptying a diff for reuse: exactly what the format names, and nothing
//! else, whatever stands in the directory.
//!
//! Everything is done relative to opened directories and without following
//! links, so whatever stands in the place of a file goes by its name, and what
//! is in the place of `data/` and no directory is refused. The order keeps a half-emptied diff whole: first
//! `meta.redb`, after which nothing refers to any data; the binding last, so
//! that what was begun is still known as a diff.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::changes::Changes;
use super::directory::{Binding, Root, disk_usage};
use super::error::DiffError;
use super::layout::{BINDING_FILE, DATA_DIR, META_FILE, TEMPORARY_FILE, WAL_DIR};
use super::lock::{DiffLock, LockHolder};
use super::store::{ContentRecord, NameEntry, Namespace, Store, StoreBackend};
use crate::pg::relation::RelationFile;

/// A diff about to be emptied: nobody uses it, and nobody can begin to.
#[derive(Debug)]
pub struct Cleanup {
    root: Arc<Root>,
    binding: Result<Option<Binding>, DiffError>,
    _lock: DiffLock,
}

impl Cleanup {
    /// Locks the diff in `root`.
    ///
    /// # Errors
    /// [`DiffError::Busy`] while it is in use; [`DiffError::NotADiff`] and
    /// [`DiffError::Foreign`] for a directory that pbkfs did not make, which
    /// is left as it is; a newer version's diff; I/O errors.
    pub fn begin(root: &Path) -> Result<Self, DiffError> {
        let root = Arc::new(Root::open(root)?);
        root.check()?;
        let holder = LockHolder::this_process(Path::new(""));
        let lock = DiffLock::acquire_in(root.clone(), &holder)?;
        let binding = Binding::read_in(&root);
        match binding {
            // Then it is not known what the format names.
            Err(error @ DiffError::Version { .. }) => Err(error),
            binding => Ok(Self {
                root,
                binding,
                _lock: lock,
            }),
        }
    }

    /// The backup that the diff belongs to; `None` if it is bound to none.
    ///
    /// # Errors
    /// A damaged binding.
    pub fn binding(&self) -> Result<Option<&Binding>, &DiffError> {
        self.binding.as_ref().map(Option::as_ref)
    }

    /// What would be lost.
    ///
    /// # Errors
    /// The metadata cannot be read; something that no pbkfs makes is in the
    /// place of the binding.
    pub fn changes(&self) -> Result<Changes, DiffError> {
        if let Err(DiffError::Foreign { path, found }) = &self.binding {
            let (path, found) = (path.clone(), *found);
            return Err(DiffError::Foreign { path, found });
        }
        let data = self.root.data_files()?;
        let wal = disk_usage(&self.root);
        let mut changes = Changes {
            bytes: data
                .iter()
                .fold(wal.bytes, |sum, file| sum.saturating_add(file.bytes)),
            files: wal.files + data.len(),
            ..Changes::default()
        };
        if self.root.stat(META_FILE)?.is_none() && matches!(self.binding, Ok(None)) {
            return Ok(changes);
        }
        let store = Store::open(StoreBackend::In(self.root.clone()))?;
        let namespace = store.namespace()?;
        let mut known = store.inodes_with_content()?;
        changes.names = namespace.names.len();
        changes.relations = relations(&store, &namespace, &known)?;
        // An image's inode without a name of the diff has other attributes.
        let named: HashSet<u64> = namespace.names.iter().filter_map(inode_of).collect();
        let changed = namespace.inodes.iter();
        changes.names += changed.filter(|(ino, _)| !named.contains(ino)).count();
        known.extend(data.iter().map(|file| file.ino));
        changes.files = wal.files + known.len();
        Ok(changes)
    }

    /// The paths that would be removed, data files and WAL summed up under
    /// their directory's.
    ///
    /// # Errors
    /// I/O errors.
    pub fn removals(&self) -> Result<Vec<PathBuf>, DiffError> {
        let mut paths = Vec::new();
        for name in [META_FILE, DATA_DIR, WAL_DIR, TEMPORARY_FILE, BINDING_FILE] {
            if self.root.stat(name)?.is_some() {
                paths.push(self.root.join(name));
            }
        }
        Ok(paths)
    }

    /// Whatever stands in the directory and is not of the format; it stays.
    ///
    /// # Errors
    /// I/O errors.
    pub fn strangers(&self) -> Result<Vec<PathBuf>, DiffError> {
        self.root.strangers()
    }

    /// Empties the diff. The directory and its lock file stay: whoever waits
    /// for the lock has that very file open.
    ///
    /// # Errors
    /// I/O errors.
    pub fn run(self) -> Result<(), DiffError> {
        self.root.empty()
    }
}

fn inode_of((_, _, entry): &(u64, Vec<u8>, NameEntry)) -> Option<u64> {
    match entry {
        NameEntry::Inode(ino) => Some(*ino),
        NameEntry::Whiteout => None,
    }
}

/// How many relations the files belong to. The path of a file that the clone
/// made is known to the image only; but nothing besides relations has such a
/// name, and its directory tells it from another's.
fn relations(
    store: &Store,
    namespace: &Namespace,
    with_content: &HashSet<u64>,
) -> Result<usize, DiffError> {
    #[derive(PartialEq, Eq, Hash)]
    enum Relation {
        OfImage(crate::pg::relation::Tablespace, u32, u32),
        New(u64, u32),
    }
    let mut found = HashSet::new();
    for &ino in with_content {
        let origin = match store.content(ino)? {
            Some((ContentRecord::Blocks { origin, .. }, _)) => Some(origin),
            Some((ContentRecord::Whole { origin }, _)) => origin,
            None => None,
        };
        if let Some(file) = origin.and_then(RelationFile::parse) {
            found.insert(Relation::OfImage(
                file.tablespace,
                file.database,
                file.relfilenode,
            ));
        }
    }
    for entry @ (dir, name, _) in &namespace.names {
        let is_new = inode_of(entry).is_some_and(|ino| with_content.contains(&ino));
        let file = std::str::from_utf8(name).ok().filter(|_| is_new);
        // Any database's directory will do for the name to be taken apart.
        let file = file.and_then(|name| RelationFile::parse(format!("base/1/{name}")));
        found.extend(file.map(|file| Relation::New(*dir, file.relfilenode)));
    }
    Ok(found.len())
}

#[cfg(test)]
mod tests;
