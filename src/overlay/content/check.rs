//! Checks of a diff's content records against the image.

use super::blocks::{BS, MAX_BLOCKS};
use crate::diff::{ContentRecord, DiffError, HeldBlocks};
use crate::image::NodeId;
use crate::overlay::lower::Lower;
use crate::overlay::tree::Ino;

/// Checks the blocks of an image file.
///
/// # Errors
/// Returns [`DiffError::BadRecord`].
pub fn check_blocks<L: Lower>(
    lower: &L,
    node: NodeId,
    record: &ContentRecord,
    held: &HeldBlocks,
) -> Result<(), DiffError> {
    let ContentRecord::Blocks { size, base_len, .. } = record else {
        return Ok(());
    };
    let bad = |reason: &str| Err(DiffError::record("content", Ino::of_node(node).0, &reason));
    let blocks = size.div_ceil(BS);
    if blocks > MAX_BLOCKS {
        return bad("the file is larger than the maximum");
    }
    let last = held.data.max().max(held.small.max());
    if last.is_some_and(|last| u64::from(last) >= blocks) {
        return bad("it has blocks past the end of the file");
    }
    // If the backup does not provide the size, its bytes cannot be read anyway.
    if lower.len(node).is_ok_and(|len| *base_len > len) {
        return bad("it shows more of the backup's file than exists");
    }
    Ok(())
}
