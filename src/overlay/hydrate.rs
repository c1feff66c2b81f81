//! Hydration: bringing everything that a tree still has in the image into the diff, while
//! the tree is in use.
//!
//! It follows the rule of every write: bytes are on disk before anything refers to them.
//! A block that is written meanwhile wins. A file is recorded as *whole* once the diff
//! has all of it. So a crash at any moment loses nothing but work.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use super::HIDDEN_DIR;
use super::content::{Content, File, Snapshot};
use super::error::OverlayError;
use super::lower::Lower;
use super::state::Overlay;
use super::tree::Ino;
use crate::diff::{ContentRecord, DataFile, InodeKind};
use crate::pg::BLOCK_SIZE;

/// Number of blocks read at once: their decoding takes about a millisecond.
const STEP: u32 = if cfg!(test) { 3 } else { 64 };

/// From this number of files on, one sync of the whole file system costs less than one
/// for each file.
const MANY: usize = 16;

/// A data file that has become a whole file, and the record that says so.
type Whole = (Arc<dyn DataFile>, Snapshot);

/// A file of the image that is not whole in the diff.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unhydrated {
    /// Its inode.
    pub ino: Ino,
    /// Its path in the tree.
    pub path: PathBuf,
    /// How many bytes the diff lacks; holes count.
    pub bytes: u64,
}

/// A step of a file's hydration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HydrationStep {
    /// The block at which the next step begins.
    pub next: u32,
    /// The number of bytes brought into the diff.
    pub bytes: u64,
}

impl<L: Lower> Overlay<L> {
    /// Returns the files of the image that are not whole in the diff, in the order of
    /// their paths.
    ///
    /// # Errors
    /// If the metadata cannot be read.
    pub fn unhydrated(&self) -> Result<Vec<Unhydrated>, OverlayError> {
        let mut found = Vec::new();
        let mut left = vec![(Ino::ROOT, PathBuf::new())];
        while let Some((dir, path)) = left.pop() {
            let mut entries: Vec<_> = match self.read_dir(dir) {
                // It was removed in the meantime.
                Err(OverlayError::NotFound) => continue,
                entries => entries?.split_off(2),
            };
            entries.reverse();
            for entry in entries {
                let path = path.join(&entry.name);
                match entry.kind {
                    InodeKind::Directory => left.push((entry.ino, path)),
                    InodeKind::File if entry.ino.node().is_some() => {
                        if let Some(bytes) = self.lacking(entry.ino)? {
                            let ino = entry.ino;
                            found.push(Unhydrated { ino, path, bytes });
                        }
                    }
                    _ => {}
                }
            }
            // The root does not list it.
            if dir == Ino::ROOT
                && let Ok(hidden) = self.lookup(dir, HIDDEN_DIR.as_ref())
            {
                left.push((hidden.ino, PathBuf::from(HIDDEN_DIR)));
            }
        }
        Ok(found)
    }

    /// Returns the free space of the diff's file system, in bytes; `None` for a read-only
    /// tree.
    ///
    /// # Errors
    /// If the system call fails.
    pub fn free_bytes(&self) -> Result<Option<u64>, OverlayError> {
        let stat = self.statvfs()?;
        Ok(stat.map(|stat| stat.blocks_available().saturating_mul(stat.fragment_size())))
    }

    /// Returns the diff's file that has all of a file's bytes, if there is one.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn whole_file(&self, ino: Ino) -> Result<Option<Arc<fs::File>>, OverlayError> {
        let file = self.file(ino)?;
        let whole = match &*file.content() {
            Content::Whole(whole) if whole.committed => whole.data.opened()?,
            _ => None,
        };
        drop(file);
        self.forget_if_idle(ino);
        Ok(whole)
    }

    /// Returns the number of bytes that a file of the image lacks in the diff; `None` if
    /// it is whole.
    fn lacking(&self, ino: Ino) -> Result<Option<u64>, OverlayError> {
        let loaded = self.files().get(&ino.0).cloned();
        let file = loaded.map_or_else(|| self.load(ino).map(Arc::new), Ok)?;
        let content = file.content();
        Ok(match &*content {
            Content::Image { len, .. } => Some(*len),
            Content::Blocks(blocks) if self.options.passthrough && blocks.lacking() == 0 => None,
            Content::Blocks(blocks) => Some(blocks.lacking() * BLOCK_SIZE as u64),
            Content::Whole(whole) => (!whole.committed).then_some(0),
        })
    }

    /// Brings the next blocks of a file that the diff lacks into it, from block `from`
    /// on. Returns `Ok(None)` if it lacks none there.
    ///
    /// # Errors
    /// If the blocks cannot be read from the image, or if the diff fails. Then the file
    /// stays as it was.
    pub fn hydrate(&self, ino: Ino, from: u32) -> Result<Option<HydrationStep>, OverlayError> {
        if self.tree().is_dead(ino) {
            return Ok(None);
        }
        let file = self.file(ino)?;
        self.begin_hydration(ino, &mut file.content_mut())?;
        let ctx = self.ctx();
        loop {
            let lacking = match &*file.content() {
                Content::Blocks(blocks) => blocks.read_lacking(&ctx, ino.0, from, STEP)?,
                _ => None,
            };
            let Some(lacking) = lacking else {
                return Ok(None);
            };
            if let Content::Blocks(blocks) = &mut *file.content_mut()
                && blocks.put(&ctx, ino.0, &lacking)?
            {
                return Ok(Some(HydrationStep {
                    next: lacking.end(),
                    bytes: lacking.len(),
                }));
            }
        }
    }

    /// Brings the image's own bytes of a file into the diff, where the diff lacks them:
    /// `bytes` are those from `offset` on, a multiple of the block size. Returns how many
    /// were brought in.
    ///
    /// # Errors
    /// If the diff fails.
    pub fn hydrate_with(&self, ino: Ino, offset: u64, bytes: &[u8]) -> Result<u64, OverlayError> {
        if self.tree().is_dead(ino) {
            return Ok(0);
        }
        let file = self.file(ino)?;
        let mut content = file.content_mut();
        self.begin_hydration(ino, &mut content)?;
        match &mut *content {
            Content::Blocks(blocks) => blocks.put_image(&self.ctx(), ino.0, offset, bytes),
            _ => Ok(0),
        }
    }

    /// Prepares a file for being completed block by block, or adopts the copy of it that
    /// the diff has already.
    fn begin_hydration(&self, ino: Ino, content: &mut Content) -> Result<(), OverlayError> {
        if matches!(content, Content::Image { .. }) {
            match self.copies().take(ino) {
                Some(parked) => content.make_whole(&self.ctx(), ino.0, Some(parked))?,
                None => content.make_writable(self.lower.timestamp_ns()),
            }
        }
        match content {
            Content::Blocks(blocks) => blocks.keep_full(),
            Content::Whole(whole) => whole.pristine = None,
            Content::Image { .. } => {}
        }
        Ok(())
    }

    /// Makes hydrated files durable, and records those of them as whole of which the diff
    /// has all blocks. Returns how many files are whole now.
    ///
    /// # Errors
    /// If the diff fails. Nothing is lost then; a later call tries again.
    pub fn record_hydrated(&self, inos: &[Ino]) -> Result<usize, OverlayError> {
        let mut inos = inos.to_vec();
        // Several sync mutexes are always taken in this order.
        inos.sort_unstable();
        inos.dedup();
        inos.retain(|ino| !self.tree().is_dead(*ino));
        let files: Result<Vec<_>, _> = inos.iter().map(|ino| self.file(*ino)).collect();
        let files = files?;
        let guards: Vec<_> = files.iter().map(|file| file.syncing()).collect();
        let mut snapshots = Vec::new();
        let mut unsynced = Vec::new();
        let mut completed = Vec::new();
        for file in files.iter().filter(|file| !self.tree().is_dead(file.ino)) {
            if matches!(&*file.content(), Content::Blocks(blocks) if blocks.has_excess()) {
                // Until a truncation is committed, a crash brings the old blocks back.
                self.sync_locked(file)?;
            }
            let (data, snapshot) = match self.close_up(file)? {
                Some((data, whole)) => {
                    completed.push((file.clone(), data.clone()));
                    (Some(data), Some(whole))
                }
                None => file.content_mut().snapshot(&self.ctx(), file.ino.0)?,
            };
            unsynced.extend(data);
            snapshots.extend(snapshot.map(|snapshot| (file.clone(), snapshot)));
        }
        let synced = match unsynced.len() < MANY {
            true => unsynced.iter().try_for_each(|data| data.sync_data()),
            false => self.diff()?.storage().sync_bytes(),
        };
        if let Err(error) = synced {
            for (file, snapshot) in snapshots {
                file.content_mut().restore(snapshot);
            }
            return Err(error.into());
        }
        self.commit(snapshots)?;
        for (file, data) in completed {
            file.content_mut().complete(data);
        }
        let is_whole = |file: &&Arc<File>| matches!(&*file.content(), Content::Whole(_));
        let whole = files.iter().filter(is_whole).count();
        drop(guards);
        for file in &files {
            self.rest(file);
        }
        drop(files);
        for ino in inos {
            self.forget_if_idle(ino);
        }
        Ok(whole)
    }

    /// If the diff has all blocks of a file, prepares the data file for being the whole
    /// file. Returns it, and the record to commit once it is synced.
    fn close_up(&self, file: &File) -> Result<Option<Whole>, OverlayError> {
        // A file that is open may be served by us, and one inode is never served by the
        // kernel alone at the same time. It has its turn when nothing is passed through.
        if self.options.passthrough {
            return Ok(None);
        }
        match &mut *file.content_mut() {
            Content::Blocks(blocks) if blocks.lacking() == 0 => {
                let origin = file.ino.node().map(|node| self.lower.path(node));
                let whole = Snapshot::Completed(ContentRecord::Whole { origin });
                Ok(Some((blocks.close_up(&self.ctx(), file.ino.0)?, whole)))
            }
            _ => Ok(None),
        }
    }
}
