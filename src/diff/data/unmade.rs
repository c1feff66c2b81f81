//! Files that have a record to come, but no data file yet. Most that PostgreSQL
//! makes with a table stay empty for a while, and some are gone before a record
//! could name them; so a data file is made when its first bytes come, and at the
//! latest before a record is committed that names it.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::sys::statvfs::{Statvfs, fstatvfs};

use super::file::DataStat;
use super::time::now_ns;
use crate::untrusted::Dir;

/// How many files may be put off before the room for them is looked at again.
const ROOM_FOR: u32 = 256;

/// What has to be free for so many: a disk that is full is told to who makes a
/// file, and not to who commits it.
const FREE_BYTES: u64 = 64 << 20;
const FREE_FILES: u64 = 10 * ROOM_FOR as u64;

/// The files, each with the time at which it was last changed, in nanoseconds
/// since the epoch.
#[derive(Debug, Default)]
pub struct Unmade {
    times: Mutex<BTreeMap<u64, i64>>,
    /// How many more may be put off.
    room: Mutex<u32>,
}

impl Unmade {
    /// Puts a file off. Not where the file system has little room: it says so.
    ///
    /// # Errors
    /// The room cannot be looked at.
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

    /// What such a file says of itself.
    pub fn stat(&self, ino: u64) -> Option<DataStat> {
        let time = *self.times().get(&ino)?;
        Some(DataStat {
            len: 0,
            mtime_ns: time,
            ctime_ns: time,
            blocks: 0,
        })
    }

    /// Sets the time of such a file; whether it is one.
    pub fn set_mtime(&self, ino: u64, mtime_ns: i64) -> bool {
        let mut times = self.times();
        let time = times.get_mut(&ino);
        time.map(|time| *time = mtime_ns).is_some()
    }

    /// Makes such a file by `make`, which is given its time; `None` for one that is
    /// none. Whoever asks for it meanwhile waits.
    ///
    /// # Errors
    /// Those of `make`; the file stays put off then.
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

    /// Forgets such a file.
    pub fn forget(&self, ino: u64) {
        self.times().remove(&ino);
    }

    /// All of them.
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
    // A file system that does not count its files says 0 of 0.
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
        // For so many it was looked at.
        for ino in 0..u64::from(ROOM_FOR) - 1 {
            assert!(unmade.put_off(ino, &full).unwrap());
        }
        assert!(!unmade.put_off(1, &full).unwrap());
    }
}
