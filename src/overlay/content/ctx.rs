//! What is around a file's bytes: the image below, and the diff.

use crate::diff::Diff;
use crate::image::NodeId;
use crate::overlay::error::OverlayError;
use crate::overlay::lower::Lower;

/// What content needs from around it.
pub struct Ctx<'a, L> {
    pub lower: &'a L,
    pub diff: Option<&'a Diff>,
}

impl<L: Lower> Ctx<'_, L> {
    pub fn diff(&self) -> Result<&Diff, OverlayError> {
        self.diff.ok_or(OverlayError::ReadOnly)
    }

    /// Reads image bytes that must be there.
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
                "{} ends at byte {}, before the {} that the diff knows of",
                path.display(),
                offset + n as u64,
                offset + buf.len() as u64
            )));
        }
        Ok(())
    }
}
