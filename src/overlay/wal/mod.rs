//! The WAL directory, moved out of the tree: from then on a link leads from
//! `pg_wal` to a directory in the diff, which programs use without the
//! overlay. WAL is written and synced at every commit, always new, and never
//! needs the image below it.

mod changes;
mod moved;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::diff::WAL_DIR;

pub use changes::wal_changes;

/// What PostgreSQL calls it.
pub const PG_WAL: &str = "pg_wal";

/// How deep a WAL directory is looked into; PostgreSQL's has one level.
const DEPTH: usize = 4;

/// Where the tree's WAL directory is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WalPlace {
    /// In the tree, with so many bytes of files.
    Tree(u64),
    /// In the diff, by a link of ours that leads there or, if the diff was
    /// moved or copied, to where that was.
    Diff(PathBuf),
    /// Nowhere, or where somebody else made it.
    Elsewhere,
}

/// Whether a link is ours, and leads to a WAL directory in a diff.
pub fn is_wal_link(link: &Path) -> bool {
    link.file_name() == Some(OsStr::new(WAL_DIR))
}
