//! The session's directory, one for each target:
//!
//! ```text
//! RUN/NAME-HASH/session.lock    locked (flock) by the session's owner
//! RUN/NAME-HASH/session.json    its state
//! RUN/NAME-HASH/pbkfs.log       log of a detached pbkfs
//! RUN/NAME-HASH/control.sock    where its owner answers questions
//! RUN/NAME-HASH/server.log      PostgreSQL's log
//! RUN/NAME-HASH/wal.sock        where its owner opens WAL files for the server
//! RUN/NAME-HASH/socket/         PostgreSQL's socket
//! RUN/NAME-HASH/wal/            prefetched WAL segments
//! RUN/NAME-HASH/*.conf          PostgreSQL's generated configuration
//! ```
//! The lock proves that the owner is alive: it is released when the owner exits.
//!
//! RUN is described in [`run_root`]. A session's directory is closed to all other users
//! except those in the server's group, through which the server's user gets in.
//! `socket/` and `wal/` are closed to that group, too: only the server's user and root
//! may connect, and files that the clone leaves there belong to that user, so a
//! set-user-ID program would as well.

pub mod fnv;
pub mod lasting;
pub mod mounts;
mod name;
pub mod run_root;
pub mod socket;
pub mod state;

use std::ffi::OsStr;
use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::geteuid;

use self::state::State;
use crate::server::OsUser;
use crate::server::namespace::Opened;
use crate::session::{SessionError, TargetError};
use crate::untrusted::{self, Dir};
use name::is_place;
pub use name::{canonical, name_for};

/// The state file.
pub const STATE: &str = "session.json";

const LOCK: &str = "session.lock";
const CONTROL: &str = "control.sock";

/// The directory for PostgreSQL's socket.
pub const SOCKET: &str = "socket";

/// The directory for prefetched WAL segments.
pub const PREFETCH: &str = "wal";

const WAL_SOCKET: &str = "wal.sock";

/// The other files that a session may have created in its directory.
const FILES: [&str; 8] = [
    CONTROL,
    WAL_SOCKET,
    STATE,
    "pbkfs.log",
    "server.log",
    "postgresql.conf",
    "pg_hba.conf",
    "pg_ident.conf",
];

/// Returns whether the owner of the session in this directory is alive.
///
/// # Errors
/// I/O errors of the lock file.
pub fn is_held_in(opened: &Dir) -> io::Result<bool> {
    let Some(file) = untrusted::found(opened.file(LOCK))? else {
        return Ok(false);
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(e)) => Err(e),
    }
}

/// A session's directory.
#[derive(Debug, Clone)]
pub struct Place {
    dir: PathBuf,
}

/// A session's directory, held by its owner.
#[derive(Debug)]
pub struct HeldPlace {
    place: Place,
    root: Dir,
    opened: Dir,
    _lock: File,
}

impl std::ops::Deref for HeldPlace {
    type Target = Place;
    fn deref(&self) -> &Place {
        &self.place
    }
}

impl Place {
    /// Returns the directory for a target, whether or not it exists.
    #[must_use]
    pub fn of(target: &Path) -> Self {
        Self {
            dir: run_root::path().join(name_for(&canonical(target))),
        }
    }

    /// Returns the directories of all of this user's sessions.
    ///
    /// # Errors
    /// If the run directory cannot be listed.
    pub fn all() -> Result<Vec<Self>, SessionError> {
        let Some(root) = run_root::open()? else {
            return Ok(Vec::new());
        };
        let names = root
            .names()
            .map_err(|e| SessionError::io("list", root.path(), e))?;
        let mut places: Vec<Self> = names
            .iter()
            .filter(|name| is_place(name))
            .map(|name| Self {
                dir: root.path().join(name),
            })
            .collect();
        places.sort_by(|a, b| a.dir.cmp(&b.dir));
        Ok(places)
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The state file.
    #[must_use]
    pub fn state_file(&self) -> PathBuf {
        self.dir.join(STATE)
    }

    /// The log of a detached session.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.dir.join("pbkfs.log")
    }

    /// The socket on which the owner answers questions.
    #[must_use]
    pub fn control_socket(&self) -> PathBuf {
        self.dir.join(CONTROL)
    }

    /// PostgreSQL's log.
    #[must_use]
    pub fn server_log(&self) -> PathBuf {
        self.dir.join("server.log")
    }

    /// The directory for PostgreSQL's socket.
    #[must_use]
    pub fn socket_dir(&self) -> PathBuf {
        self.dir.join(SOCKET)
    }

    /// The directory for prefetched WAL segments.
    #[must_use]
    pub fn prefetch_dir(&self) -> PathBuf {
        self.dir.join(PREFETCH)
    }

    /// The socket on which the owner opens files of the WAL archive.
    #[must_use]
    pub fn wal_socket(&self) -> PathBuf {
        self.dir.join(WAL_SOCKET)
    }

    /// Opens the directory; `None` if it does not exist.
    ///
    /// # Errors
    /// Returns [`SessionError::RunDir`] if somebody else could have put
    /// it there; I/O errors.
    pub fn open(&self) -> Result<Option<Dir>, SessionError> {
        let Some(root) = run_root::open()? else {
            return Ok(None);
        };
        match root.dir(self.name()) {
            Ok(dir) => Ok(Some(dir)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            // A stray file in the run directory is not a session.
            Err(e) if untrusted::refused(&e).is_some() => Ok(None),
            Err(e) => Err(SessionError::io("open", &self.dir, e)),
        }
    }

    /// Reads the session's state; `None` if there is none.
    ///
    /// # Errors
    /// I/O errors, or if the file is damaged.
    pub fn state(&self) -> Result<Option<State>, SessionError> {
        let path = self.state_file();
        let Some(dir) = self.open()? else {
            return Ok(None);
        };
        let text = untrusted::found(dir.read(STATE, untrusted::SMALL));
        let text = text.map_err(|e| SessionError::io("read", &path, e))?;
        let state = text.map(|text| serde_json::from_slice(&text)).transpose();
        state.map_err(|source| SessionError::BadState { path, source })
    }

    /// Creates the directory and locks it.
    ///
    /// # Errors
    /// Returns [`TargetError::Busy`] if a live session holds it; I/O errors.
    pub fn hold(self, target: &Path) -> Result<HeldPlace, SessionError> {
        // Anyone checking whether the session is alive takes the lock for a moment.
        const TRIES: u32 = 25;
        for _ in 0..TRIES {
            if let Some(held) = self.try_hold()? {
                return Ok(held);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let pid = self.state()?.map(|state| state.pid);
        Err(TargetError::Busy {
            target: target.to_owned(),
            pid,
        }
        .into())
    }

    /// Does the same without waiting; `None` if the directory is locked at this moment.
    ///
    /// # Errors
    /// I/O errors.
    pub fn try_hold(&self) -> Result<Option<HeldPlace>, SessionError> {
        let root = run_root::make()?;
        let opened = run_root::make_dir(&root, self.name())?;
        let lock = self.try_lock(&opened)?;
        Ok(lock.map(|lock| HeldPlace {
            place: self.clone(),
            root,
            opened,
            _lock: lock,
        }))
    }

    fn name(&self) -> &OsStr {
        self.dir.file_name().unwrap_or_default()
    }

    /// Takes the lock; `None` if another process has it, or if a process that had it
    /// has removed the file in the meantime.
    fn try_lock(&self, opened: &Dir) -> Result<Option<File>, SessionError> {
        let path = self.dir.join(LOCK);
        let file = untrusted::found(opened.open_or_create(LOCK, 0o600));
        let Some(file) = file.map_err(|e| SessionError::io("open", &path, e))? else {
            return Ok(None);
        };
        match file.try_lock() {
            Ok(()) => run_root::close(opened)?,
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(e)) => return Err(SessionError::io("lock", &path, e)),
        }
        let still_there = match (untrusted::id_of(&file), opened.stat(LOCK)) {
            (Ok(held), Ok(Some(named))) => held == named.id,
            _ => false,
        };
        Ok(still_there.then_some(file))
    }

    /// Returns whether the session's owner is alive.
    ///
    /// # Errors
    /// I/O errors of the lock file.
    pub fn is_held(&self) -> Result<bool, SessionError> {
        let Some(opened) = self.open()? else {
            return Ok(false);
        };
        is_held_in(&opened).map_err(|e| SessionError::io("check", &self.dir.join(LOCK), e))
    }
}

impl HeldPlace {
    /// Returns the opened directory.
    #[must_use]
    pub fn opened(&self) -> &Dir {
        &self.opened
    }

    /// Writes the session's state. A reader sees either the old or the new one, complete.
    ///
    /// # Errors
    /// I/O errors.
    pub fn write_state(&self, state: &State) -> Result<(), SessionError> {
        let save = || {
            let mut text = serde_json::to_vec_pretty(state)?;
            text.push(b'\n');
            self.opened.replace_volatile(STATE, &text, 0o600, None)
        };
        save().map_err(|e| SessionError::io("write", &self.state_file(), e))
    }

    /// Lets the server's user enter the directory, to read the files that the server is
    /// started with. Nobody else may enter.
    ///
    /// # Errors
    /// I/O errors.
    pub fn admit(&self, user: Option<&OsUser>) -> Result<(), SessionError> {
        let Some(user) = user else { return Ok(()) };
        let admit = || {
            self.opened.give_to(geteuid().as_raw(), user.gid.as_raw())?;
            self.opened.set_mode(0o710)
        };
        admit().map_err(|e| SessionError::io("open to the server", &self.dir, e))
    }

    /// Creates a directory in it, for the server's user alone, and opens it.
    ///
    /// # Errors
    /// I/O errors.
    pub fn make_for(&self, name: &OsStr, user: Option<&OsUser>) -> Result<Opened, SessionError> {
        let make = || {
            let made = self.opened.make_dir(name, 0o700)?;
            if let Some(user) = user {
                made.give_to(user.uid.as_raw(), user.gid.as_raw())?;
            }
            Opened::new(&self.dir.join(name), made)
        };
        make().map_err(|e| SessionError::io("create the directory", &self.dir.join(name), e))
    }

    /// Removes what sessions create in the directory and nothing else, but keeps the
    /// lock. Whatever the clone has left in its directories is removed with them.
    ///
    /// # Errors
    /// I/O errors.
    pub fn clear(&self) -> Result<(), SessionError> {
        self.clear_dir(SOCKET)?;
        self.clear_dir(PREFETCH)?;
        let names = self.opened.names();
        for name in names.map_err(|e| SessionError::io("list", &self.dir, e))? {
            if untrusted::is_unfinished(&name) || FILES.iter().any(|known| name == *known) {
                self.remove_file(&name)?;
            }
        }
        Ok(())
    }

    /// Removes a directory. A process that prefetches WAL may still be writing there;
    /// it exits once its directory is gone.
    fn clear_dir(&self, name: &str) -> Result<(), SessionError> {
        const TRIES: u32 = 50;
        let mut tries = 1..TRIES;
        loop {
            match self.opened.remove_tree(name) {
                Err(e)
                    if e.kind() == io::ErrorKind::DirectoryNotEmpty && tries.next().is_some() =>
                {
                    std::thread::sleep(Duration::from_millis(20));
                }
                other => {
                    let path = self.dir.join(name);
                    return other.map_err(|e| SessionError::io("remove", &path, e));
                }
            }
        }
    }

    fn remove_file(&self, name: &OsStr) -> Result<(), SessionError> {
        let removed = self.opened.remove_file(name);
        removed.map_err(|e| SessionError::io("remove", &self.dir.join(name), e))
    }

    /// Removes the directory, with everything that sessions create in it and the lock.
    ///
    /// # Errors
    /// I/O errors, or if the directory holds anything else.
    pub fn remove(&self) -> Result<(), SessionError> {
        self.clear()?;
        self.remove_file(OsStr::new(LOCK))?;
        let removed = self.root.remove_dir(self.name());
        removed.map_err(|e| SessionError::io("remove", &self.dir, e))
    }
}
