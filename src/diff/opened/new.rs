//! Creating a diff in a directory that is not bound to a backup yet.
//!
//! The binding is written last, after everything else is on disk. So a directory with a
//! binding is a complete diff. If its metadata or a data file is missing, it was lost,
//! and the diff is refused rather than taken for a new one.

use std::sync::Arc;

use crate::diff::data::{DirStorage, Storage};
use crate::diff::directory::{self, Binding, Root};
use crate::diff::error::DiffError;
use crate::diff::layout::{BINDING_FILE, DATA_DIR, META_FILE, WAL_DIR};
use crate::diff::store::{Store, StoreBackend};

/// Creates the parts of a diff and binds it. If a killed process left some of them,
/// continues from there.
///
/// # Errors
/// Returns [`DiffError::Damaged`] if a clone's changes are already there, and I/O
/// errors.
pub fn make(root: &Arc<Root>, wanted: &Binding) -> Result<(), DiffError> {
    root.take_for_owner()?;
    let storage = DirStorage::open(root)?;
    let data = storage.list();
    let data = data.map_err(|e| DiffError::io("list", &root.join(DATA_DIR), e))?;
    let store = match Store::open(StoreBackend::New(root.clone())) {
        // Without data files, only names could be lost with the store, and most likely
        // it never received any.
        Err(DiffError::Damaged { .. }) if data.is_empty() && root.stat(WAL_DIR)?.is_none() => {
            root.unlink(META_FILE)?;
            Store::open(StoreBackend::New(root.clone()))?
        }
        opened => opened?,
    };
    if !data.is_empty() || !store.is_empty()? {
        return Err(DiffError::Damaged {
            path: root.join(BINDING_FILE),
            reason: "it is missing, but a clone's changes are there".to_owned(),
        });
    }
    drop(store);
    root.sync()?;
    directory::write(root, wanted)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use super::*;
    use crate::diff::{Batch, Diff, DiffLock, FORMAT_VERSION, LockHolder};

    fn binding() -> Binding {
        Binding {
            version: FORMAT_VERSION,
            catalog: "/srv/backup".into(),
            instance: "main".into(),
            system_identifier: Some(7),
            backup: "BBB".into(),
            chain: vec!["BBB".into()],
            image: "00ff".into(),
        }
    }

    fn open(root: &Path) -> Result<Diff, DiffError> {
        Diff::open(DiffLock::acquire(root, &LockHolder::default())?, &binding())
    }

    /// Creates a diff in which a clone has changed something.
    fn used(root: &Path) {
        let diff = open(root).unwrap();
        let batch = Batch {
            next_ino: Some(1 << 33),
            ..Batch::default()
        };
        diff.commit(&batch).unwrap();
    }

    #[test]
    fn what_a_diff_has_lost_is_damage_and_never_a_new_diff() {
        for lost in [META_FILE, BINDING_FILE] {
            let dir = tempfile::tempdir().unwrap();
            let root = dir.path().join("diff");
            used(&root);
            fs::remove_file(root.join(lost)).unwrap();
            let error = open(&root).err().map(|error| error.to_string());
            let error = error.unwrap_or_default();
            assert!(
                error.contains(lost) && error.contains("it is missing"),
                "{error}"
            );
        }
        for empty in ["", "\0\0\0\0\0\0\0\0\0\0\0\0"] {
            let dir = tempfile::tempdir().unwrap();
            let root = dir.path().join("diff");
            used(&root);
            fs::write(root.join(META_FILE), empty).unwrap();
            let error = open(&root).err();
            assert!(
                matches!(error, Some(DiffError::Damaged { .. })),
                "{error:?}"
            );
            assert_eq!(fs::read(root.join(META_FILE)).unwrap(), empty.as_bytes());
        }
    }

    /// A process may be killed at any step.
    #[test]
    fn what_was_begun_is_gone_on_with() {
        for left in [&[][..], &[0; 5000], b"redb"] {
            let dir = tempfile::tempdir().unwrap();
            let root = dir.path().join("diff");
            drop(DiffLock::acquire(&root, &LockHolder::default()).unwrap());
            fs::create_dir(root.join(DATA_DIR)).unwrap();
            fs::write(root.join(META_FILE), left).unwrap();
            open(&root).unwrap();
        }
    }

    #[test]
    fn a_directory_that_others_can_write_to_becomes_its_owners_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o2775)).unwrap();
        open(dir.path()).unwrap();
        let mode = fs::metadata(dir.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o2755);
    }
}
