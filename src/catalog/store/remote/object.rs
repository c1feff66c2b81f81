//! The files of a remote catalog that are in use.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::fault::Fault;
use super::source::Version;
use crate::cache::Cache;

/// How many files are remembered, so that to open one of them again takes no request.
const REMEMBERED: usize = 32 << 10;

/// One version of a file.
#[derive(Debug)]
pub(super) struct Object {
    /// A number that no other version of any file has.
    pub(super) id: u64,
    /// Its path in the catalog.
    pub(super) path: String,
    /// Its length in bytes.
    pub(super) length: u64,
    /// What identifies its content.
    pub(super) version: Version,
}

/// The files that have been opened.
///
/// What a backup consists of is pinned at its first use: whoever reads it later reads the
/// same version, or gets an error. The archive is not pinned, because segments that are
/// not complete yet are replaced in it.
#[derive(Debug)]
pub(super) struct Objects {
    known: Mutex<HashMap<u64, Pin>>,
    recent: Cache<u64, Object>,
    next: AtomicU64,
    hasher: RandomState,
}

/// What is remembered of a file for as long as the store is open: a few bytes, because
/// there may be hundreds of thousands.
#[derive(Debug, Clone, Copy)]
struct Pin {
    id: u64,
    version: u64,
}

impl Objects {
    pub(super) fn new() -> Self {
        Self {
            known: Mutex::default(),
            recent: Cache::new(REMEMBERED),
            next: AtomicU64::new(0),
            hasher: RandomState::new(),
        }
    }

    /// Returns a pinned file that was opened before and is still remembered.
    pub(super) fn find(&self, path: &str) -> Option<Arc<Object>> {
        let found = self.recent.get(&self.hasher.hash_one(path))?;
        (is_pinned(path) && found.path == path).then_some(found)
    }

    /// Notes the version of a file that was found now.
    ///
    /// # Errors
    /// [`Fault::Changed`] if it is pinned to another one.
    pub(super) fn note(
        &self,
        path: &str,
        length: u64,
        version: Version,
    ) -> Result<Arc<Object>, Fault> {
        let key = self.hasher.hash_one(path);
        let hashed = self.hasher.hash_one((&version, length));
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let id = match known.get(&key) {
            Some(pin) if pin.version == hashed => pin.id,
            Some(_) if is_pinned(path) => return Err(Fault::Changed),
            _ => self.next.fetch_add(1, Ordering::Relaxed),
        };
        let version_pin = Pin {
            id,
            version: hashed,
        };
        known.insert(key, version_pin);
        drop(known);
        let object = Arc::new(Object {
            id,
            path: path.to_owned(),
            length,
            version,
        });
        self.recent.insert(key, Arc::clone(&object), 1);
        Ok(object)
    }
}

/// Whether the content of a file never changes while its backup exists.
pub(super) fn is_pinned(path: &str) -> bool {
    Path::new(path).starts_with("backups")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str) -> Version {
        Version(text.to_owned())
    }

    #[test]
    fn a_backups_file_keeps_its_version() {
        let objects = Objects::new();
        let path = "backups/main/A/database/base/1/1";
        assert!(objects.find(path).is_none());
        let object = objects.note(path, 10, version("a")).unwrap();
        assert_eq!(objects.find(path).unwrap().id, object.id);
        let again = objects.note(path, 10, version("a")).unwrap();
        assert_eq!(again.id, object.id);
        for (length, text) in [(10, "b"), (11, "a")] {
            let changed = objects.note(path, length, version(text));
            assert_eq!(changed.unwrap_err(), Fault::Changed);
        }
        let other = objects.note("backups/main/B/x", 10, version("a")).unwrap();
        assert_ne!(other.id, object.id);
    }

    #[test]
    fn a_file_of_the_archive_may_be_replaced() {
        let objects = Objects::new();
        let path = "wal/main/000000010000000000000001.partial";
        let first = objects.note(path, 10, version("a")).unwrap();
        assert!(objects.find(path).is_none());
        assert_eq!(objects.note(path, 10, version("a")).unwrap().id, first.id);
        assert_ne!(objects.note(path, 20, version("b")).unwrap().id, first.id);
    }
}
