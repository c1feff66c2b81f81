//! A file of the image with changed blocks in the diff.
//!
//! Which bytes count, for block `b` of the file:
//!
//! 1. `b` in `present`: the 8 KiB at `b * 8192` of the data file;
//! 2. else, below `base_len`: the image's, with some bytes changed if `b` is
//!    a small block (`small.rs`);
//! 3. else zeros.
//!
//! The data file always holds whole blocks for those present; `size` cuts
//! the last one. Truncating lowers `base_len`, so that image bytes once cut
//! off never come back when the file grows again.

mod bytes;
mod delta;
mod shrink;
mod small;
mod snapshot;
mod space;

use crate::pg::BLOCK_SIZE;

pub use bytes::Blocks;
pub use delta::apply as apply_delta;
pub use snapshot::BlocksSnapshot;

/// The block size, as file offsets have it.
pub const BS: u64 = BLOCK_SIZE as u64;

/// A block's number is a u32: a file ends at 32 TiB.
pub const MAX_BLOCKS: u64 = 1 << 32;
