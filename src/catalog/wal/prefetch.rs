//! Segments fetched before PostgreSQL requests them, in a separate directory.
//!
//! PostgreSQL replays a segment while the next ones are decompressed. A segment gets its
//! final name in the directory only when it is complete and checked, so a process killed
//! at any moment leaves nothing behind that could be mistaken for a segment.

use std::io;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use super::fetch::{StoredSegment, deliver};
use super::{Fetched, Form, WalArchive, WalError};
use crate::pg::wal::SegmentId;
use crate::untrusted::Dir;

/// Locked by the one process that fills the directory.
const LOCK: &str = "lock";

/// A directory of prefetched segments.
#[derive(Debug, Clone)]
pub struct Prefetch {
    dir: PathBuf,
    segments: u64,
}

impl Prefetch {
    /// Creates a prefetch of at most `bytes` of segments in `dir`, which must exist. A
    /// limit below the segment size means no segments.
    #[must_use]
    pub fn new(dir: &Path, bytes: u64, archive: &WalArchive) -> Self {
        Self {
            dir: dir.to_owned(),
            segments: bytes / archive.segment_size().bytes(),
        }
    }

    /// Moves segment `id` to `destination`, if it was prefetched. An unusable one is
    /// deleted and counts as missing: the archive has the original.
    ///
    /// # Errors
    /// If the destination cannot be written.
    pub fn take(
        &self,
        archive: &WalArchive,
        id: SegmentId,
        destination: &Path,
    ) -> Result<Fetched, WalError> {
        let name = archive.name(id);
        let open = || -> io::Result<_> {
            let dir = Dir::open(&self.dir)?;
            let file = dir.file(&name)?;
            Ok((dir, file))
        };
        let Ok((dir, file)) = open() else {
            return Ok(Fetched::Missing);
        };
        let mut source = StoredSegment {
            path: self.dir.join(&name),
            form: Form::Plain,
            reader: Box::new(file),
        };
        // Its records were checked when it was fetched.
        let copied = deliver(destination, |out| {
            let copied = archive.read_segment(id, &mut source, &mut |chunk| out.write(chunk));
            copied.map(|_| ())
        });
        // This makes room for the next segment; a file that cannot be deleted only takes
        // up space.
        let _ = dir.remove_file(&name);
        match copied {
            Ok(()) => Ok(Fetched::Delivered),
            Err(error @ WalError::Write { .. }) => Err(error),
            Err(error) => {
                tracing::debug!(%error, "a prefetched segment is unusable");
                Ok(Fetched::Missing)
            }
        }
    }

    /// Whether any of the segments to be prefetched after `id` is still missing.
    #[must_use]
    pub fn wants_more(&self, archive: &WalArchive, id: SegmentId) -> bool {
        let Ok(dir) = Dir::open(&self.dir) else {
            return true;
        };
        self.following(id)
            .any(|next| !is_there(&dir, &archive.name(next)))
    }

    /// Fetches the segments that follow `id`, as many as there is room for, and deletes
    /// all others. Does nothing while another process is doing this.
    ///
    /// # Errors
    /// If the directory cannot be used. A segment that cannot be fetched ends the work
    /// without an error: if PostgreSQL requests it, that fetch reports the error.
    pub fn fill(&self, archive: &WalArchive, id: SegmentId) -> Result<(), WalError> {
        let dir = Dir::open(&self.dir).map_err(WalError::write(&self.dir))?;
        let lock = dir.open_or_create(LOCK, 0o600);
        let lock = lock.map_err(WalError::write(&self.dir))?;
        let Ok(_lock) = Flock::lock(lock, FlockArg::LockExclusiveNonblock) else {
            return Ok(());
        };
        let deleted = self.delete_others(&dir, archive, id);
        deleted.map_err(WalError::write(&self.dir))?;
        for next in self.following(id) {
            let name = archive.name(next);
            if is_there(&dir, &name) {
                continue;
            }
            // The rest of a partial segment may still be archived.
            let stored = archive.open_segment(next);
            let Ok(Some(mut source)) = stored.map(|s| s.filter(|s| !s.form.is_partial())) else {
                return Ok(());
            };
            let path = self.dir.join(&name);
            let fetched = deliver(&path, |out| archive.copy_segment(next, &mut source, out));
            if let Err(error) = fetched {
                tracing::debug!(%error, "cannot prefetch");
                return Ok(());
            }
        }
        Ok(())
    }

    fn following(&self, id: SegmentId) -> impl Iterator<Item = SegmentId> {
        std::iter::successors(Some(id.next()), |id| Some(id.next()))
            .take(usize::try_from(self.segments).unwrap_or(usize::MAX))
    }

    fn delete_others(&self, dir: &Dir, archive: &WalArchive, id: SegmentId) -> io::Result<()> {
        let wanted: Vec<String> = self.following(id).map(|next| archive.name(next)).collect();
        for name in dir.names()? {
            let is_wanted = wanted.iter().any(|wanted| name == wanted.as_str());
            if !is_wanted && name != LOCK {
                dir.remove_file(&name)?;
            }
        }
        Ok(())
    }
}

/// Whether a file of that name exists.
fn is_there(dir: &Dir, name: &str) -> bool {
    matches!(dir.stat(name), Ok(Some(_)))
}
