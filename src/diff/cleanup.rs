//! Emptying a diff for reuse: exactly what the format names, and nothing
//! else, whatever stands in the directory.
//!
//! Everything is done relative to opened directories and without following
//! links, so a link in the place of a file goes itself, and one in the place
//! of `data/` is refused. The order keeps a half-emptied diff whole: first
//! `meta.redb`, after which nothing refers to any data; the binding last, so
//! that what was begun is still known as a diff.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::binding::{BINDING_FILE, Binding, TEMPORARY_FILE};
use super::error::DiffError;
use super::lock::{DiffLock, LOCK_FILE, LockHolder};
use super::record::ContentRecord;
use super::store::{Namespace, Store, StoreBackend};
use super::{DATA_DIR, META_FILE, NameEntry};
use crate::pg::relation::RelationFile;

/// The files beside `data/`, in the order in which they may go.
const FILES: [&str; 3] = [META_FILE, TEMPORARY_FILE, BINDING_FILE];

/// How much a diff holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Changes {
    /// Bytes on disk of the data files, holes left out.
    pub bytes: u64,
    /// Files with content in the diff, changed or new.
    pub files: usize,
    /// Relations that some of these files belong to.
    pub relations: usize,
    /// Names made, hidden or moved, and attributes changed.
    pub names: usize,
}

impl Changes {
    /// Whether there is nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} bytes in {} of {}, and {}",
            self.bytes,
            counted(self.files, "file"),
            counted(self.relations, "relation"),
            counted(self.names, "changed name"),
        )
    }
}

fn counted(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// A diff about to be emptied: nobody uses it, and nobody can begin to.
#[derive(Debug)]
pub struct Cleanup {
    root: OpenRoot,
    binding: Result<Option<Binding>, DiffError>,
    _lock: DiffLock,
}

impl Cleanup {
    /// Locks the diff in `root`.
    ///
    /// # Errors
    /// [`DiffError::Busy`] while it is in use; [`DiffError::NotADiff`] and
    /// [`DiffError::Foreign`] for a directory that pbkfs did not make, which
    /// is left as it is; a newer version's diff; I/O errors.
    pub fn begin(root: &Path) -> Result<Self, DiffError> {
        let opened = OpenRoot::open(root)?;
        opened.check()?;
        let lock = DiffLock::acquire(root, &LockHolder::this_process(Path::new("")))?;
        let binding = Binding::read(root);
        match binding {
            // Then it is not known what the format names.
            Err(error @ DiffError::Version { .. }) => Err(error),
            binding => Ok(Self {
                root: opened,
                binding,
                _lock: lock,
            }),
        }
    }

    /// The backup that the diff belongs to; `None` if it is bound to none.
    ///
    /// # Errors
    /// A damaged binding.
    pub fn binding(&self) -> Result<Option<&Binding>, &DiffError> {
        self.binding.as_ref().map(Option::as_ref)
    }

    /// What would be lost.
    ///
    /// # Errors
    /// The metadata cannot be read.
    pub fn changes(&self) -> Result<Changes, DiffError> {
        let data = self.root.data_files()?;
        let mut changes = Changes {
            bytes: data.iter().map(|file| file.bytes).sum(),
            files: data.len(),
            ..Changes::default()
        };
        let meta = self.root.path.join(META_FILE);
        if self.root.stat(META_FILE)?.is_none() {
            return Ok(changes);
        }
        let store = Store::open(StoreBackend::File(meta))?;
        let namespace = store.namespace()?;
        let mut known = store.inodes_with_content()?;
        changes.names = namespace.names.len();
        changes.relations = relations(&store, &namespace, &known)?;
        // An image's inode without a name of the diff has other attributes.
        let named: HashSet<u64> = namespace.names.iter().filter_map(inode_of).collect();
        let changed = namespace.inodes.iter();
        changes.names += changed.filter(|(ino, _)| !named.contains(ino)).count();
        known.extend(data.iter().map(|file| file.ino));
        changes.files = known.len();
        Ok(changes)
    }

    /// The paths that would be removed, the data files summed up under their
    /// directory's.
    ///
    /// # Errors
    /// I/O errors.
    pub fn removals(&self) -> Result<Vec<PathBuf>, DiffError> {
        let mut paths = Vec::new();
        for name in [META_FILE, DATA_DIR, TEMPORARY_FILE, BINDING_FILE] {
            if self.root.stat(name)?.is_some() {
                paths.push(self.root.path.join(name));
            }
        }
        Ok(paths)
    }

    /// Whatever stands in the directory and is not of the format; it stays.
    ///
    /// # Errors
    /// I/O errors.
    pub fn strangers(&self) -> Result<Vec<PathBuf>, DiffError> {
        let known = [LOCK_FILE, META_FILE, DATA_DIR, TEMPORARY_FILE, BINDING_FILE];
        let mut strangers =
            self.root
                .strangers_below(&self.root.handle, Path::new(""), |name| {
                    known.iter().any(|known| name == *known)
                })?;
        if let Some(data) = self.root.data_dir()? {
            let in_data = |name: &OsStr| inode_name(name).is_some();
            strangers.extend(
                self.root
                    .strangers_below(&data, Path::new(DATA_DIR), in_data)?,
            );
        }
        strangers.sort();
        Ok(strangers)
    }

    /// Empties the diff. The directory and its lock file stay: whoever waits
    /// for the lock has that very file open.
    ///
    /// # Errors
    /// I/O errors.
    pub fn run(self) -> Result<(), DiffError> {
        self.root.empty()
    }
}

fn inode_of((_, _, entry): &(u64, Vec<u8>, NameEntry)) -> Option<u64> {
    match entry {
        NameEntry::Inode(ino) => Some(*ino),
        NameEntry::Whiteout => None,
    }
}

/// How many relations the files belong to. The path of a file that the clone
/// made is known to the image only; but nothing besides relations has such a
/// name, and its directory tells it from another's.
fn relations(
    store: &Store,
    namespace: &Namespace,
    with_content: &HashSet<u64>,
) -> Result<usize, DiffError> {
    #[derive(PartialEq, Eq, Hash)]
    enum Relation {
        OfImage(crate::pg::relation::Tablespace, u32, u32),
        New(u64, u32),
    }
    let mut found = HashSet::new();
    for &ino in with_content {
        let origin = match store.content(ino)? {
            Some((ContentRecord::Blocks { origin, .. }, _)) => Some(origin),
            Some((ContentRecord::Whole { origin }, _)) => origin,
            None => None,
        };
        if let Some(file) = origin.and_then(RelationFile::parse) {
            found.insert(Relation::OfImage(
                file.tablespace,
                file.database,
                file.relfilenode,
            ));
        }
    }
    for entry @ (dir, name, _) in &namespace.names {
        let is_new = inode_of(entry).is_some_and(|ino| with_content.contains(&ino));
        let file = std::str::from_utf8(name).ok().filter(|_| is_new);
        // Any database's directory will do for the name to be taken apart.
        let file = file.and_then(|name| RelationFile::parse(format!("base/1/{name}")));
        found.extend(file.map(|file| Relation::New(*dir, file.relfilenode)));
    }
    Ok(found.len())
}

/// One file of `data/`.
struct StoredFile {
    ino: u64,
    bytes: u64,
}

/// A diff's directory, opened, so that nothing can be put in its place.
#[derive(Debug)]
pub(super) struct OpenRoot {
    path: PathBuf,
    handle: OwnedFd,
}

impl OpenRoot {
    pub(super) fn open(path: &Path) -> Result<Self, DiffError> {
        let handle = File::open(path).map_err(|e| DiffError::io("open", path, e))?;
        let meta = handle
            .metadata()
            .map_err(|e| DiffError::io("look at", path, e))?;
        if !meta.is_dir() {
            return Err(DiffError::NotADiff {
                path: path.to_owned(),
            });
        }
        Ok(Self {
            path: path.to_owned(),
            handle: handle.into(),
        })
    }

    /// Refuses what is no diff, or has something foreign in the place of a
    /// part that would be opened.
    fn check(&self) -> Result<(), DiffError> {
        let is_diff = self.stat(BINDING_FILE)?.is_some() || self.stat(LOCK_FILE)?.is_some();
        if !is_diff {
            return Err(DiffError::NotADiff {
                path: self.path.clone(),
            });
        }
        for name in [BINDING_FILE, LOCK_FILE, META_FILE] {
            if let Some(stat) = self.stat(name)?
                && kind(&stat) != SFlag::S_IFREG
            {
                return Err(self.foreign(name, &stat));
            }
        }
        self.data_dir().map(|_| ())
    }

    fn foreign(&self, name: &str, stat: &FileStat) -> DiffError {
        DiffError::Foreign {
            path: self.path.join(name),
            found: match kind(stat) {
                SFlag::S_IFLNK => "a symbolic link",
                SFlag::S_IFDIR => "a directory",
                SFlag::S_IFREG => "a file",
                _ => "neither a file nor a directory",
            },
        }
    }

    fn stat(&self, name: &str) -> Result<Option<FileStat>, DiffError> {
        match fstatat(&self.handle, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::ENOENT) => Ok(None),
            Err(e) => Err(DiffError::io("look at", &self.path.join(name), e.into())),
        }
    }

    fn data_dir(&self) -> Result<Option<OwnedFd>, DiffError> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        match openat(&self.handle, DATA_DIR, flags, Mode::empty()) {
            Ok(data) => Ok(Some(data)),
            Err(Errno::ENOENT) => Ok(None),
            Err(e) => match self.stat(DATA_DIR)? {
                Some(stat) if kind(&stat) != SFlag::S_IFDIR => Err(self.foreign(DATA_DIR, &stat)),
                _ => Err(DiffError::io("open", &self.path.join(DATA_DIR), e.into())),
            },
        }
    }

    fn data_files(&self) -> Result<Vec<StoredFile>, DiffError> {
        let Some(data) = self.data_dir()? else {
            return Ok(Vec::new());
        };
        let mut files = Vec::new();
        for ino in self
            .names(&data)?
            .iter()
            .filter_map(|name| inode_name(name))
        {
            let name = ino.to_string();
            let stat = fstatat(&data, name.as_str(), AtFlags::AT_SYMLINK_NOFOLLOW)
                .map_err(|e| DiffError::io("look at", &self.data_path(ino), e.into()))?;
            files.push(StoredFile {
                ino,
                bytes: u64::try_from(stat.st_blocks).unwrap_or(0) * 512,
            });
        }
        Ok(files)
    }

    fn data_path(&self, ino: u64) -> PathBuf {
        self.path.join(DATA_DIR).join(ino.to_string())
    }

    /// The names in an opened directory.
    fn names(&self, dir: &OwnedFd) -> Result<Vec<std::ffi::OsString>, DiffError> {
        // By way of the descriptor, as the path may lead elsewhere by now.
        let opened = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()));
        fs::read_dir(opened)
            .and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect())
            .map_err(|e: io::Error| DiffError::io("list", &self.path, e))
    }

    fn strangers_below(
        &self,
        dir: &OwnedFd,
        below: &Path,
        is_known: impl Fn(&OsStr) -> bool,
    ) -> Result<Vec<PathBuf>, DiffError> {
        let names = self.names(dir)?;
        let strangers = names.into_iter().filter(|name| !is_known(name));
        Ok(strangers
            .map(|name| self.path.join(below).join(name))
            .collect())
    }

    /// Removes all of the diff but its lock, and the directory of the data
    /// unless strangers stand in it.
    pub(super) fn empty(&self) -> Result<(), DiffError> {
        let data = self.data_dir()?;
        self.unlink(META_FILE)?;
        // Durable before any data goes: metadata must not outlive its bytes.
        self.sync()?;
        if let Some(data) = data {
            for ino in self
                .names(&data)?
                .iter()
                .filter_map(|name| inode_name(name))
            {
                let name = ino.to_string();
                unlink_at(&data, &name)
                    .map_err(|e| DiffError::io("remove", &self.data_path(ino), e))?;
            }
            match unlinkat(&self.handle, DATA_DIR, UnlinkatFlags::RemoveDir) {
                Ok(()) | Err(Errno::ENOENT | Errno::ENOTEMPTY) => {}
                Err(e) => {
                    return Err(DiffError::io("remove", &self.path.join(DATA_DIR), e.into()));
                }
            }
        }
        for name in FILES {
            self.unlink(name)?;
        }
        self.sync()
    }

    /// Removes the lock file, for a diff that is to vanish altogether.
    pub(super) fn remove_lock(&self) -> Result<(), DiffError> {
        self.unlink(LOCK_FILE)
    }

    fn unlink(&self, name: &str) -> Result<(), DiffError> {
        unlink_at(&self.handle, name).map_err(|e| DiffError::io("remove", &self.path.join(name), e))
    }

    fn sync(&self) -> Result<(), DiffError> {
        nix::unistd::fsync(&self.handle).map_err(|e| DiffError::io("sync", &self.path, e.into()))
    }
}

/// Removes a name that is no directory's. It is not an error if it is gone.
fn unlink_at(dir: &OwnedFd, name: &str) -> io::Result<()> {
    match unlinkat(dir, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT
}

/// The inode of a data file's name, if it is one that pbkfs gives.
fn inode_name(name: &OsStr) -> Option<u64> {
    let name = name.to_str()?;
    let ino: u64 = name.parse().ok()?;
    (ino.to_string() == name).then_some(ino)
}

#[cfg(test)]
mod tests;
