//! A file that is whole in the diff.

use std::sync::Arc;

use crate::diff::{DataFile, DataStat};
use crate::image::NodeId;
use crate::overlay::error::OverlayError;

/// A file that is whole in the diff. Its length and times are the data
/// file's: on a mount with passthrough the kernel writes there by itself.
pub struct Whole {
    pub data: Arc<dyn DataFile>,
    /// The image file that it was copied from.
    pub origin: Option<NodeId>,
    /// Whether the store knows that the file is whole. For the clone's own
    /// files that is a matter of their inode, and always true here.
    pub committed: bool,
    /// The data file's state right after it was copied up; while it has not
    /// changed, the copy can be dropped.
    pub pristine: Option<DataStat>,
}

impl Whole {
    /// Whether the copy still equals the image. Any write sets the time of
    /// the last change to now, and copying up set it to the backup's.
    pub fn is_pristine(&self) -> Result<bool, OverlayError> {
        let Some(then) = self.pristine.filter(|_| !self.committed) else {
            return Ok(false);
        };
        let now = self.data.stat()?;
        Ok(now.len == then.len && now.mtime_ns == then.mtime_ns)
    }
}
