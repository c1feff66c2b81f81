//! One data file of the image: which layer gives which block.
//!
//! The newest layer that stores a block gives it. The file is as long as the
//! highest block so found; blocks below that no layer stores are zeros. The
//! target's `n_blocks` cuts what the layers may give, and never extends it. A
//! truncation marker cuts the layer that has it and all older ones, and nothing
//! that is newer. There pg_probackup's own restore differs, and loses data
//! (`chain/risk.rs`).

mod build;
mod map;
mod merge;

pub(super) use map::{Given, Part, SegmentMap, Source};
