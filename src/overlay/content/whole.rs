//! A file that is whole in the diff.

use std::sync::Arc;

use crate::diff::{DataFile, DataStat};
use crate::image::NodeId;
use crate::overlay::error::OverlayError;

/// A file that is whole in the diff. Its size and times are the data file's, because on
/// a mount with passthrough the kernel writes there by itself.
pub struct Whole {
    pub data: Arc<dyn DataFile>,
    /// The image file it was copied from.
    pub origin: Option<NodeId>,
    /// Whether the store records that the file is whole. For the clone's own files the
    /// inode record implies it, so this is always true.
    pub committed: bool,
    /// The data file's state right after the copy-up. While it has not changed, the
    /// copy can be dropped.
    pub pristine: Option<DataStat>,
}

impl Whole {
    /// Whether the copy still equals the image. Copy-up sets the time of the last
    /// change to the backup's, and any write sets it to the current time.
    pub fn is_pristine(&self) -> Result<bool, OverlayError> {
        let Some(then) = self.pristine.filter(|_| !self.committed) else {
            return Ok(false);
        };
        let now = self.data.stat()?;
        Ok(now.len == then.len && now.mtime_ns == then.mtime_ns)
    }
}
