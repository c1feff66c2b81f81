//! Image + diff = one writable tree, in plain Rust types.
//!
//! The terms are those of Linux overlayfs: the image is the *lower* layer,
//! the diff the upper one; a *whiteout* hides a name of the image; *copy-up*
//! brings image bytes into the diff. Unlike overlayfs, copy-up is per 8 KiB
//! block: writing one page of a 1 GB segment stores one page.
//!
//! What is durable when:
//!
//! - `fsync` of a file syncs its data file, then commits which blocks the
//!   diff has (`operations/sync.rs`). A block's bit is never committed before its bytes
//!   are on disk; the other order could turn a page that was never fsynced
//!   into zeros after a crash.
//! - Names (create, rename, unlink, attributes) gather in memory and are
//!   committed together, in the order they happened, by `fsync` of a directory
//!   or of a file that is new, and every few seconds.
//! - A file's bytes are deleted only after its removal is committed.
//!
//! Locks, in the order in which they may be taken together: a file's `sync`
//! mutex, the commit mutex, the tree, the table of files, a file's content, the
//! set of stored inodes or of parked copies.

mod changes;
mod content;
mod counters;
mod error;
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
pub use lower::Lower;
#[cfg(test)]
pub use lower::LowerKind;
pub use operations::{Attr, AttrChange, DirEntry, FallocateMode, RenameMode, SeekKind, TimeChange};
pub use state::{Overlay, OverlayOptions};
pub use tree::Ino;
pub use wal::WalPlace;

/// Base files up to this length are copied up whole when they are opened on
/// a mount with passthrough: catalogs then run at the speed of the diff's
/// file system, and what was not written is dropped again.
pub const WHOLE_COPY_LIMIT: u64 = 1 << 20;

/// The hidden directory in the mount's root that holds tablespaces.
pub const HIDDEN_DIR: &str = ".pbkfs";
