//! One data file of the image: which layer provides which block.
//!
//! A block comes from the newest layer that stores it. The highest block found determines
//! the file's length; lower blocks that no layer stores are zeros. The target's
//! `n_blocks` limits what the layers contribute, but never extends it. A truncation
//! marker truncates the layer that contains it and all older ones, but nothing newer.
//! Here pg_probackup's own restore differs, and loses data (`chain/risk.rs`).

mod build;
mod map;
mod merge;

pub(super) use map::{Given, Part, SegmentMap, Source};
