//! The content of a diff as records, from which the changes of a clone are reported.

use std::collections::{BTreeMap, HashMap};
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use super::directory::{Binding, Root};
use super::error::DiffError;
use super::layout::{BINDING_FILE, DATA_DIR};
use super::lock::{DiffLock, LockHolder};
use super::opened::Diff;
use super::store::{ContentRecord, InodeRecord, NameEntry, Namespace, Store, StoreBackend};
use crate::untrusted::{Dir, Kind};

/// The content of one regular file in a diff.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldContent {
    /// Location of the bytes.
    pub record: ContentRecord,
    /// Number of 8 KiB blocks in the diff, for the blocks layout.
    pub blocks: u64,
    /// Bytes saved by storing some blocks as small ones.
    pub saved: u64,
    /// Size of the data file in bytes, for the whole layout.
    pub data_len: u64,
    /// Last change of the bytes, in nanoseconds since the epoch.
    pub mtime_ns: i64,
}

impl HeldContent {
    /// Returns a content as it is recorded. `whole` returns the size of a data file in
    /// bytes, and its last change.
    ///
    /// # Errors
    /// Those of `whole`.
    pub fn of<E>(
        (record, blocks): (ContentRecord, u64),
        saved: Option<&u64>,
        whole: impl FnOnce() -> Result<(u64, i64), E>,
    ) -> Result<Self, E> {
        let (data_len, mtime_ns) = match record {
            ContentRecord::Whole { .. } => whole()?,
            ContentRecord::Blocks { mtime_ns, .. } => (0, mtime_ns),
        };
        Ok(Self {
            record,
            blocks,
            saved: saved.copied().unwrap_or(0),
            data_len,
            mtime_ns,
        })
    }
}

/// All changes of a diff to its image.
#[derive(Debug, Default)]
pub struct Records {
    /// (directory, name, what the name resolves to).
    pub names: Vec<(u64, Vec<u8>, NameEntry)>,
    /// The inodes whose attributes the diff holds.
    pub inodes: HashMap<u64, InodeRecord>,
    /// The contents, by inode.
    pub contents: BTreeMap<u64, HeldContent>,
}

/// Reads a diff that is not in use, and locks it meanwhile.
///
/// # Errors
/// Returns [`DiffError::Busy`] if the diff is in use, [`DiffError::NotADiff`] if the
/// directory is not a diff, and I/O errors and damaged records.
pub fn inspect(root: &Path, reader: &LockHolder) -> Result<(Binding, Records), DiffError> {
    let not_a_diff = || DiffError::NotADiff {
        path: root.to_owned(),
    };
    let opened = Arc::new(Root::find(root)?.ok_or_else(not_a_diff)?);
    if opened.stat(BINDING_FILE)?.is_none() {
        return Err(not_a_diff());
    }
    let _lock = DiffLock::acquire_in(opened.clone(), reader)?;
    let binding = Binding::read_in(&opened)?.ok_or_else(not_a_diff)?;
    let data = opened.open_dir(DATA_DIR)?;
    let store = Store::open(StoreBackend::In(opened))?;
    let mut records = Records::of(store.namespace()?);
    let saved = store.saved()?;
    for (ino, record, blocks) in store.contents()? {
        let whole = || data_file(root, data.as_ref(), ino);
        let held = HeldContent::of((record, blocks), saved.get(&ino), whole)?;
        records.contents.insert(ino, held);
    }
    Ok((binding, records))
}

/// Checks whether a diff can be used for `wanted`, without creating or binding one. A
/// diff that was used before is locked meanwhile.
///
/// # Errors
/// As for [`DiffLock::acquire`](super::DiffLock::acquire) and
/// [`Diff::open`](super::Diff::open).
pub fn check(path: &Path, wanted: &Binding, reader: &LockHolder) -> Result<(), DiffError> {
    let Some(root) = Root::find(path)? else {
        let above = path.parent().unwrap_or(path);
        return match Root::find(above)? {
            Some(_) => Ok(()),
            None => Err(DiffError::io(
                "create the directory",
                path,
                std::io::Error::from_raw_os_error(nix::libc::ENOENT),
            )),
        };
    };
    root.refuse_foreign_content()?;
    let root = Arc::new(root);
    if root.stat(BINDING_FILE)?.is_none() {
        return Ok(());
    }
    let lock = DiffLock::acquire_in(root, reader)?;
    Diff::open(lock, wanted).map(drop)
}

impl Records {
    /// Creates records from the names and inodes, without any content yet.
    #[must_use]
    pub fn of(namespace: Namespace) -> Self {
        Self {
            names: namespace.names,
            inodes: namespace.inodes.into_iter().collect(),
            contents: BTreeMap::new(),
        }
    }
}

/// Returns a data file's size and time of the last change.
fn data_file(root: &Path, data: Option<&Dir>, ino: u64) -> Result<(u64, i64), DiffError> {
    let name = ino.to_string();
    let path = root.join(DATA_DIR).join(&name);
    let stat = data.map(|data| data.stat(&name)).transpose();
    let stat = stat.map_err(|e| DiffError::io("stat", &path, e))?;
    match stat.flatten() {
        Some(stat) if stat.kind == Kind::File => Ok((stat.len, stat.mtime_ns)),
        Some(stat) => Err(DiffError::Foreign {
            path,
            found: stat.kind,
        }),
        None => Err(DiffError::io("stat", &path, ErrorKind::NotFound.into())),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

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
