//! Small base files, copied up whole so that the kernel can read and write them without
//! the overlay.
//!
//! A copy that nobody has written to is not part of the diff: no record names it. A
//! closed copy is *parked*: it holds no descriptor, and is kept for the next open. It
//! is removed at the end of the mount or, after a crash, at the start of the next one.

use std::sync::{Arc, MutexGuard, PoisonError};

use crate::diff::DataFile;
use crate::overlay::WHOLE_COPY_LIMIT;
use crate::overlay::content::{Content, Copies, File};
use crate::overlay::error::OverlayError;
use crate::overlay::lower::Lower;
use crate::overlay::state::Overlay;
use crate::overlay::tree::Ino;

/// The maximum space that parked copies may take on the diff's file system.
const PARKED_LIMIT: u64 = 256 << 20;

impl<L: Lower> Overlay<L> {
    pub(in crate::overlay) fn copies(&self) -> MutexGuard<'_, Copies> {
        self.copies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the data file to which reads and writes of an open file may be passed
    /// through; `None` if the file must be served block by block. Files that are whole
    /// in the diff qualify. Small base files do, too, and are copied up if the opener
    /// may `write`, as PostgreSQL does with all relations. An opener that only reads
    /// causes no copy, or `tar` and pg_checksums would copy everything. But an existing
    /// copy serves it as well, because a mapping of the copy may have been written to.
    ///
    /// # Errors
    /// If the diff fails during copy-up.
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
        // If it is already open, the kernel's cache may hold blocks of it. One inode is
        // never served in both ways at once.
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
            // The disk is full, or a page of the backup is bad. Served block by block,
            // the rest can still be read.
            tracing::debug!(ino = ino.0, %error, "not copied up");
            if matches!(&*content, Content::Image { .. }) {
                self.diff()?.storage().remove(ino.0)?;
            }
        }
        match &*content {
            Content::Whole(whole) => {
                if parked.is_none() {
                    let bytes = whole.pristine.map_or(0, |stat| stat.len);
                    self.counters.copy_ups.add(1);
                    self.counters.copied_up_bytes.add(bytes);
                }
                Ok(Some(whole.data.clone()))
            }
            _ => Ok(None),
        }
    }

    /// Releases the descriptor of a closed file, so that many changed or copied files
    /// do not exhaust the descriptors.
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
            tracing::warn!(ino = file.ino.0, %error, "cannot park an unchanged copy");
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

    /// Makes a file durable, and with it the fact that it is whole in the diff, if it
    /// is. This is for openers that write past the overlay without calling fsync.
    ///
    /// # Errors
    /// As for [`Overlay::sync_file`].
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

    /// Deletes the parked copies. Those that a mapping has written to are no longer
    /// copies, and are left to be synced.
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

    /// Returns the current size in bytes of the parked, unchanged copies of base files
    /// in the diff's directory.
    #[must_use]
    pub fn pristine_bytes(&self) -> u64 {
        self.copies().bytes
    }
}
