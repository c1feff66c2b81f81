//! The names of an image: one node a file or directory, in a flat table.
//!
//! Nodes stand level by level, and by path within a level. So a directory's
//! children are neighbours in the order of their names, and an id depends on
//! the target's content list alone.
//!
//! A tablespace of the backup is moved from `pg_tblspc/OID` to
//! `.pbkfs/tblspc/OID`, and a relative symbolic link takes its place: the
//! server wants a link there, and must not be led to the live directory.

mod listed;
mod node;
mod nodes;

pub use node::{NodeId, NodeKind};
pub(super) use nodes::Tree;

/// PGDATA has no entry of its own; so too for directories that we add. Of a
/// cluster with group access the group may read them besides.
const DIRECTORY_MODE: u16 = 0o700;

/// A node that no line of the content list stands for.
const NO_ENTRY: u32 = u32::MAX;
