//! pg_probackup's shared lock on a backup: the one thing that we ever write
//! into the catalog.
//!
//! Each backup's directory may hold two files:
//!
//! ```text
//! backup.pid      the exclusive lock: "PID\n", created with O_EXCL
//! backup_ro.pid   the readers: "PID\n" each, replaced through backup_ro.pidtmp
//! ```
//!
//! A reader takes `backup.pid` for a moment, enters itself into
//! `backup_ro.pid`, and gives `backup.pid` back. Who wants to change the backup
//! (delete, merge) takes `backup.pid` and waits until every listed reader is
//! gone. A lock whose process is dead counts for nothing. Source: pg_probackup's
//! `src/catalog.c` (`lock_backup` and what it calls).
//!
//! The pids mean something only on the host, and in the PID namespace, that
//! wrote them. They should belong to the catalog's owner: pg_probackup, run by
//! another user, cannot tell whether a process lives that it may not signal,
//! and gives up (EPERM).

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;

const EXCLUSIVE_FILE: &str = "backup.pid";
const READERS_FILE: &str = "backup_ro.pid";
const READERS_TEMP_FILE: &str = "backup_ro.pidtmp";

/// How long an empty `backup.pid` is left alone: its owner has created it and
/// is about to write its pid, unless the system crashed in between.
const EMPTY_IS_STALE_AFTER: Duration = Duration::from_secs(30);

/// How often a busy lock is tried again. pg_probackup itself sleeps a second;
/// readers hold the exclusive lock for less than a millisecond.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// How long a lock that is dropped, not released, waits for the exclusive lock.
const WAIT_IN_DROP: Duration = Duration::from_secs(2);

/// What came of asking for a lock.
#[derive(Debug)]
#[must_use = "the lock is released when this is dropped"]
pub enum LockOutcome {
    /// The lock is held.
    Held(ReadLock),
    /// The catalog is on a read-only file system. As in pg_probackup this
    /// counts as granted: nobody can change the backup through this mount.
    ReadOnly,
}

/// A backup could not be locked, or a lock not released.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process holds the exclusive lock and keeps it.
    #[error(
        "backup {} is in use by {} for a change (delete, merge or backup); \
         waited {} s for it; try again when that has ended",
        dir.display(),
        holder_words(*holder),
        waited.as_secs_f32()
    )]
    Busy {
        /// The backup's directory.
        dir: PathBuf,
        /// The process, if its pid could be read.
        holder: Option<u32>,
        /// How long was waited for it.
        waited: Duration,
    },

    /// A lock file names a process of another user, of which nobody can tell
    /// whether it is still the one that took the lock.
    #[error(
        "{} names process {pid}, which belongs to another user, so whether the lock is still \
         in use cannot be told: run as that user, or make sure that no pg_probackup works on \
         this backup and remove the file",
        file.display()
    )]
    ForeignHolder {
        /// The lock file.
        file: PathBuf,
        /// The process.
        pid: u32,
    },

    /// The backup's directory may not be written by this user.
    #[error(
        "no permission to lock backup {} against pg_probackup's delete and merge",
        dir.display()
    )]
    NoPermission {
        /// The backup's directory.
        dir: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },

    /// The process that is to hold the lock does not exist.
    #[error("process {pid}, which is to hold the lock on backup {}, does not exist", dir.display())]
    NoSuchProcess {
        /// The backup's directory.
        dir: PathBuf,
        /// The process.
        pid: u32,
    },

    /// A lock file could not be read, written or removed.
    #[error("cannot use the lock file {}", file.display())]
    Io {
        /// The lock file.
        file: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

fn holder_words(holder: Option<u32>) -> String {
    match holder {
        Some(pid) => format!("process {pid}"),
        None => "another process".to_owned(),
    }
}

/// A shared lock on one backup. Released by [`release`](Self::release); if
/// that was not called, as well as may be when it is dropped.
#[derive(Debug)]
pub struct ReadLock {
    dir: PathBuf,
    holder: Holder,
    wait: Duration,
    released: bool,
}

impl ReadLock {
    /// Enters `pid` as a reader of the backup in `backup_dir`, waiting up to
    /// `wait` while another process changes it. The process must live as long
    /// as the lock shall. It can hold one lock on a backup, not two.
    ///
    /// # Errors
    /// [`LockError::Busy`] when the time is up; [`LockError::NoPermission`] if
    /// the directory may not be written, which a caller may take as a reason to
    /// go on without; or any other failure. No lock file is left behind.
    pub fn acquire(backup_dir: &Path, pid: u32, wait: Duration) -> Result<LockOutcome, LockError> {
        let holder = Holder::alive(backup_dir, pid)?;
        match Self::enter(backup_dir, holder, Patience::of(wait)) {
            Err(error) if is_read_only(&error) => {
                tracing::warn!(
                    backup = %backup_dir.display(),
                    "not locked: the catalog is on a read-only file system"
                );
                Ok(LockOutcome::ReadOnly)
            }
            other => other.map(LockOutcome::Held),
        }
    }

    /// The backup's directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Gives the lock back: drops the own pid and those of dead processes, and
    /// removes the list when none is left.
    ///
    /// # Errors
    /// If the exclusive lock cannot be had in the time given when the lock was
    /// acquired, or a file cannot be written. The entry then stays, and goes
    /// stale when the process ends.
    pub fn release(mut self) -> Result<(), LockError> {
        self.leave(Patience::of(self.wait))
    }

    fn enter(dir: &Path, holder: Holder, patience: Patience) -> Result<Self, LockError> {
        let exclusive = ExclusiveLock::take(dir, holder, patience)?;
        let mut readers = read_readers(dir, holder, Foreign::Refuse)?;
        readers.push(holder.0);
        write_readers(dir, &readers)?;
        // From here on a failure is undone by this value's drop.
        let lock = Self {
            dir: dir.to_owned(),
            holder,
            wait: patience.busy,
            released: false,
        };
        exclusive.give_back()?;
        Ok(lock)
    }

    fn leave(&mut self, patience: Patience) -> Result<(), LockError> {
        // Whatever happens, once is enough: drop shall not try again.
        self.released = true;
        let exclusive = ExclusiveLock::take(&self.dir, self.holder, patience)?;
        let readers = read_readers(&self.dir, self.holder, Foreign::Keep)?;
        write_readers(&self.dir, &readers)?;
        exclusive.give_back()
    }
}

impl Drop for ReadLock {
    fn drop(&mut self) {
        if self.released {
            return;
        }
        if let Err(error) = self.leave(Patience::of(WAIT_IN_DROP)) {
            tracing::warn!(
                backup = %self.dir.display(),
                error = &error as &dyn std::error::Error,
                "the lock's entry stays until its process ends"
            );
        }
    }
}

/// Locks every member of a chain, in the order given: the FULL first, as
/// pg_probackup's restore does. `wait` counts for each member. On failure those
/// already locked are released, the last first.
///
/// # Errors
/// As [`ReadLock::acquire`], for the member that could not be locked.
pub fn lock_chain(
    dirs: &[PathBuf],
    pid: u32,
    wait: Duration,
) -> Result<Vec<LockOutcome>, LockError> {
    let mut held = Vec::with_capacity(dirs.len());
    for dir in dirs {
        match ReadLock::acquire(dir, pid, wait) {
            Ok(outcome) => held.push(outcome),
            Err(error) => {
                while let Some(outcome) = held.pop() {
                    drop(outcome);
                }
                return Err(error);
            }
        }
    }
    Ok(held)
}

/// A process that holds, or is to hold, a lock; always positive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Holder(i32);

impl Holder {
    fn alive(dir: &Path, pid: u32) -> Result<Self, LockError> {
        let holder = i32::try_from(pid).ok().filter(|&pid| pid > 0).map(Self);
        match holder {
            Some(holder) if holder.liveness() != Liveness::Dead => Ok(holder),
            _ => Err(LockError::NoSuchProcess {
                dir: dir.to_owned(),
                pid,
            }),
        }
    }

    /// The pid at the start of `text`, as C's `atoi` reads it, which is what
    /// pg_probackup uses.
    fn parse(text: &[u8]) -> Option<Self> {
        let text = text.trim_ascii_start();
        let digits = text.iter().take_while(|b| b.is_ascii_digit()).count();
        let number = str::from_utf8(text.get(..digits)?).ok()?.parse().ok()?;
        (number > 0).then_some(Self(number))
    }

    fn liveness(self) -> Liveness {
        match kill(Pid::from_raw(self.0), None) {
            Ok(()) => Liveness::Alive,
            Err(Errno::ESRCH) => Liveness::Dead,
            Err(_) => Liveness::Foreign,
        }
    }

    fn number(self) -> u32 {
        self.0.unsigned_abs()
    }

    fn foreign_in(self, file: PathBuf) -> LockError {
        let pid = self.number();
        LockError::ForeignHolder { file, pid }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Liveness {
    Alive,
    Dead,
    /// Alive, but another user's (EPERM).
    Foreign,
}

/// How long to wait for what.
#[derive(Debug, Clone, Copy)]
struct Patience {
    busy: Duration,
    /// Counted apart, as in pg_probackup: an empty file does not use up the
    /// time for a busy one.
    empty: Duration,
    poll: Duration,
}

impl Patience {
    fn of(busy: Duration) -> Self {
        Self {
            busy,
            empty: EMPTY_IS_STALE_AFTER,
            poll: POLL_INTERVAL,
        }
    }
}

/// `backup.pid`, removed when this goes out of scope, whatever the reason.
struct ExclusiveLock {
    dir: PathBuf,
    held: bool,
}

/// What is found where `backup.pid` could not be created.
enum Occupant {
    /// Held by a living process, if its pid is known: the file may have gone
    /// before it could be read.
    Busy(Option<Holder>),
    /// Just created, or left so by a crash.
    Empty,
    /// Of no meaning any more, for this reason.
    Stale(&'static str),
}

impl ExclusiveLock {
    fn take(dir: &Path, holder: Holder, patience: Patience) -> Result<Self, LockError> {
        let path = dir.join(EXCLUSIVE_FILE);
        let (mut busy, mut empty) = (Duration::ZERO, Duration::ZERO);
        loop {
            if let Some(lock) = Self::try_create(dir, &path, holder)? {
                return Ok(lock);
            }
            match Self::occupant(dir, &path, holder)? {
                Occupant::Stale(why) => {
                    remove_stale(dir, &path, why)?;
                    continue;
                }
                Occupant::Empty if empty >= patience.empty => {
                    remove_stale(dir, &path, "it has been empty for long")?;
                    continue;
                }
                Occupant::Busy(by) if busy >= patience.busy => {
                    return Err(LockError::Busy {
                        dir: dir.to_owned(),
                        holder: by.map(Holder::number),
                        waited: busy,
                    });
                }
                Occupant::Empty => empty += patience.poll,
                Occupant::Busy(_) => busy += patience.poll,
            }
            thread::sleep(patience.poll);
        }
    }

    /// `None` if the file exists.
    fn try_create(dir: &Path, path: &Path, holder: Holder) -> Result<Option<Self>, LockError> {
        let opened = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path);
        let mut file = match opened {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(None),
            Err(error) => return Err(file_error(dir, path, error)),
        };
        let lock = Self {
            dir: dir.to_owned(),
            held: true,
        };
        // Not synced: after a crash of the system any content is stale.
        writeln!(file, "{}", holder.0).map_err(|error| file_error(dir, path, error))?;
        Ok(Some(lock))
    }

    fn occupant(dir: &Path, path: &Path, own: Holder) -> Result<Occupant, LockError> {
        let text = match fs::read(path) {
            Ok(text) if text.is_empty() => return Ok(Occupant::Empty),
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Occupant::Busy(None));
            }
            Err(error) => return Err(file_error(dir, path, error)),
        };
        let Some(other) = Holder::parse(&text) else {
            return Ok(Occupant::Stale("it names no process"));
        };
        if other == own {
            return Ok(Occupant::Stale(
                "it was left by an earlier process of our number",
            ));
        }
        match other.liveness() {
            Liveness::Alive => Ok(Occupant::Busy(Some(other))),
            Liveness::Dead => Ok(Occupant::Stale("its process is gone")),
            Liveness::Foreign => Err(other.foreign_in(path.to_owned())),
        }
    }

    fn give_back(mut self) -> Result<(), LockError> {
        self.held = false;
        remove(&self.dir, &self.dir.join(EXCLUSIVE_FILE))
    }
}

impl Drop for ExclusiveLock {
    fn drop(&mut self) {
        if self.held
            && let Err(error) = remove(&self.dir, &self.dir.join(EXCLUSIVE_FILE))
        {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "the exclusive lock stays until this process ends"
            );
        }
    }
}

fn remove_stale(dir: &Path, path: &Path, why: &str) -> Result<(), LockError> {
    tracing::warn!(file = %path.display(), "removing a stale lock: {why}");
    remove(dir, path)
}

fn remove(dir: &Path, path: &Path) -> Result<(), LockError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(file_error(dir, path, error)),
        _ => Ok(()),
    }
}

/// What to do about a listed reader of another user.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Foreign {
    Refuse,
    Keep,
}

/// The living readers other than `own`, in the order listed.
fn read_readers(dir: &Path, own: Holder, foreign: Foreign) -> Result<Vec<i32>, LockError> {
    let path = dir.join(READERS_FILE);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(file_error(dir, &path, error)),
    };
    let mut living = Vec::new();
    for line in text.split(|&b| b == b'\n').filter(|line| !line.is_empty()) {
        let Some(reader) = Holder::parse(line) else {
            tracing::warn!(file = %path.display(), "dropping a line that names no process");
            continue;
        };
        if reader == own {
            continue;
        }
        match reader.liveness() {
            Liveness::Dead => {}
            Liveness::Foreign if foreign == Foreign::Refuse => {
                return Err(reader.foreign_in(path));
            }
            Liveness::Alive | Liveness::Foreign => living.push(reader.0),
        }
    }
    Ok(living)
}

/// Replaces the list; an empty one is removed.
fn write_readers(dir: &Path, readers: &[i32]) -> Result<(), LockError> {
    let path = dir.join(READERS_FILE);
    if readers.is_empty() {
        return remove(dir, &path);
    }
    let temp = dir.join(READERS_TEMP_FILE);
    let text: String = readers.iter().map(|pid| format!("{pid}\n")).collect();
    let written = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temp)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .and_then(|()| fs::rename(&temp, &path));
    written.map_err(|error| {
        // If this fails as well, the next writer overwrites the file.
        let _ = fs::remove_file(&temp);
        file_error(dir, &path, error)
    })
}

fn file_error(dir: &Path, file: &Path, source: io::Error) -> LockError {
    if source.kind() == io::ErrorKind::PermissionDenied {
        let dir = dir.to_owned();
        LockError::NoPermission { dir, source }
    } else {
        let file = file.to_owned();
        LockError::Io { file, source }
    }
}

fn is_read_only(error: &LockError) -> bool {
    matches!(error, LockError::Io { source, .. }
        if source.kind() == io::ErrorKind::ReadOnlyFilesystem)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::os::unix::fs::PermissionsExt;
    use std::process::{Child, Command};
    use std::time::Instant;

    use super::*;

    const SHORT: Duration = Duration::from_millis(300);

    /// A process that lives until the test ends.
    struct Sleeper(Child);

    impl Sleeper {
        fn start() -> Self {
            Self(Command::new("sleep").arg("1000").spawn().unwrap())
        }

        fn pid(&self) -> u32 {
            self.0.id()
        }
    }

    impl Drop for Sleeper {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    /// The pid of a process that was there and is reaped.
    fn dead_pid() -> u32 {
        let mut child = Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        child.id()
    }

    fn backup_dir() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("backup.control"), "status = OK\n").unwrap();
        dir
    }

    fn acquire(dir: &Path, pid: u32) -> Result<ReadLock, LockError> {
        match ReadLock::acquire(dir, pid, SHORT)? {
            LockOutcome::Held(lock) => Ok(lock),
            LockOutcome::ReadOnly => panic!("not a read-only file system"),
        }
    }

    fn readers(dir: &Path) -> String {
        fs::read_to_string(dir.join(READERS_FILE)).unwrap()
    }

    /// All files and their bytes.
    fn snapshot(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
        fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .map(|path| (path.clone(), fs::read(path).unwrap()))
            .collect()
    }

    #[test]
    fn two_holders_share_and_leave_nothing_behind() {
        let dir = backup_dir();
        let before = snapshot(dir.path());
        let (one, two) = (Sleeper::start(), Sleeper::start());
        let first = acquire(dir.path(), one.pid()).unwrap();
        let second = acquire(dir.path(), two.pid()).unwrap();
        assert_eq!(
            readers(dir.path()),
            format!("{}\n{}\n", one.pid(), two.pid())
        );
        let mode = fs::metadata(dir.path().join(READERS_FILE))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(!dir.path().join(EXCLUSIVE_FILE).exists());
        assert!(!dir.path().join(READERS_TEMP_FILE).exists());

        first.release().unwrap();
        assert_eq!(readers(dir.path()), format!("{}\n", two.pid()));
        second.release().unwrap();
        assert_eq!(snapshot(dir.path()), before);
    }

    #[test]
    fn dropping_releases() {
        let dir = backup_dir();
        let before = snapshot(dir.path());
        drop(acquire(dir.path(), std::process::id()).unwrap());
        assert_eq!(snapshot(dir.path()), before);
    }

    #[test]
    fn dead_and_meaningless_readers_are_dropped() {
        let dir = backup_dir();
        let before = snapshot(dir.path());
        let alive = Sleeper::start();
        let list = format!("{}\nnonsense\n0\n-1\n{}\n", dead_pid(), alive.pid());
        fs::write(dir.path().join(READERS_FILE), list).unwrap();
        let lock = acquire(dir.path(), std::process::id()).unwrap();
        let wanted = format!("{}\n{}\n", alive.pid(), std::process::id());
        assert_eq!(readers(dir.path()), wanted);
        drop(alive);
        lock.release().unwrap();
        assert_eq!(snapshot(dir.path()), before);
    }

    #[test]
    fn a_stale_exclusive_lock_is_taken_over_at_once() {
        let own = std::process::id();
        for left in [
            dead_pid().to_string(),
            "nonsense\n".to_owned(),
            "0".to_owned(),
            own.to_string(),
        ] {
            let dir = backup_dir();
            let before = snapshot(dir.path());
            fs::write(dir.path().join(EXCLUSIVE_FILE), &left).unwrap();
            let lock = ReadLock::acquire(dir.path(), own, Duration::ZERO).unwrap();
            assert_eq!(readers(dir.path()), format!("{own}\n"), "{left}");
            drop(lock);
            assert_eq!(snapshot(dir.path()), before, "{left}");
        }
    }

    #[test]
    fn an_empty_exclusive_lock_is_given_its_time_and_no_more() {
        let dir = backup_dir();
        let path = dir.path().join(EXCLUSIVE_FILE);
        fs::write(&path, "").unwrap();
        let patience = Patience {
            busy: Duration::ZERO,
            empty: SHORT,
            poll: Duration::from_millis(20),
        };
        let started = Instant::now();
        let holder = Holder::alive(dir.path(), std::process::id()).unwrap();
        let lock = ExclusiveLock::take(dir.path(), holder, patience).unwrap();
        assert!(started.elapsed() >= SHORT);
        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            format!("{}\n", std::process::id())
        );
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        drop(lock);
        assert!(!path.exists());
    }

    #[test]
    fn a_busy_lock_is_waited_for_then_its_holder_named() {
        let dir = backup_dir();
        let holder = Sleeper::start();
        let path = dir.path().join(EXCLUSIVE_FILE);
        fs::write(&path, format!("{}\n", holder.pid())).unwrap();
        let before = snapshot(dir.path());

        let started = Instant::now();
        let error = acquire(dir.path(), std::process::id()).unwrap_err();
        assert!(started.elapsed() >= SHORT);
        let named = format!("in use by process {}", holder.pid());
        assert!(error.to_string().contains(&named), "{error}");
        assert_eq!(snapshot(dir.path()), before);

        thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(SHORT);
                fs::remove_file(&path).unwrap();
            });
            let long = Duration::from_secs(30);
            let lock = ReadLock::acquire(dir.path(), std::process::id(), long).unwrap();
            assert!(matches!(lock, LockOutcome::Held(_)));
        });
    }

    #[test]
    fn a_process_that_does_not_exist_can_hold_nothing() {
        let dir = backup_dir();
        let before = snapshot(dir.path());
        for pid in [dead_pid(), 0, u32::MAX] {
            let error = acquire(dir.path(), pid).unwrap_err();
            assert!(matches!(error, LockError::NoSuchProcess { .. }), "{error}");
        }
        assert_eq!(snapshot(dir.path()), before);
    }

    #[test]
    fn a_failure_after_the_exclusive_lock_gives_it_back() {
        let dir = backup_dir();
        // A directory in the list's place: it can be neither read nor replaced.
        fs::create_dir(dir.path().join(READERS_FILE)).unwrap();
        let error = acquire(dir.path(), std::process::id()).unwrap_err();
        assert!(error.to_string().ends_with(READERS_FILE), "{error}");
        fs::remove_dir(dir.path().join(READERS_FILE)).unwrap();
        fs::create_dir(dir.path().join(READERS_TEMP_FILE)).unwrap();
        let error = acquire(dir.path(), std::process::id()).unwrap_err();
        assert!(matches!(error, LockError::Io { .. }), "{error}");
        assert!(!dir.path().join(EXCLUSIVE_FILE).exists());
        assert!(!dir.path().join(READERS_FILE).exists());
    }

    #[test]
    fn a_chain_is_locked_as_a_whole_or_not_at_all() {
        let dirs: Vec<tempfile::TempDir> = (0..3).map(|_| backup_dir()).collect();
        let paths: Vec<PathBuf> = dirs.iter().map(|dir| dir.path().to_owned()).collect();
        let before: Vec<_> = paths.iter().map(|dir| snapshot(dir)).collect();
        let now = || paths.iter().map(|dir| snapshot(dir)).collect::<Vec<_>>();

        let locks = lock_chain(&paths, std::process::id(), SHORT).unwrap();
        assert_eq!(locks.len(), 3);
        for path in &paths {
            assert_eq!(readers(path), format!("{}\n", std::process::id()));
        }
        drop(locks);
        assert_eq!(now(), before);

        let holder = Sleeper::start();
        let busy = paths[2].join(EXCLUSIVE_FILE);
        fs::write(&busy, format!("{}\n", holder.pid())).unwrap();
        let error = lock_chain(&paths, std::process::id(), SHORT).unwrap_err();
        assert!(
            matches!(&error, LockError::Busy { dir, .. } if *dir == paths[2]),
            "{error}"
        );
        fs::remove_file(&busy).unwrap();
        assert_eq!(now(), before);
    }

    /// Runs one of this file's `#[ignore]`d scenarios as the user `nobody`.
    #[test]
    fn permission_and_read_only_errors_are_told_apart() {
        let denied = |code| file_error(Path::new("/b"), Path::new("/b/f"), code);
        let eacces = denied(io::Error::from_raw_os_error(Errno::EACCES as i32));
        assert!(matches!(eacces, LockError::NoPermission { .. }));
        assert!(!is_read_only(&eacces));
        let erofs = denied(io::Error::from_raw_os_error(Errno::EROFS as i32));
        assert!(is_read_only(&erofs));
    }
}
