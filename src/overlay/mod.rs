//! Image + diff = one writable tree, in plain Rust types.
//!
//! The terms are those of Linux overlayfs: the image is the *lower* layer, the diff the
//! upper one; a *whiteout* hides a name of the image; *copy-up* copies image bytes into
//! the diff. Unlike in overlayfs, copy-up is per 8 KiB block: writing one page of a 1
//! GB segment stores one page.
//!
//! Durability:
//!
//! - `fsync` of a file syncs its data file, then commits which blocks the diff has
//!   (`operations/sync.rs`). A block's bit is never committed before its bytes are on
//!   disk. The other order could turn a page that was never fsynced into zeros after a
//!   crash.
//! - Changes of names (create, rename, unlink, attributes) are collected in memory and
//!   committed together, in the order in which they happened: every few seconds, and by
//!   `fsync` of a directory or of a new file.
//! - A file's bytes are deleted only after its removal is committed.
//!
//! Locks must be taken in this order: a file's `sync` mutex, the commit mutex, the
//! tree, the table of files, a file's content, the set of stored inodes or of parked
//! copies.

mod changes;
mod content;
mod counters;
mod error;
mod hydrate;
mod lower;
mod operations;
mod state;
#[cfg(test)]
mod tests;
mod tree;
mod wal;

pub use changes::{Change, ChangeKind, changes};
pub use content::apply_delta;
pub use error::OverlayError;
pub use hydrate::Unhydrated;
pub use lower::Lower;
#[cfg(test)]
pub use lower::LowerKind;
pub use operations::{Attr, AttrChange, DirEntry, FallocateMode, RenameMode, SeekKind, TimeChange};
pub use state::{Overlay, OverlayOptions};
pub use tree::Ino;
pub use wal::{PG_WAL, WalPlace};

/// Base files up to this size are copied up whole when they are opened on a mount with
/// passthrough. Catalogs then run at the speed of the diff's file system. Copies that
/// were not written to are dropped again.
pub const WHOLE_COPY_LIMIT: u64 = 1 << 20;

/// The hidden directory in the mount's root that holds tablespaces.
pub const HIDDEN_DIR: &str = ".pbkfs";
