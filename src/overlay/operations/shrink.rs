//! Shrinking blocks that differ from the image's in a few bytes.

use std::sync::Arc;
use std::time::Instant;

use crate::overlay::content::{Content, File};
use crate::overlay::error::OverlayError;
use crate::overlay::lower::Lower;
use crate::overlay::state::Overlay;

/// Number of blocks examined while the file is locked: a millisecond or less.
const STEP: usize = 16;
/// Number of steps before the result is committed.
const STEPS: usize = 64;

impl<L: Lower> Overlay<L> {
    /// Continues until `until`, in files that are fully committed. A file that is being
    /// written has its turn after its next fsync.
    pub(in crate::overlay) fn shrink(&self, until: Instant) -> Result<(), OverlayError> {
        let mut files: Vec<Arc<File>> = self.files().values().cloned().collect();
        files.sort_by_key(|file| file.ino);
        for file in files {
            while Instant::now() < until && self.shrink_some(&file)? {}
            self.rest(&file);
        }
        Ok(())
    }

    /// Shrinks some blocks; returns `Ok(false)` if the file has none left to examine
    /// for now.
    fn shrink_some(&self, file: &Arc<File>) -> Result<bool, OverlayError> {
        let _syncing = file.syncing();
        if self.tree().is_dead(file.ino) {
            return Ok(false);
        }
        let mut more = true;
        for step in 0..STEPS {
            let Content::Blocks(blocks) = &mut *file.content_mut() else {
                return Ok(false);
            };
            if step == 0 && !(blocks.is_clean() && blocks.may_shrink()) {
                return Ok(false);
            }
            more = blocks.shrink(&self.ctx(), file.ino.0, STEP)?;
            if !more {
                break;
            }
        }
        let changed = matches!(&*file.content(), Content::Blocks(blocks) if !blocks.is_clean());
        if changed {
            self.sync_locked(file)?;
        }
        Ok(more)
    }
}
