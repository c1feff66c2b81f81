//! The context of a file's content: the image below, and the diff.

use crate::diff::Diff;
use crate::image::NodeId;
use crate::overlay::error::OverlayError;
use crate::overlay::lower::Lower;

/// The context that content operations need.
pub struct Ctx<'a, L> {
    pub lower: &'a L,
    pub diff: Option<&'a Diff>,
}

impl<L: Lower> Ctx<'_, L> {
    pub fn diff(&self) -> Result<&Diff, OverlayError> {
        self.diff.ok_or(OverlayError::ReadOnly)
    }

    /// Reads image bytes that must exist.
    pub fn read_lower_exact(
        &self,
        node: NodeId,
        offset: u64,
        buf: &mut [u8],
    ) -> Result<(), OverlayError> {
        let n = self.lower.read_at(node, offset, buf)?;
        if n < buf.len() {
            let path = self.lower.path(node);
            return Err(OverlayError::Mismatch(format!(
                "{} ends at byte {}, but the diff expects {} bytes",
                path.display(),
                offset + n as u64,
                offset + buf.len() as u64
            )));
        }
        Ok(())
    }
}
