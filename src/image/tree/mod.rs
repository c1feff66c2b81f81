//! The names of an image: one node per file or directory, in a flat table.
//!
//! Nodes are ordered by level, and by path within a level. A directory's children are
//! therefore adjacent and in the order of their names, and an id depends on the target's
//! content list alone.
//!
//! A tablespace of the backup is moved from `pg_tblspc/OID` to `.pbkfs/tblspc/OID` and
//! replaced by a relative symbolic link: the server requires a link there, and must not
//! reach the live directory.

mod listed;
mod node;
mod nodes;

pub use node::{NodeId, NodeKind};
pub(super) use nodes::Tree;

/// Directory of the tablespaces' content, below the root.
pub const TABLESPACES: &str = ".pbkfs/tblspc";

/// Mode of PGDATA, which has no entry of its own, and of directories that we add. In a
/// cluster with group access, the group may read them as well.
const DIRECTORY_MODE: u16 = 0o700;

/// Marks a node without a line in the content list.
const NO_ENTRY: u32 = u32::MAX;
