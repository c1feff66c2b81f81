//! Limits on the records that do not depend on the image. Anybody may have written the
//! store, so each record is checked where it is read. What can only be checked against
//! the image is checked by the overlay.

use redb::Error;

use super::record::{InodeKind, InodeRecord, Namespace};
use crate::diff::error::DiffError;

/// The longest name, as in all Linux file systems.
const NAME_MAX: usize = 255;

/// The longest target of a symbolic link, including the terminating NUL.
const PATH_MAX: usize = 4096;

/// The limit of inode numbers, so that there is always a next one.
const INO_MAX: u64 = 1 << 62;

/// Checks that a table's keys ascend. A damaged tree of pages may be walked forever,
/// but not with ascending keys, so no more is read of a table than the file holds.
#[derive(Debug, Default)]
pub struct Ascending<K>(Option<K>);

impl<K: Ord> Ascending<K> {
    /// Refuses a key that does not come after the last one.
    pub fn check(&mut self, key: K) -> Result<(), Error> {
        in_order(self.0.as_ref().is_none_or(|last| *last < key))?;
        self.0 = Some(key);
        Ok(())
    }
}

/// Checks the order of keys if the caller has the last one.
pub fn in_order(is: bool) -> Result<(), Error> {
    match is {
        true => Ok(()),
        false => Err(Error::Corrupted("keys are out of order".to_owned())),
    }
}

/// Checks one name in a directory.
pub fn check_name(dir: u64, name: &[u8]) -> Result<(), DiffError> {
    let is_one_name = !matches!(name, b"" | b"." | b"..")
        && name.len() <= NAME_MAX
        && !name.iter().any(|byte| matches!(byte, b'/' | 0));
    match is_one_name {
        true => Ok(()),
        false => Err(DiffError::record(
            "a name in directory",
            dir,
            &format!("{:?} is not a name", name.escape_ascii().to_string()),
        )),
    }
}

/// Checks an inode by itself.
pub fn check_inode(ino: u64, record: &InodeRecord) -> Result<(), DiffError> {
    let bad = |reason: &str| Err(DiffError::record("inode", ino, &reason));
    if ino == 0 || ino >= INO_MAX {
        return bad("it is not an inode number");
    }
    if record.mode & !0o7777 != 0 {
        return bad("its mode has bits other than permissions");
    }
    match (record.kind, &record.link) {
        (InodeKind::Symlink, Some(target)) => {
            let is_path = !target.is_empty() && target.len() < PATH_MAX && !target.contains(&0);
            if !is_path {
                return bad("its target is not a path");
            }
        }
        (InodeKind::Symlink, None) => return bad("it is a symbolic link without a target"),
        (_, Some(_)) => return bad("it has a target but is not a symbolic link"),
        (_, None) => {}
    }
    Ok(())
}

/// Checks that no inode number can be allocated twice.
pub fn check_next_ino(namespace: &Namespace) -> Result<(), DiffError> {
    let names = namespace.names.iter();
    let named = names.filter_map(|(_, _, entry)| entry.inode());
    let known = namespace.inodes.iter().map(|(ino, _)| *ino);
    let last = named.chain(known).max().unwrap_or(0);
    match namespace.next_ino {
        // None was allocated, and all of the image's are below 2^32.
        None if last < 1 << 32 => Ok(()),
        Some(next) if next < INO_MAX && (last < 1 << 32 || last < next) => Ok(()),
        _ => Err(DiffError::record(
            "the next inode",
            namespace.next_ino.unwrap_or(0),
            &format!("it does not come after inode {last}"),
        )),
    }
}
