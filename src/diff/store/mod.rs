//! `meta.redb`: the diff's metadata, in an ACID store.
//!
//! All changes are written by [`Store::commit`], one durable transaction per call.
//! The tables are described in `record.rs`.

mod backend;
mod check;
mod commit;
mod deltas;
mod handle;
mod metadata;
mod notes;
mod panics;
mod record;
mod reserved;
mod tables;

pub use backend::StoreBackend;
pub use metadata::Store;
pub use panics::panic_is_contained;
pub use record::{
    BLOCKS_PER_CHUNK, Batch, BlockChunk, ContentRecord, DeltaChange, HeldBlocks, InodeKind,
    InodeRecord, NameEntry, Namespace,
};
