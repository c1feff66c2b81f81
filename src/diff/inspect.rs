//! What a diff holds, as records, for telling what a clone has changed.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;

use super::backend::StoreBackend;
use super::binding::{BINDING_FILE, Binding};
use super::record::{ContentRecord, InodeRecord, NameEntry};
use super::store::Store;
use super::{DATA_DIR, DiffError, DiffLock, LockHolder, META_FILE, Namespace};

/// One regular file's content in a diff.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldContent {
    /// Where the bytes are.
    pub record: ContentRecord,
    /// 8 KiB blocks that the diff has, for the blocks layout.
    pub blocks: u64,
    /// By how many bytes those that are small are smaller.
    pub saved: u64,
    /// The data file's length in bytes, for the whole layout.
    pub data_len: u64,
}

/// Everything that a diff says over its image.
#[derive(Debug, Default)]
pub struct Records {
    /// (directory, name, what it leads to).
    pub names: Vec<(u64, Vec<u8>, NameEntry)>,
    /// Inodes whose attributes the diff has.
    pub inodes: HashMap<u64, InodeRecord>,
    /// Contents by inode.
    pub contents: BTreeMap<u64, HeldContent>,
}

/// Reads a diff that nobody uses; it is locked meanwhile.
///
/// # Errors
/// [`DiffError::Busy`] when it is in use, [`DiffError::NotADiff`] when the
/// directory is none; I/O errors and damaged records.
pub fn inspect(root: &Path, reader: &LockHolder) -> Result<(Binding, Records), DiffError> {
    let not_a_diff = || DiffError::NotADiff {
        path: root.to_owned(),
    };
    // Before the lock, which would make a directory that does not exist.
    if !root.join(BINDING_FILE).exists() {
        return Err(not_a_diff());
    }
    let _lock = DiffLock::acquire(root, reader)?;
    let binding = Binding::read(root)?.ok_or_else(not_a_diff)?;
    let meta = root.join(META_FILE);
    if !meta.exists() {
        // Bound, and then killed before anything was written.
        return Ok((binding, Records::default()));
    }
    let store = Store::open(StoreBackend::File(meta))?;
    let mut records = Records::of(store.namespace()?);
    let saved = store.saved()?;
    for (ino, record, blocks) in store.contents()? {
        let data_len = match record {
            ContentRecord::Whole { .. } => data_len(root, ino)?,
            ContentRecord::Blocks { .. } => 0,
        };
        let held = HeldContent {
            record,
            blocks,
            saved: saved.get(&ino).copied().unwrap_or(0),
            data_len,
        };
        records.contents.insert(ino, held);
    }
    Ok((binding, records))
}

impl Records {
    /// The names and inodes, without any content yet.
    #[must_use]
    pub fn of(namespace: Namespace) -> Self {
        Self {
            names: namespace.names,
            inodes: namespace.inodes.into_iter().collect(),
            contents: BTreeMap::new(),
        }
    }
}

fn data_len(root: &Path, ino: u64) -> Result<u64, DiffError> {
    let path = root.join(DATA_DIR).join(ino.to_string());
    fs::symlink_metadata(&path)
        .map(|meta| meta.len())
        .map_err(|e| DiffError::io("look at", &path, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_diff_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("missing");
        for root in [dir.path(), &missing] {
            let error = inspect(root, &LockHolder::default()).unwrap_err();
            assert!(matches!(error, DiffError::NotADiff { .. }), "{error}");
        }
        assert!(!missing.exists());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
