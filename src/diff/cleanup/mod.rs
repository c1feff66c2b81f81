//! Emptying a diff for reuse: exactly what the format names is removed, and nothing
//! else, whatever the directory contains.
//!
//! All operations are relative to opened directories and do not follow links. Whatever
//! has taken the place of a file is removed by its name, and anything but a directory
//! in the place of `data/` is refused. The order keeps a half-emptied diff consistent.
//! `meta.redb` is removed first, and then nothing refers to any data. The binding is
//! removed last, so that a half-emptied directory is still recognized as a diff.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::changes::Changes;
use super::directory::{Binding, Root, disk_usage};
use super::error::DiffError;
use super::layout::{
    BINDING_FILE, CATALOG_DIR, DATA_DIR, META_FILE, PROMOTION_FILE, TEMPORARY_FILE, WAL_DIR,
};
use super::lock::{DiffLock, LockHolder};
use super::store::{Namespace, Store, StoreBackend};
use crate::pg::relation::RelationFile;

/// A diff about to be emptied, locked so that nobody can use it.
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
    /// Returns [`DiffError::Busy`] while the diff is in use; [`DiffError::NotADiff`] or
    /// [`DiffError::Foreign`] for a directory that pbkfs did not create, which is left
    /// unchanged; an error for a newer version's diff, and for failed I/O.
    pub fn begin(root: &Path) -> Result<Self, DiffError> {
        let root = Arc::new(Root::open(root)?);
        root.check()?;
        let holder = LockHolder::this_process(Path::new(""));
        let lock = DiffLock::acquire_in(root.clone(), &holder)?;
        let binding = Binding::read_in(&root);
        match binding {
            // The names that a newer format uses are unknown.
            Err(error @ DiffError::Version { .. }) => Err(error),
            binding => Ok(Self {
                root,
                binding,
                _lock: lock,
            }),
        }
    }

    /// Returns the backup that the diff belongs to; `None` if it is bound to none.
    ///
    /// # Errors
    /// If the binding is damaged.
    pub fn binding(&self) -> Result<Option<&Binding>, &DiffError> {
        self.binding.as_ref().map(Option::as_ref)
    }

    /// Counts what would be lost.
    ///
    /// # Errors
    /// If the metadata cannot be read, or if the binding's place is taken by something
    /// that no pbkfs creates.
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
        let names = namespace.names.iter();
        let named: HashSet<u64> = names.filter_map(|(_, _, entry)| entry.inode()).collect();
        let changed = namespace.inodes.iter();
        changes.names += changed.filter(|(ino, _)| !named.contains(ino)).count();
        known.extend(data.iter().map(|file| file.ino));
        changes.files = wal.files + known.len();
        Ok(changes)
    }

    /// Returns the paths that would be removed; a directory stands for the data files
    /// or WAL in it.
    ///
    /// # Errors
    /// If an I/O operation fails.
    pub fn removals(&self) -> Result<Vec<PathBuf>, DiffError> {
        let mut paths = Vec::new();
        for name in [
            META_FILE,
            DATA_DIR,
            WAL_DIR,
            CATALOG_DIR,
            TEMPORARY_FILE,
            PROMOTION_FILE,
            BINDING_FILE,
        ] {
            if self.root.stat(name)?.is_some() {
                paths.push(self.root.join(name));
            }
        }
        Ok(paths)
    }

    /// Returns the paths in the directory that the format does not name; they stay.
    ///
    /// # Errors
    /// If an I/O operation fails.
    pub fn strangers(&self) -> Result<Vec<PathBuf>, DiffError> {
        self.root.strangers()
    }

    /// Empties the diff. The directory and its lock file stay: a process waiting for
    /// the lock has that very file open.
    ///
    /// # Errors
    /// If an I/O operation fails.
    pub fn run(self) -> Result<(), DiffError> {
        self.root.empty()
    }
}

/// Counts the relations that the files belong to. Finding the path of a file that the
/// clone created requires the image. But only relations have such names, and the
/// directory's inode tells relations of the same name apart.
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
        if let Some((record, _)) = store.content(ino)?
            && let Some(file) = record.origin().and_then(RelationFile::parse)
        {
            found.insert(Relation::OfImage(
                file.tablespace,
                file.database,
                file.relfilenode,
            ));
        }
    }
    for (dir, name, entry) in &namespace.names {
        let is_new = entry.inode().is_some_and(|ino| with_content.contains(&ino));
        let file = std::str::from_utf8(name).ok().filter(|_| is_new);
        // Any database's directory serves to parse the name.
        let file = file.and_then(|name| RelationFile::parse(format!("base/1/{name}")));
        found.extend(file.map(|file| Relation::New(*dir, file.relfilenode)));
    }
    Ok(found.len())
}

#[cfg(test)]
mod tests;
