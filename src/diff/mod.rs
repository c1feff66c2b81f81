//! The writable layer on disk: what a clone changed, and nothing else.
//!
//! ```text
//! DIFF/.pbkfs-binding.json   the backup that the diff belongs to      -> directory
//! DIFF/.pbkfs-lock           flock'ed while in use, never deleted     -> lock
//! DIFF/meta.redb             names, inodes, which blocks are here,    -> store
//!                            and small changes of blocks
//! DIFF/data/INODE            the bytes, at their natural offsets      -> data
//! DIFF/.pbkfs-wal/           the server's pg_wal, once one has run    -> directory
//! DIFF/.pbkfs-catalog/       what is still needed of the catalog        -> directory
//! DIFF/.pbkfs-promotion.json the data directory that it became        -> directory
//! ```
//!
//! All of it may have been copied from anywhere, so it is untrusted
//! ([`crate::untrusted`]). The directory is opened once (`directory`). What is read
//! from the store is checked where it enters: by `store` on its own, by the overlay
//! against the image. A panic of the store becomes an error (`store/panics.rs`).
//!
//! This module stores and finds. What its parts mean together (which block wins, when a
//! bit may become durable) is decided in [`crate::overlay`]. Both depend on one rule:
//! **metadata that refers to bytes is committed only after those bytes are on disk.**

mod changes;
mod cleanup;
mod data;
mod directory;
mod error;
mod inspect;
mod layout;
mod lock;
mod opened;
mod store;

pub use changes::Changes;
pub use cleanup::Cleanup;
#[cfg(test)]
pub use data::Storage;
pub use data::{DataFile, DataStat, now_ns, system_time, time_ns};
pub use directory::{Binding, FORMAT_VERSION, Promotion};
pub use error::DiffError;
pub use inspect::{HeldContent, Records, check, inspect};
pub use layout::{CATALOG_DIR, WAL_DEPTH, WAL_DIR};
pub use lock::{DiffLock, LockHolder, has_ended};
pub use opened::Diff;
#[cfg(test)]
pub use store::StoreBackend;
pub use store::{
    BLOCKS_PER_CHUNK, Batch, BlockChunk, ContentRecord, DeltaChange, HeldBlocks, InodeKind,
    InodeRecord, NameEntry, Namespace, Store, panic_is_contained,
};

#[cfg(test)]
mod tests;
