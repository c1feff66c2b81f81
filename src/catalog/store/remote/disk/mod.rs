//! The cache on disk, which all clones and jobs of a host may share.
//!
//! ```text
//! DIR/.pbkfs-cache     marks the directory as a cache; its bytes are locks
//! DIR/parts/XX/..      content: a shelf of pieces
//! DIR/files/XX/..      what a file's version and length were when it was last opened
//! ```
//! Nothing in it has to be durable or complete, so a kill at any moment leaves a valid
//! cache. Content is found by the file's name and version, and checked on the way out. A
//! disk that is full, or fails, only means that nothing is cached.

mod evict;
mod key;
mod shelf;

use std::fs::{DirBuilder, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use self::key::Key;
use self::shelf::{PIECES, Shelf};
use super::options::CacheOptions;
use super::source::Version;
use crate::escape::value;
use crate::untrusted::{Dir, found};

const MARK: &str = ".pbkfs-cache";
const PARTS: &str = "parts";
const FILES: &str = "files";

/// The largest record of a file.
const RECORD: u64 = 4 << 10;

/// A shelf that was used within this time is not marked as used again.
const USED: Duration = Duration::from_secs(60);

/// A cache on disk.
#[derive(Debug)]
pub struct Disk {
    dir: Dir,
    limit: u64,
    /// What comes before the path in the name of a file.
    url: String,
    /// Bytes written since the cache was last measured.
    written: AtomicU64,
    /// Whether it was said already that nothing can be written.
    told: AtomicBool,
}

/// The pieces of one version of a file, of 64 KiB each.
#[derive(Debug, Clone, Copy)]
pub struct Pieces<'a> {
    /// The file's path.
    pub path: &'a str,
    /// Its version.
    pub version: &'a Version,
}

impl Disk {
    /// Opens a cache, or makes one in a new or empty directory.
    ///
    /// # Errors
    /// If the directory has other content, or other users can write to it; the system's
    /// errors.
    pub fn open(options: &CacheOptions, url: &str) -> io::Result<Self> {
        let path = &options.dir;
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        let dir = Dir::open_own(path)?;
        if dir.stat(MARK)?.is_none() && !dir.names()?.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::DirectoryNotEmpty,
                "it is not empty, and no cache of pbkfs",
            ));
        }
        dir.open_or_create(MARK, 0o600)?;
        for name in [PARTS, FILES] {
            dir.dir_or_new(name, 0o700)?;
        }
        Ok(Self {
            dir,
            limit: options.limit,
            url: url.to_owned(),
            // So that it is measured soon.
            written: AtomicU64::new(options.limit / evict::SHARE),
            told: AtomicBool::new(false),
        })
    }

    /// Returns what was known of a file when it was last opened.
    pub fn version_of(&self, path: &str) -> Option<(Version, u64)> {
        let (dir, name) = self.key_of_file(path).names();
        let dir = found(self.dir.dir(Path::new(FILES).join(dir))).ok()??;
        let text = String::from_utf8(dir.read(name, RECORD).ok()?).ok()?;
        let mut lines = text.split('\n');
        let (known, version, length) = (lines.next()?, lines.next()?, lines.next()?);
        let is_whole = lines.next() == Some("end") && known == path;
        let length = length.parse().ok().filter(|_| is_whole)?;
        Some((Version(version.to_owned()), length))
    }

    /// Notes what is known of a file.
    pub fn note_version(&self, path: &str, version: &Version, length: u64) {
        let text = format!("{path}\n{}\n{length}\nend", version.0);
        // Neither an ETag nor a path has a line break; one that has is not cached.
        if text.matches('\n').count() != 3
            || self
                .version_of(path)
                .is_some_and(|known| known == (version.clone(), length))
        {
            return;
        }
        let (dir, name) = self.key_of_file(path).names();
        self.attempt(|| {
            let files = self.dir.dir(FILES)?.dir_or_new(dir, 0o700)?;
            files.replace_volatile(name, text.as_bytes(), 0o600, None)
        });
    }

    /// Reads pieces, as far as they are there.
    pub fn read(&self, pieces: Pieces<'_>, wanted: Range<u32>) -> Vec<Option<Vec<u8>>> {
        let mut shelf: Option<(u32, Option<Shelf>)> = None;
        let read = |piece: u32| {
            let number = piece / PIECES;
            let (_, open) = match shelf.take().filter(|(at, _)| *at == number) {
                Some(open) => shelf.insert(open),
                None => shelf.insert((number, self.shelf(pieces, number))),
            };
            open.as_ref()?.read(piece)
        };
        wanted.map(read).collect()
    }

    /// Writes a piece.
    pub fn write(&self, pieces: Pieces<'_>, piece: u32, bytes: &[u8]) {
        let key = self.key_of_part(pieces, piece / PIECES);
        let (dir, name) = key.names();
        let done = self.attempt(|| {
            let parts = self.dir.dir(PARTS)?.dir_or_new(dir, 0o700)?;
            let file = parts.open_or_create(name, 0o600)?;
            let shelf = match Shelf::open(file.try_clone()?, key) {
                Some(shelf) => shelf,
                None => Shelf::begin(file, key)?,
            };
            shelf.write(piece, bytes)
        });
        if done {
            self.written
                .fetch_add(bytes.len() as u64, Ordering::Relaxed);
        }
    }

    /// Forgets pieces, so that they are fetched again.
    pub fn forget(&self, pieces: Pieces<'_>, wanted: Range<u32>) {
        for piece in wanted {
            if let Some(shelf) = self.shelf(pieces, piece / PIECES) {
                shelf.forget(piece);
            }
        }
    }

    /// Locks a shelf against other processes that are about to fetch one of its pieces, if
    /// none has. The lock ends with the file that is returned.
    pub fn lock_piece(&self, pieces: Pieces<'_>, piece: u32) -> io::Result<Option<File>> {
        self.lock(self.key_of_part(pieces, piece / PIECES))
    }

    /// Does the same for what is known of a file.
    pub fn lock_file(&self, path: &str) -> io::Result<Option<File>> {
        self.lock(self.key_of_file(path))
    }

    fn lock(&self, key: Key) -> io::Result<Option<File>> {
        let file = self.dir.file_to_write(MARK)?;
        let place = libc::flock {
            l_type: libc::F_WRLCK as libc::c_short,
            l_whence: libc::SEEK_SET as libc::c_short,
            l_start: key.number(),
            l_len: 1,
            l_pid: 0,
        };
        match fcntl(&file, FcntlArg::F_OFD_SETLK(&place)) {
            Ok(_) => Ok(Some(file)),
            Err(nix::Error::EAGAIN | nix::Error::EACCES) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes what was not used for longest, if enough was written since it was last done
    /// to exceed the limit.
    pub fn tidy(&self) {
        let share = self.limit / evict::SHARE;
        if self.written.load(Ordering::Relaxed) < share {
            return;
        }
        self.written.store(0, Ordering::Relaxed);
        self.attempt(|| evict::shrink(&self.dir.dir(PARTS)?, self.limit));
        // A record is small, but there may be one for each file that ever was.
        self.attempt(|| evict::shrink(&self.dir.dir(FILES)?, share));
    }

    fn shelf(&self, pieces: Pieces<'_>, number: u32) -> Option<Shelf> {
        let key = self.key_of_part(pieces, number);
        let (dir, name) = key.names();
        let dir = found(self.dir.dir(Path::new(PARTS).join(dir))).ok()??;
        let file = found(dir.file_to_write(name)).ok()??;
        let is_old = file.metadata().and_then(|meta| meta.modified()).ok()?;
        if is_old.elapsed().is_ok_and(|age| age > USED) {
            let _ = file.set_modified(SystemTime::now());
        }
        Shelf::open(file, key)
    }

    fn key_of_part(&self, pieces: Pieces<'_>, number: u32) -> Key {
        Key::of(&[
            b"part",
            self.url.as_bytes(),
            pieces.path.as_bytes(),
            pieces.version.0.as_bytes(),
            &number.to_le_bytes(),
        ])
    }

    fn key_of_file(&self, path: &str) -> Key {
        Key::of(&[b"file", self.url.as_bytes(), path.as_bytes()])
    }

    /// Does something that may fail without harm. The first failure is told.
    fn attempt(&self, work: impl FnOnce() -> io::Result<()>) -> bool {
        let Err(error) = work() else {
            return true;
        };
        if !self.told.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "the cache {} cannot be written, so what is read is fetched each time: {error}",
                value(self.dir.path())
            );
        }
        false
    }
}
