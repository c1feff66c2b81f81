//! A file of the image with changed blocks in the diff.
//!
//! The source of the bytes of block `b` of the file:
//!
//! 1. If `b` is in `present`: the 8 KiB at `b * 8192` of the data file.
//! 2. Otherwise, below `base_len`: the image, with some bytes changed if `b` is a small
//!    block (`small.rs`).
//! 3. Otherwise zeros.
//!
//! The data file holds present blocks in full, and `size` truncates the last one.
//! Truncation lowers `base_len`, so that truncated image bytes never reappear when the
//! file is extended again.

mod bytes;
mod delta;
mod hydrate;
mod shrink;
mod small;
mod snapshot;
mod space;

use crate::pg::BLOCK_SIZE;

pub use bytes::Blocks;
pub use delta::apply as apply_delta;
pub use snapshot::BlocksSnapshot;

/// The block size, in the type of file offsets.
pub const BS: u64 = BLOCK_SIZE as u64;

/// The limit of block numbers, which are u32: a file is at most 32 TiB.
pub const MAX_BLOCKS: u64 = 1 << 32;
