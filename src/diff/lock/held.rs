//! Acquiring the lock, holding it, and finding its holder.

use std::fs::{File, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::holder::LockHolder;
use crate::diff::directory::Root;
use crate::diff::error::DiffError;
use crate::diff::layout::LOCK_FILE;
use crate::untrusted::found;

/// How long to wait for the server of a dead owner. A server in namespaces is killed
/// ten seconds after its owner.
const HOLDER_GRACE: Duration = Duration::from_secs(15);

/// The interval between attempts to lock.
const POLL: Duration = Duration::from_millis(50);

/// The most that is read of a lock file, in bytes.
const TEXT_LIMIT: u64 = 64 << 10;

/// A held lock on a diff directory, released on drop.
#[derive(Debug)]
pub struct DiffLock {
    file: File,
    root: Arc<Root>,
}

impl DiffLock {
    /// Locks the diff in `root`, creating the directory for this user alone if it does
    /// not exist. If the previous owner has died, waits for its server to exit.
    ///
    /// # Errors
    /// Returns [`DiffError::Busy`] if another process holds the lock;
    /// [`DiffError::HeldByServer`] if a dead owner's server does not exit;
    /// [`DiffError::NotADiff`] if the directory holds other things, so that a mistyped
    /// path never gets files of ours; [`DiffError::Foreign`] or [`DiffError::Linked`]
    /// if the lock file is not a file of its own; and I/O errors.
    pub fn acquire(root: &Path, holder: &LockHolder) -> Result<Self, DiffError> {
        Self::acquire_in(Arc::new(Root::open_or_make(root)?), holder)
    }

    /// Locks a diff whose directory must not exist yet.
    ///
    /// # Errors
    /// If the path exists, and as for [`DiffLock::acquire`].
    pub fn acquire_new(root: &Path, holder: &LockHolder) -> Result<Self, DiffError> {
        Self::acquire_in(Arc::new(Root::make(root)?), holder)
    }

    /// Locks a diff whose directory is already open.
    pub(in crate::diff) fn acquire_in(
        root: Arc<Root>,
        holder: &LockHolder,
    ) -> Result<Self, DiffError> {
        Self::acquire_within(HOLDER_GRACE, root, holder)
    }

    fn acquire_within(
        patience: Duration,
        root: Arc<Root>,
        holder: &LockHolder,
    ) -> Result<Self, DiffError> {
        root.refuse_foreign_content()?;
        let mut file = root.open_or_create(LOCK_FILE)?;
        lock(&mut file, &root, patience)?;
        write_holder(&mut file, holder)
            .map_err(|e| DiffError::io("write", &root.join(LOCK_FILE), e))?;
        Ok(Self { file, root })
    }

    /// Returns the diff's directory.
    pub(in crate::diff) fn root(&self) -> &Arc<Root> {
        &self.root
    }

    /// Returns the holder of the diff in `root`; `None` if nobody holds it.
    ///
    /// # Errors
    /// Returns I/O errors other than a missing lock file, and [`DiffError::Foreign`] if
    /// the lock file is not a file.
    pub fn holder(root: &Path) -> Result<Option<LockHolder>, DiffError> {
        let Some(root) = Root::find(root)? else {
            return Ok(None);
        };
        let path = root.join(LOCK_FILE);
        let file = found(root.dir().file(LOCK_FILE));
        let Some(mut file) = file.map_err(|e| DiffError::io("open", &path, e))? else {
            return Ok(None);
        };
        match file.try_lock_shared() {
            Ok(()) => Ok(None),
            Err(TryLockError::WouldBlock) => Ok(Some(read_holder(&mut file))),
            Err(TryLockError::Error(e)) => Err(DiffError::io("lock", &path, e)),
        }
    }

    /// Duplicates the descriptor, with close-on-exec set. The diff stays locked until
    /// all duplicates are closed, or the lock is dropped.
    ///
    /// # Errors
    /// If the system call fails.
    pub fn share(&self) -> std::io::Result<OwnedFd> {
        Ok(self.file.try_clone()?.into())
    }
}

impl Drop for DiffLock {
    fn drop(&mut self) {
        // Closing also releases the lock, but only with the last duplicate. A child
        // that is being forked right now may have one, or a process that the server
        // left behind. The server itself must have exited.
        let _ = self.file.unlock();
    }
}

/// Locks the file, waiting only for the server of a dead owner.
fn lock(file: &mut File, root: &Root, patience: Duration) -> Result<(), DiffError> {
    let deadline = Instant::now() + patience;
    let mut told = false;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(e)) => {
                return Err(DiffError::io("lock", &root.join(LOCK_FILE), e));
            }
        }
        // Read it again each time: another process may have been faster.
        let (path, holder) = (root.path().to_owned(), read_holder(file));
        if !holder.has_died() {
            return Err(DiffError::Busy { path, holder });
        }
        if Instant::now() >= deadline {
            return Err(DiffError::HeldByServer { path, holder });
        }
        if !told {
            tracing::info!("{holder} has died; waiting for its server to end");
            told = true;
        }
        thread::sleep(POLL);
    }
}

fn write_holder(file: &mut File, holder: &LockHolder) -> std::io::Result<()> {
    let mut text = serde_json::to_vec(holder)?;
    text.push(b'\n');
    file.rewind()?;
    file.set_len(0)?;
    file.write_all(&text)
}

/// Reads the holder. The text may be half-written or from another version. Only the
/// lock itself counts, so an unreadable holder is an unknown one.
fn read_holder(file: &mut File) -> LockHolder {
    let mut text = String::new();
    let read = file
        .rewind()
        .and_then(|()| file.take(TEXT_LIMIT).read_to_string(&mut text));
    let holder: Option<LockHolder> = read.ok().and_then(|_| serde_json::from_str(&text).ok());
    // It is shown to people, and anybody may have written it.
    let is_plain = |holder: &LockHolder| !holder.to_string().contains(char::is_control);
    holder.filter(is_plain).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::AsRawFd;
    use std::process::{Command, Stdio};

    use nix::sys::stat::Mode;

    use super::*;

    fn holder() -> LockHolder {
        LockHolder {
            pid: 42,
            host: "db1".into(),
            target: "/srv/clone".into(),
        }
    }

    #[test]
    fn the_second_is_refused_and_told_who_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("diff");
        let held = DiffLock::acquire(&root, &holder()).unwrap();
        let error = DiffLock::acquire(&root, &holder()).unwrap_err();
        assert!(error.to_string().contains("pid 42 on db1"), "{error}");
        assert_eq!(DiffLock::holder(&root).unwrap(), Some(holder()));
        drop(held);
        assert_eq!(DiffLock::holder(&root).unwrap(), None);
        DiffLock::acquire(&root, &holder()).unwrap();
    }

    /// On this host, and reaped.
    fn dead_holder() -> LockHolder {
        let mut process = Command::new("true").spawn().unwrap();
        process.wait().unwrap();
        LockHolder {
            pid: process.id(),
            ..LockHolder::this_process(Path::new("/srv/clone"))
        }
    }

    /// Acts like the kernel when it kills a process.
    fn close_without_unlocking(lock: DiffLock) {
        nix::unistd::close(lock.file.as_raw_fd()).unwrap();
        std::mem::forget(lock);
    }

    #[test]
    fn the_server_of_a_dead_owner_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("diff");
        let lock = DiffLock::acquire(&root, &dead_holder()).unwrap();
        let ended = dir.path().join("ended");
        let mut server = Command::new("sh")
            .args(["-c", "sleep 1; touch \"$1\"", "sh"])
            .arg(&ended)
            .stdin(Stdio::from(lock.share().unwrap()))
            .spawn()
            .unwrap();
        close_without_unlocking(lock);
        let opened = Arc::new(Root::open(&root).unwrap());
        let error = DiffLock::acquire_within(Duration::ZERO, opened, &holder()).unwrap_err();
        assert!(matches!(error, DiffError::HeldByServer { .. }), "{error}");
        assert!(!ended.exists());
        let lock = DiffLock::acquire(&root, &holder()).unwrap();
        assert!(ended.exists(), "it was not waited for");
        server.wait().unwrap();
        assert_eq!(DiffLock::holder(&root).unwrap(), Some(holder()));
        drop(lock);
    }

    #[test]
    fn a_lock_that_is_dropped_is_free_whoever_has_a_copy() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("diff");
        let lock = DiffLock::acquire(&root, &holder()).unwrap();
        let _copy = lock.share().unwrap();
        drop(lock);
        DiffLock::acquire(&root, &holder()).unwrap();
    }

    #[test]
    fn a_process_of_this_host_has_died_even_if_its_parent_does_not_look() {
        assert!(dead_holder().has_died());
        let alive = LockHolder::this_process(Path::new(""));
        assert!(!alive.has_died());
        let elsewhere = LockHolder {
            host: "elsewhere.invalid".to_owned(),
            ..dead_holder()
        };
        assert!(!elsewhere.has_died());
        assert!(!LockHolder::default().has_died());

        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let zombie = LockHolder {
            pid: child.id(),
            ..alive
        };
        assert!(!zombie.has_died());
        drop(child.stdin.take());
        while !zombie.has_died() {
            thread::sleep(POLL);
        }
        child.wait().unwrap();
    }

    #[test]
    fn a_directory_with_other_things_gets_no_files_of_ours() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("precious"), b"x").unwrap();
        let error = DiffLock::acquire(dir.path(), &holder()).unwrap_err();
        assert!(matches!(error, DiffError::NotADiff { .. }), "{error}");
        assert!(!dir.path().join(LOCK_FILE).exists());
    }

    /// Puts something at the first path; it may point to the second.
    type Trap = fn(&Path, &Path);

    /// Opening any of these would block, or would overwrite its target.
    #[test]
    fn what_is_no_lock_file_is_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let elsewhere = dir.path().join("elsewhere");
        fs::write(&elsewhere, b"precious").unwrap();
        let root = dir.path().join("diff");
        let traps: [(&str, Trap); 4] = [
            ("a link", |at, to| {
                std::os::unix::fs::symlink(to, at).unwrap();
            }),
            ("/dev/zero", |at, _| {
                std::os::unix::fs::symlink("/dev/zero", at).unwrap();
            }),
            ("a pipe", |at, _| {
                nix::unistd::mkfifo(at, Mode::S_IRWXU).unwrap();
            }),
            ("a directory", |at, _| fs::create_dir(at).unwrap()),
        ];
        for (what, make) in traps {
            fs::create_dir(&root).unwrap();
            make(&root.join(LOCK_FILE), &elsewhere);
            for error in [
                DiffLock::acquire(&root, &holder()).unwrap_err(),
                DiffLock::holder(&root).unwrap_err(),
            ] {
                assert!(
                    matches!(error, DiffError::Foreign { .. }),
                    "{what}: {error}"
                );
            }
            fs::remove_dir_all(&root).unwrap();
        }
        assert_eq!(fs::read(&elsewhere).unwrap(), b"precious");
    }

    /// The holder would be written to both files.
    #[test]
    fn a_lock_file_with_another_name_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let elsewhere = dir.path().join("elsewhere");
        fs::write(&elsewhere, b"precious").unwrap();
        let root = dir.path().join("diff");
        fs::create_dir(&root).unwrap();
        fs::hard_link(&elsewhere, root.join(LOCK_FILE)).unwrap();
        let error = DiffLock::acquire(&root, &holder()).unwrap_err();
        assert!(matches!(error, DiffError::Linked { .. }), "{error}");
        assert_eq!(fs::read(&elsewhere).unwrap(), b"precious");
    }

    #[test]
    fn a_holder_has_no_words_for_the_terminal() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("diff");
        let mut lock = DiffLock::acquire(&root, &holder()).unwrap();
        let mut loud = holder();
        loud.host = "db1\u{1b}[2J".to_owned();
        write_holder(&mut lock.file, &loud).unwrap();
        let error = DiffLock::acquire(&root, &holder()).unwrap_err();
        assert!(error.to_string().contains("another process"), "{error}");
        // An endless text is read up to a limit.
        File::options()
            .write(true)
            .open(root.join(LOCK_FILE))
            .unwrap()
            .set_len(1 << 40)
            .unwrap();
        let seen = DiffLock::holder(&root).unwrap();
        assert_eq!(seen, Some(LockHolder::default()));
    }

    #[test]
    fn a_throw_away_diff_is_never_one_that_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("diff");
        drop(DiffLock::acquire_new(&root, &holder()).unwrap());
        assert!(DiffLock::acquire_new(&root, &holder()).is_err());
        DiffLock::acquire(&root, &holder()).unwrap();
    }
}
