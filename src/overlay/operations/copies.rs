//! Small base files, copied up whole so that the kernel can read and write
//! them past the overlay.
//!
//! A copy that nobody has written to is no part of the diff: no record names
//! it. Closed, it is *parked*: it costs no descriptor, waits for the next
//! open, and goes when the mount ends (or, after a crash, when the next one
//! begins).

use std::sync::{Arc, MutexGuard, PoisonError};

use crate::diff::{DataFile, DataStat};
use crate::overlay::WHOLE_COPY_LIMIT;
use crate::overlay::content::{Content, Copies, File};
use crate::overlay::error::OverlayError;
use crate::overlay::lower::Lower;
use crate::overlay::state::Overlay;
use crate::overlay::tree::Ino;

/// Parked copies may take this much of the diff's file system.
const PARKED_LIMIT: u64 = 256 << 20;

impl<L: Lower> Overlay<L> {
    pub(in crate::overlay) fn copies(&self) -> MutexGuard<'_, Copies> {
        self.copies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The descriptor that reads and writes of an open file may be passed
    /// through to: for files that are whole in the diff, and for small base
    /// files, which are brought there if the opener may `write`. PostgreSQL
    /// opens all relations so; who only reads, as `tar` and pg_checksums do,
    /// would have everything copied. A copy that is there already serves them
    /// too: a mapping of it may have been written to. `None` where the file
    /// must be served block by block.
    ///
    /// # Errors
    /// The diff's own when copying up.
    pub fn passthrough(
        &self,
        ino: Ino,
        write: bool,
    ) -> Result<Option<Arc<dyn DataFile>>, OverlayError> {
        if !self.options.passthrough || self.is_read_only() {
            return Ok(None);
        }
        let file = self.file(ino)?;
        let mut content = file.content_mut();
        if let Content::Whole(whole) = &*content {
            return Ok(Some(whole.data.clone()));
        }
        // Blocks of it may be in the kernel's cache if it is open already;
        // one inode is never served in both ways at once.
        if file.opens() > 1 || content.stat()?.len > WHOLE_COPY_LIMIT {
            return Ok(None);
        }
        let parked = self.copies().take(ino);
        if parked.is_none() && !write {
            return Ok(None);
        }
        if let Err(error) = content.make_whole(&self.ctx(), ino.0, parked) {
            if let Some(stat) = parked {
                self.copies().park(ino, stat);
                return Err(error);
            }
            // The disk is full, or a page of the backup is bad. Served block
            // by block, what can be read still is.
            tracing::debug!(ino = ino.0, %error, "not copied up");
            if matches!(&*content, Content::Image { .. }) {
                self.diff()?.storage().remove(ino.0)?;
            }
        }
        match &*content {
            Content::Whole(whole) => {
                if parked.is_none() {
                    self.count_copy(whole.pristine);
                }
                Ok(Some(whole.data.clone()))
            }
            _ => Ok(None),
        }
    }

    fn count_copy(&self, copied: Option<DataStat>) {
        self.counters.copy_ups.add(1);
        self.counters
            .copied_up_bytes
            .add(copied.map_or(0, |stat| stat.len));
    }

    /// Lets a file that was closed hold no descriptor, so that many changed
    /// or copied files do not use them up.
    pub(in crate::overlay) fn rest(&self, file: &File) {
        let mut content = file.content_mut();
        if file.is_open() {
            return;
        }
        if let Content::Blocks(blocks) = &mut *content {
            blocks.close();
            return;
        }
        if let Err(error) = self.park_if_pristine(file.ino, &mut content) {
            tracing::warn!(ino = file.ino.0, %error, "cannot put an unchanged copy aside");
        }
    }

    fn park_if_pristine(&self, ino: Ino, content: &mut Content) -> Result<(), OverlayError> {
        let Content::Whole(whole) = &*content else {
            return Ok(());
        };
        let (Some(node), Some(stat)) = (whole.origin, whole.pristine) else {
            return Ok(());
        };
        if !whole.is_pristine()? {
            return Ok(());
        }
        let mut copies = self.copies();
        if copies.bytes.saturating_add(stat.len) > PARKED_LIMIT {
            self.diff()?.storage().remove(ino.0)?;
        } else {
            copies.park(ino, stat);
        }
        *content = Content::Image {
            node,
            len: stat.len,
        };
        Ok(())
    }

    /// Makes a file durable, and that it is whole in the diff if it is: for who
    /// will write to it past the overlay, and calls no fsync.
    ///
    /// # Errors
    /// As [`Overlay::sync_file`].
    pub fn keep_copy(&self, ino: Ino) -> Result<(), OverlayError> {
        if self.is_read_only() {
            return Ok(());
        }
        let file = self.file(ino)?;
        let _syncing = file.syncing();
        if let Content::Whole(whole) = &mut *file.content_mut() {
            whole.pristine = None;
        }
        self.sync_locked(&file)
    }

    /// Deletes the parked copies. Those that a mapping has written to are no
    /// copies any more, and wait to be synced.
    pub(in crate::overlay) fn drop_copies(&self) -> Result<(), OverlayError> {
        let parked: Vec<Ino> = self.copies().parked.keys().copied().collect();
        for ino in parked {
            let file = self.file(ino)?;
            let mut content = file.content_mut();
            let Some(stat) = self.copies().take(ino) else {
                continue;
            };
            if !matches!(&*content, Content::Image { .. }) {
                continue;
            }
            content.make_whole(&self.ctx(), ino.0, Some(stat))?;
            let Content::Whole(whole) = &*content else {
                continue;
            };
            if let (Some(node), true) = (whole.origin, whole.is_pristine()?) {
                self.diff()?.storage().remove(ino.0)?;
                *content = Content::Image {
                    node,
                    len: stat.len,
                };
            }
        }
        Ok(())
    }

    /// Bytes of unchanged copies of base files that lie in the diff's
    /// directory, closed, at the moment.
    #[must_use]
    pub fn pristine_bytes(&self) -> u64 {
        self.copies().bytes
    }
}
