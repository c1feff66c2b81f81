//! The WAL directory, moved out of the tree. A link then leads from `pg_wal` to a
//! directory in the diff, which programs use without the overlay. WAL is written and
//! synced at every commit, is always new, and never needs the image below it.

mod changes;
mod moved;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::diff::WAL_DIR;

pub use changes::wal_changes;

/// PostgreSQL's name for the WAL directory.
pub const PG_WAL: &str = "pg_wal";

/// The location of the tree's WAL directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WalPlace {
    /// In the tree, with this size of its files in bytes.
    Tree(u64),
    /// In the diff, through a link of ours with this target. If the diff was moved or
    /// copied, the target is the old location.
    Diff(PathBuf),
    /// Nowhere, or in a place chosen by somebody else.
    Elsewhere,
}

/// Whether a link is ours, and its target a WAL directory in a diff.
pub fn is_wal_link(link: &Path) -> bool {
    link.file_name() == Some(OsStr::new(WAL_DIR))
}
