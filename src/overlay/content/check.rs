//! What a diff may say of a file's bytes over an image.

use super::blocks::{BS, MAX_BLOCKS};
use crate::diff::{ContentRecord, DiffError, HeldBlocks};
use crate::image::NodeId;
use crate::overlay::lower::Lower;
use crate::overlay::tree::Ino;

/// Checks where a file of the image has its bytes.
///
/// # Errors
/// [`DiffError::BadRecord`].
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
        return bad("the file is larger than any can be");
    }
    let last = held.data.max().max(held.small.max());
    if last.is_some_and(|last| u64::from(last) >= blocks) {
        return bad("it has blocks behind the file's end");
    }
    // Where the backup does not tell the length, its bytes cannot be read.
    if lower.len(node).is_ok_and(|len| *base_len > len) {
        return bad("it shows more of the backup's file than there is");
    }
    Ok(())
}
