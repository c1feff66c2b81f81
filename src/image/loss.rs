//! What pg_probackup's own restore would lose from a backup that the image shows in full.
//! `chain/risk.rs` explains why.

use std::fmt;
use std::path::PathBuf;

use super::error::ImageError;
use super::stored::display_path;
use super::tree::{NodeId, NodeKind};
use super::view::Image;
use crate::catalog::BackupId;
use crate::catalog::pages::PageIndex;
use crate::figures::counted;
use crate::pg::BlockNumber;

/// A file that restore truncates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoreLoss {
    /// The file inside PGDATA.
    pub path: PathBuf,
    /// The backup that would be restored.
    pub target: BackupId,
    /// The backup whose truncation marker restore mistakes for that of a newer one.
    pub marked_in: BackupId,
    /// The first lost block, within its segment.
    pub first_block: BlockNumber,
    /// Number of blocks from there to the end of the file.
    pub blocks: u32,
}

impl fmt::Display for RestoreLoss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "pg_probackup's own restore of backup {} loses {} from block {} on ({}), because of a \
             truncation that pg_probackup 2.2.7 or older recorded in backup {}; pbkfs shows all of \
             it; take a new FULL backup, and do not merge this chain",
            self.target,
            self.path.display(),
            self.first_block,
            counted(self.blocks, "block"),
            self.marked_in
        )
    }
}

/// The files that restore would truncate.
#[derive(Debug, Default)]
pub struct RestoreLosses {
    /// The affected files, in the order of their nodes.
    pub files: Vec<RestoreLoss>,
    /// Errors for files that could not be examined.
    pub untold: Vec<ImageError>,
}

impl Image {
    /// Returns the files that pg_probackup's own restore would truncate. This costs
    /// nothing for a chain without [`restore_risk`](crate::chain::Chain::restore_risk).
    /// Otherwise it reads the last bytes of each data file that the old backups store,
    /// and the page headers of those that end with a marker.
    #[must_use]
    pub fn restore_losses(&self) -> RestoreLosses {
        let mut found = RestoreLosses::default();
        if self.marked.is_empty() {
            return found;
        }
        for node in (0..self.node_count() as u32).map(NodeId) {
            if self.kind(node) != NodeKind::File || !self.is_paged(node) {
                continue;
            }
            match self.loss_of(node) {
                Ok(loss) => found.files.extend(loss),
                Err(error) => found.untold.push(error),
            }
        }
        found
    }

    fn loss_of(&self, node: NodeId) -> Result<Option<RestoreLoss>, ImageError> {
        let wanted = self.file_entry(node)?;
        let mut has_marker = false;
        for (number, layer) in self.layers.iter().enumerate() {
            if !self.marked.contains(&layer.backup.id) {
                continue;
            }
            let Some(found) = layer.list.find(wanted.path, 0) else {
                continue;
            };
            let entry = layer.list.entry(found);
            if entry.size <= 0 || !entry.is_datafile {
                continue;
            }
            let size = u64::try_from(entry.size).unwrap_or(0);
            let file = self.open_entry(number, found, size.saturating_sub(1)..size)?;
            let ends = PageIndex::ends_like_a_marker(&*file);
            has_marker |= ends.map_err(|source| self.stored_error(number, found, source))?;
        }
        if !has_marker {
            return Ok(None);
        }
        let segment = self.segment(node)?;
        let loss = segment.cut_by_restore.map(|cut| RestoreLoss {
            path: display_path(&wanted),
            target: self.target().backup.id.clone(),
            marked_in: self.layers[cut.layer].backup.id.clone(),
            first_block: BlockNumber(cut.block),
            blocks: segment.blocks() - cut.block,
        });
        Ok(loss)
    }
}
