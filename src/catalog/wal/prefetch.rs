//! Segments fetched ahead of PostgreSQL's asking, in a directory of their own.
//!
//! PostgreSQL replays a segment while the next ones are decompressed. A
//! segment gets its name in the directory only when it is complete and
//! checked, so that whoever is killed at any moment leaves nothing behind
//! that could be taken for one.

use std::io;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use super::fetch::{StoredSegment, deliver};
use super::{Fetched, Form, WalArchive, WalError};
use crate::pg::wal::SegmentId;
use crate::untrusted::Dir;

/// Held by the one process that fills the directory.
const LOCK: &str = "lock";

/// A directory of segments fetched ahead.
#[derive(Debug, Clone)]
pub struct Prefetch {
    dir: PathBuf,
    segments: u64,
}

impl Prefetch {
    /// At most `bytes` of segments in `dir`, which has to exist; a limit
    /// below one segment's size means none.
    #[must_use]
    pub fn new(dir: &Path, bytes: u64, archive: &WalArchive) -> Self {
        Self {
            dir: dir.to_owned(),
            segments: bytes / archive.segment_size().bytes(),
        }
    }

    /// Moves segment `id` to `destination`, if it is here. One that is no
    /// good is deleted and counts as missing: the archive has the original.
    ///
    /// # Errors
    /// The destination cannot be written.
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
        // The room is for the next; one that cannot be deleted only takes it.
        let _ = dir.remove_file(&name);
        match copied {
            Ok(()) => Ok(Fetched::Delivered),
            Err(error @ WalError::Write { .. }) => Err(error),
            Err(error) => {
                tracing::debug!(%error, "a segment fetched ahead is no good");
                Ok(Fetched::Missing)
            }
        }
    }

    /// Whether a segment that would follow `id` is still to be fetched.
    #[must_use]
    pub fn wants_more(&self, archive: &WalArchive, id: SegmentId) -> bool {
        let Ok(dir) = Dir::open(&self.dir) else {
            return true;
        };
        self.following(id)
            .any(|next| !is_there(&dir, &archive.name(next)))
    }

    /// Fetches what follows `id`, as much as there is room for, and deletes
    /// what does not follow it. Does nothing while another process does it.
    ///
    /// # Errors
    /// The directory cannot be used. A segment that cannot be fetched ends the
    /// work without an error: if it is ever asked for, that fetch will tell.
    pub fn fill(&self, archive: &WalArchive, id: SegmentId) -> Result<(), WalError> {
        let dir_error = |source| WalError::Write {
            path: self.dir.clone(),
            source,
        };
        let dir = Dir::open(&self.dir).map_err(dir_error)?;
        let lock = dir.open_or_create(LOCK, 0o600).map_err(dir_error)?;
        let Ok(_lock) = Flock::lock(lock, FlockArg::LockExclusiveNonblock) else {
            return Ok(());
        };
        self.delete_others(&dir, archive, id).map_err(dir_error)?;
        for next in self.following(id) {
            let name = archive.name(next);
            if is_there(&dir, &name) {
                continue;
            }
            // A beginning of a segment may still be followed by the rest.
            let stored = archive.open_segment(next);
            let Ok(Some(mut source)) = stored.map(|s| s.filter(|s| !s.form.is_partial())) else {
                return Ok(());
            };
            let path = self.dir.join(&name);
            let fetched = deliver(&path, |out| archive.copy_segment(next, &mut source, out));
            if let Err(error) = fetched {
                tracing::debug!(%error, "cannot fetch ahead");
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

/// Whether anything bears the name.
fn is_there(dir: &Dir, name: &str) -> bool {
    matches!(dir.stat(name), Ok(Some(_)))
}
