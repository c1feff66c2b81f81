//! The operations on the tree, one file for each kind.
//!
//! All are methods of [`Overlay`](super::Overlay).

mod attr;
mod copies;
mod dirs;
mod files;
mod io;
mod links;
mod names;
mod rename;
mod shrink;
mod symlink;
mod sync;

pub use attr::{Attr, AttrChange, TimeChange};
pub use dirs::DirEntry;
pub use io::{FallocateMode, SeekKind};
pub use rename::RenameMode;
