//! `.pbkfs-lock`: one user at a time.
//!
//! The lock is `flock`, which the kernel drops when its owner dies, so a
//! stale lock cannot exist and nothing ever needs to delete the file. Its
//! content is for people, and for `pbkfs status`.

use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::binding::BINDING_FILE;
use super::error::DiffError;

/// The lock's file name.
pub const LOCK_FILE: &str = ".pbkfs-lock";

/// Who holds a diff, as the lock file says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockHolder {
    /// The holder's process id.
    pub pid: u32,
    /// Its host.
    pub host: String,
    /// Where it mounts; empty if it does not.
    pub target: PathBuf,
}

impl fmt::Display for LockHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.pid == 0 {
            return f.write_str("another process");
        }
        write!(f, "pid {} on {}", self.pid, self.host)?;
        if self.target.as_os_str().is_empty() {
            Ok(())
        } else {
            write!(f, " (mounted at {})", self.target.display())
        }
    }
}

impl LockHolder {
    /// This process, which mounts the diff at `target`.
    #[must_use]
    pub fn this_process(target: &Path) -> Self {
        let host = nix::unistd::gethostname();
        Self {
            pid: std::process::id(),
            host: host.map_or_else(
                |_| String::new(),
                |name| name.to_string_lossy().into_owned(),
            ),
            target: target.to_owned(),
        }
    }
}

/// A held lock on a diff directory; dropping it releases.
#[derive(Debug)]
pub struct DiffLock {
    file: File,
}

impl DiffLock {
    /// Locks the diff in `root`, making the directory if it does not exist.
    ///
    /// # Errors
    /// [`DiffError::Busy`] when another process has it; [`DiffError::NotADiff`]
    /// when the directory holds other things, so that a mistyped path never
    /// gets files of ours; I/O errors.
    pub fn acquire(root: &Path, holder: &LockHolder) -> Result<Self, DiffError> {
        make_directory(root)?;
        refuse_foreign_content(root)?;
        let path = root.join(LOCK_FILE);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(nix::libc::O_NOFOLLOW)
            .open(&path)
            .map_err(|e| DiffError::io("open", &path, e))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let holder = read_holder(&mut file);
                return Err(DiffError::Busy {
                    path: root.to_owned(),
                    holder,
                });
            }
            Err(TryLockError::Error(e)) => return Err(DiffError::io("lock", &path, e)),
        }
        write_holder(&mut file, holder).map_err(|e| DiffError::io("write", &path, e))?;
        Ok(Self { file })
    }

    /// Whether somebody holds the diff in `root`, and who.
    ///
    /// # Errors
    /// I/O errors other than a missing lock file.
    pub fn holder(root: &Path) -> Result<Option<LockHolder>, DiffError> {
        let path = root.join(LOCK_FILE);
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(DiffError::io("open", &path, e)),
        };
        match file.try_lock_shared() {
            Ok(()) => Ok(None),
            Err(TryLockError::WouldBlock) => Ok(Some(read_holder(&mut file))),
            Err(TryLockError::Error(e)) => Err(DiffError::io("lock", &path, e)),
        }
    }

    /// Changes what the lock file says of its holder, say after the process
    /// that took the lock has handed it to its child.
    ///
    /// # Errors
    /// I/O errors, as they are.
    pub fn set_holder(&mut self, holder: &LockHolder) -> std::io::Result<()> {
        write_holder(&mut self.file, holder)
    }
}

impl Drop for DiffLock {
    fn drop(&mut self) {
        // Closing releases it too, but not before a child that was forked at
        // this moment has closed its copy of the descriptor.
        let _ = self.file.unlock();
    }
}

fn make_directory(root: &Path) -> Result<(), DiffError> {
    use std::os::unix::fs::DirBuilderExt;
    match fs::DirBuilder::new().mode(0o700).create(root) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(e) => Err(DiffError::io("make the directory", root, e)),
    }
}

fn refuse_foreign_content(root: &Path) -> Result<(), DiffError> {
    if root.join(BINDING_FILE).exists() || root.join(LOCK_FILE).exists() {
        return Ok(());
    }
    let mut entries = fs::read_dir(root).map_err(|e| DiffError::io("list", root, e))?;
    match entries.find(|e| e.as_ref().map_or(true, |e| e.file_name() != "lost+found")) {
        None => Ok(()),
        Some(Ok(_)) => Err(DiffError::NotADiff {
            path: root.to_owned(),
        }),
        Some(Err(e)) => Err(DiffError::io("list", root, e)),
    }
}

fn write_holder(file: &mut File, holder: &LockHolder) -> std::io::Result<()> {
    let mut text = serde_json::to_vec(holder)?;
    text.push(b'\n');
    file.rewind()?;
    file.set_len(0)?;
    file.write_all(&text)
}

/// The text may be half-written or from another version; the lock itself is
/// what counts, so an unreadable holder is an unknown one.
fn read_holder(file: &mut File) -> LockHolder {
    let mut text = String::new();
    let read = file
        .rewind()
        .and_then(|()| file.take(64 * 1024).read_to_string(&mut text));
    match read {
        Ok(_) => serde_json::from_str(&text).unwrap_or_default(),
        Err(_) => LockHolder::default(),
    }
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn a_directory_with_other_things_gets_no_files_of_ours() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("precious"), b"x").unwrap();
        let error = DiffLock::acquire(dir.path(), &holder()).unwrap_err();
        assert!(matches!(error, DiffError::NotADiff { .. }), "{error}");
        assert!(!dir.path().join(LOCK_FILE).exists());
    }

    #[test]
    fn a_symlink_in_the_lock_files_place_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let elsewhere = dir.path().join("elsewhere");
        fs::write(&elsewhere, b"precious").unwrap();
        let root = dir.path().join("diff");
        fs::create_dir(&root).unwrap();
        std::os::unix::fs::symlink(&elsewhere, root.join(LOCK_FILE)).unwrap();
        assert!(DiffLock::acquire(&root, &holder()).is_err());
        assert_eq!(fs::read(&elsewhere).unwrap(), b"precious");
    }
}
