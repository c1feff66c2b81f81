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
mod lock;
mod shelf;

use std::fs::DirBuilder;
use std::io;
use std::ops::Range;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use self::key::Key;
pub use self::shelf::PIECE;
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
        let of_shelf = |(number, wanted): (u32, Range<u32>)| {
            let shelf = self.shelf(pieces, number);
            wanted.map(move |piece| shelf.as_ref()?.read(piece))
        };
        by_shelf(wanted).flat_map(of_shelf).collect()
    }

    /// Writes consecutive pieces.
    pub fn write(&self, pieces: Pieces<'_>, first: u32, content: &[Arc<[u8]>]) {
        let mut content = content.iter();
        let count = u32::try_from(content.len()).unwrap_or(u32::MAX);
        for (number, wanted) in by_shelf(first..first.saturating_add(count)) {
            self.attempt(|| {
                let shelf = self.shelf_or_new(pieces, number)?;
                for (piece, bytes) in wanted.zip(&mut content) {
                    shelf.write(piece, bytes)?;
                    self.written
                        .fetch_add(bytes.len() as u64, Ordering::Relaxed);
                }
                Ok(())
            });
        }
    }

    /// Forgets pieces, so that they are fetched again.
    pub fn forget(&self, pieces: Pieces<'_>, wanted: Range<u32>) {
        for (number, wanted) in by_shelf(wanted) {
            if let Some(shelf) = self.shelf(pieces, number) {
                wanted.for_each(|piece| shelf.forget(piece));
            }
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

    fn shelf_or_new(&self, pieces: Pieces<'_>, number: u32) -> io::Result<Shelf> {
        let key = self.key_of_part(pieces, number);
        let (dir, name) = key.names();
        let parts = self.dir.dir(PARTS)?.dir_or_new(dir, 0o700)?;
        let file = parts.open_or_create(name, 0o600)?;
        match Shelf::open(file.try_clone()?, key) {
            Some(shelf) => Ok(shelf),
            None => Shelf::begin(file, key),
        }
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
    fn attempt(&self, work: impl FnOnce() -> io::Result<()>) {
        if let Err(error) = work()
            && !self.told.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(
                "the cache {} cannot be written, so what is read is fetched each time: {error}",
                value(self.dir.path())
            );
        }
    }
}

/// Divides pieces by the shelves that they belong to, each with its number.
fn by_shelf(pieces: Range<u32>) -> impl Iterator<Item = (u32, Range<u32>)> {
    let mut at = pieces.start;
    std::iter::from_fn(move || {
        let number = at / PIECES;
        let end = (number + 1).saturating_mul(PIECES).min(pieces.end);
        let of_shelf = at..end;
        at = end;
        (!of_shelf.is_empty()).then_some((number, of_shelf))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_divided_by_their_shelves() {
        let divided = |pieces| by_shelf(pieces).collect::<Vec<_>>();
        assert_eq!(divided(3..3), []);
        assert_eq!(divided(3..16), [(0, 3..16)]);
        assert_eq!(divided(15..34), [(0, 15..16), (1, 16..32), (2, 32..34)]);
    }
}
