//! The session's directory, one for each target:
//!
//! ```text
//! RUN/NAME-HASH/session.lock    flock'ed by the session's owner
//! RUN/NAME-HASH/session.json    its state
//! RUN/NAME-HASH/pbkfs.log       what a detached pbkfs logs
//! RUN/NAME-HASH/control.sock    where its owner answers questions
//! RUN/NAME-HASH/server.log      what PostgreSQL logs
//! RUN/NAME-HASH/wal.sock        where its owner opens WAL files for the server
//! RUN/NAME-HASH/socket/         PostgreSQL's socket
//! RUN/NAME-HASH/wal/            WAL segments fetched ahead
//! RUN/NAME-HASH/*.conf          PostgreSQL's generated configuration
//! ```
//! RUN is `/run/pbkfs` for root; for others `$XDG_RUNTIME_DIR/pbkfs`, or
//! `/tmp/pbkfs-UID` where there is none.
//!
//! The lock proves that the owner lives: it goes with it.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::hash::Hasher;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::geteuid;

use super::SessionError;
use super::state::State;

const LOCK: &str = "session.lock";
const SOCKET: &str = "socket";
const CONTROL: &str = "control.sock";
const PREFETCH: &str = "wal";
const WAL_SOCKET: &str = "wal.sock";

/// The files besides that a session may have made in its directory.
const FILES: [&str; 9] = [
    CONTROL,
    WAL_SOCKET,
    "session.json",
    "session.json.tmp",
    "pbkfs.log",
    "server.log",
    "postgresql.conf",
    "pg_hba.conf",
    "pg_ident.conf",
];

/// Where sessions of this user keep their directories.
#[must_use]
pub fn run_root() -> PathBuf {
    let uid = geteuid();
    if uid.is_root() {
        return "/run/pbkfs".into();
    }
    // Left over from another user's shell it is of no use.
    let is_mine = |dir: &PathBuf| fs::metadata(dir).is_ok_and(|meta| meta.uid() == uid.as_raw());
    match std::env::var_os("XDG_RUNTIME_DIR")
        .map(PathBuf::from)
        .filter(is_mine)
    {
        Some(dir) => dir.join("pbkfs"),
        None => format!("/tmp/pbkfs-{uid}").into(),
    }
}

/// A path by which a target is known, however it was written: its directory
/// resolved, its own name kept, as the mount itself may not answer.
#[must_use]
pub fn canonical(target: &Path) -> PathBuf {
    if fs::symlink_metadata(target).is_ok_and(|meta| meta.is_symlink())
        && let Ok(real) = target.canonicalize()
    {
        return real;
    }
    match (target.parent().map(Path::canonicalize), target.file_name()) {
        (Some(Ok(parent)), Some(name)) => parent.join(name),
        _ => target.to_owned(),
    }
}

/// A session's directory.
#[derive(Debug)]
pub struct Place {
    dir: PathBuf,
}

/// A session's directory, held by its owner.
#[derive(Debug)]
pub struct HeldPlace {
    place: Place,
    _lock: File,
}

impl std::ops::Deref for HeldPlace {
    type Target = Place;
    fn deref(&self) -> &Place {
        &self.place
    }
}

impl Place {
    /// The directory for a target, whether or not it exists.
    #[must_use]
    pub fn of(target: &Path) -> Self {
        let target = canonical(target);
        let mut hash = Fnv::default();
        hash.write(target.as_os_str().as_bytes());
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        // A socket's path holds little more than 100 bytes.
        let name: String = name
            .chars()
            .filter(|c| c.is_ascii_alphanumeric())
            .take(20)
            .collect();
        Self {
            dir: run_root().join(format!("{name}-{:016x}", hash.finish())),
        }
    }

    /// All directories of this user's sessions.
    ///
    /// # Errors
    /// The run directory cannot be listed.
    pub fn all() -> Result<Vec<Self>, SessionError> {
        let root = run_root();
        let entries = match fs::read_dir(&root) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(SessionError::io("list", &root, e)),
        };
        let mut places: Vec<Self> = entries
            .flatten()
            .map(|entry| Self { dir: entry.path() })
            .collect();
        places.sort_by(|a, b| a.dir.cmp(&b.dir));
        Ok(places)
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The state's file.
    #[must_use]
    pub fn state_file(&self) -> PathBuf {
        self.dir.join("session.json")
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

    /// The directory for WAL segments fetched ahead.
    #[must_use]
    pub fn prefetch_dir(&self) -> PathBuf {
        self.dir.join(PREFETCH)
    }

    /// The socket on which the owner opens files of the WAL archive.
    #[must_use]
    pub fn wal_socket(&self) -> PathBuf {
        self.dir.join(WAL_SOCKET)
    }

    /// Makes the directory and locks it.
    ///
    /// # Errors
    /// [`SessionError::TargetBusy`] when a session lives there; I/O errors.
    pub fn hold(self, target: &Path) -> Result<HeldPlace, SessionError> {
        // Whoever looks whether the session lives takes the lock for a moment.
        const TRIES: u32 = 25;
        for _ in 0..TRIES {
            self.make()?;
            if let Some(lock) = self.try_lock()? {
                return Ok(HeldPlace {
                    place: self,
                    _lock: lock,
                });
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let pid = State::read(&self)?.map(|state| state.pid);
        Err(SessionError::TargetBusy {
            target: target.to_owned(),
            pid,
        })
    }

    fn make(&self) -> Result<(), SessionError> {
        let root = run_root();
        make_dir(&root)?;
        make_dir(&self.dir)
    }

    /// The lock, unless another process has it, or the file was removed by
    /// one that had it in the meantime.
    fn try_lock(&self) -> Result<Option<File>, SessionError> {
        let path = self.dir.join(LOCK);
        let open = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(nix::libc::O_NOFOLLOW)
            .open(&path);
        let file = match open {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(SessionError::io("open", &path, e)),
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(e)) => return Err(SessionError::io("lock", &path, e)),
        }
        let is_same = |held: fs::Metadata, named: fs::Metadata| {
            (held.dev(), held.ino()) == (named.dev(), named.ino())
        };
        let still_there = match (file.metadata(), fs::symlink_metadata(&path)) {
            (Ok(held), Ok(named)) => is_same(held, named),
            _ => false,
        };
        Ok(still_there.then_some(file))
    }

    /// Whether a session's owner lives.
    ///
    /// # Errors
    /// I/O errors of the lock's file.
    pub fn is_held(&self) -> Result<bool, SessionError> {
        let path = self.dir.join(LOCK);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(SessionError::io("open", &path, e)),
        };
        match file.try_lock_shared() {
            Ok(()) => Ok(false),
            Err(TryLockError::WouldBlock) => Ok(true),
            Err(TryLockError::Error(e)) => Err(SessionError::io("lock", &path, e)),
        }
    }
}

impl HeldPlace {
    /// Removes what sessions make in the directory, and nothing else, but
    /// keeps the lock.
    ///
    /// # Errors
    /// I/O errors.
    pub fn clear(&self) -> Result<(), SessionError> {
        let socket_dir = self.socket_dir();
        if let Ok(entries) = fs::read_dir(&socket_dir) {
            for entry in entries.flatten() {
                if entry.file_name().as_bytes().starts_with(b".s.PGSQL.") {
                    remove_file(&entry.path())?;
                }
            }
        }
        remove_dir(&socket_dir)?;
        self.clear_prefetched()?;
        for name in FILES {
            remove_file(&self.dir.join(name))?;
        }
        Ok(())
    }

    /// A process that fetches ahead may still be at it; without its directory
    /// it ends.
    fn clear_prefetched(&self) -> Result<(), SessionError> {
        const TRIES: u32 = 50;
        let dir = self.prefetch_dir();
        for _ in 0..TRIES {
            for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
                remove_file(&entry.path())?;
            }
            match remove_dir(&dir) {
                Err(SessionError::Io { source, .. })
                    if source.kind() == io::ErrorKind::DirectoryNotEmpty => {}
                other => return other,
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        remove_dir(&dir)
    }

    /// Removes the directory, with all that sessions make in it and the lock.
    ///
    /// # Errors
    /// I/O errors; the directory holds something else.
    pub fn remove(&self) -> Result<(), SessionError> {
        self.clear()?;
        remove_file(&self.dir.join(LOCK))?;
        remove_dir(&self.dir)
    }
}

/// Makes a directory that others may enter (clients look for the socket
/// there), or checks that the one there is ours.
fn make_dir(dir: &Path) -> Result<(), SessionError> {
    match DirBuilder::new().mode(0o755).create(dir) {
        Ok(()) => {
            // Whatever the umask says.
            let open = Permissions::from_mode(0o755);
            return fs::set_permissions(dir, open).map_err(|e| SessionError::io("open up", dir, e));
        }
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        Err(e) => return Err(SessionError::io("make the directory", dir, e)),
    }
    let meta = fs::symlink_metadata(dir).map_err(|e| SessionError::io("look at", dir, e))?;
    if !meta.is_dir() || meta.uid() != geteuid().as_raw() {
        let taken = io::Error::other("it is not a directory of this user");
        return Err(SessionError::io("use", dir, taken));
    }
    Ok(())
}

fn remove_file(path: &Path) -> Result<(), SessionError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(SessionError::io("remove", path, e)),
        _ => Ok(()),
    }
}

fn remove_dir(path: &Path) -> Result<(), SessionError> {
    match fs::remove_dir(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(SessionError::io("remove", path, e)),
        _ => Ok(()),
    }
}

/// FNV-1a: the same in every version, unlike the standard library's hasher,
/// so that a newer pbkfs finds the sessions of an older one.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xCBF2_9CE4_8422_2325)
    }
}

impl Hasher for Fnv {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3);
        }
    }
}
