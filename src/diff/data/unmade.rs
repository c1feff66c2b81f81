//! Deferred files: they will get a record, but have no data file yet. Most files that
//! PostgreSQL creates with a table stay empty for a while, and some are removed before
//! a record could name them. So a data file is created for its first bytes, and at the
//! latest before a record that names it is committed.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::sys::statvfs::{Statvfs, fstatvfs};

use super::file::DataStat;
use super::time::now_ns;
use crate::untrusted::Dir;

/// How many files may be deferred before free space is checked again.
const ROOM_FOR: u32 = 256;

/// The free space required for so many: a full disk must fail the operation that
/// creates a file, not the one that commits it.
const FREE_BYTES: u64 = 64 << 20;
const FREE_FILES: u64 = 10 * ROOM_FOR as u64;

/// The deferred files, each with the time of its last change, in nanoseconds since the
/// epoch.
#[derive(Debug, Default)]
pub struct Unmade {
    times: Mutex<BTreeMap<u64, i64>>,
    /// How many more files may be deferred.
    room: Mutex<u32>,
}

impl Unmade {
    /// Defers a file; returns false if the file system is too full for that.
    ///
    /// # Errors
    /// If the free space cannot be determined.
    pub fn put_off(&self, ino: u64, dir: &Dir) -> io::Result<bool> {
        let mut room = self.room.lock().unwrap_or_else(PoisonError::into_inner);
        if *room == 0 && has_room(&fstatvfs(dir)?) {
            *room = ROOM_FOR;
        }
        let Some(left) = room.checked_sub(1) else {
            return Ok(false);
        };
        *room = left;
        drop(room);
        self.times().insert(ino, now_ns());
        Ok(true)
    }

    /// Returns the attributes of a deferred file.
    pub fn stat(&self, ino: u64) -> Option<DataStat> {
        let time = *self.times().get(&ino)?;
        Some(DataStat {
            len: 0,
            mtime_ns: time,
            blocks: 0,
        })
    }

    /// Sets the time of a deferred file; returns whether it is one.
    pub fn set_mtime(&self, ino: u64, mtime_ns: i64) -> bool {
        let mut times = self.times();
        let time = times.get_mut(&ino);
        time.map(|time| *time = mtime_ns).is_some()
    }

    /// Creates a deferred file by `make`, which gets its time; returns `None` if it is
    /// not deferred. Concurrent callers wait.
    ///
    /// # Errors
    /// If `make` fails; the file then stays deferred.
    pub fn made<T>(
        &self,
        ino: u64,
        make: impl FnOnce(i64) -> io::Result<T>,
    ) -> io::Result<Option<T>> {
        let mut times = self.times();
        let Some(time) = times.get(&ino) else {
            return Ok(None);
        };
        let made = make(*time)?;
        times.remove(&ino);
        Ok(Some(made))
    }

    /// Forgets a deferred file.
    pub fn forget(&self, ino: u64) {
        self.times().remove(&ino);
    }

    /// Returns all deferred files.
    pub fn all(&self) -> Vec<u64> {
        self.times().keys().copied().collect()
    }

    fn times(&self) -> MutexGuard<'_, BTreeMap<u64, i64>> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn has_room(found: &Statvfs) -> bool {
    let bytes = found
        .blocks_available()
        .saturating_mul(found.fragment_size());
    // A file system that does not count its files reports 0 of 0.
    let has_files = found.files() == 0 || found.files_available() >= FREE_FILES;
    bytes >= FREE_BYTES && has_files
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// There is no room in /proc, as on a full disk.
    #[test]
    fn without_room_nothing_is_put_off() {
        let unmade = Unmade::default();
        let full = Dir::open(Path::new("/proc")).unwrap();
        assert!(!unmade.put_off(1, &full).unwrap());
        assert_eq!(unmade.all(), [0; 0]);
        let dir = tempfile::tempdir().unwrap();
        let roomy = Dir::open(dir.path()).unwrap();
        assert!(unmade.put_off(2, &roomy).unwrap());
        assert_eq!(unmade.all(), [2]);
        // The check covers that many files.
        for ino in 0..u64::from(ROOM_FOR) - 1 {
            assert!(unmade.put_off(ino, &full).unwrap());
        }
        assert!(!unmade.put_off(1, &full).unwrap());
    }
}
