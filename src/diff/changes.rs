//! A summary of what a diff holds, for people.

use std::fmt;

use crate::figures::{counted, human_bytes};

/// What a diff holds, in numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Changes {
    /// Size of the data files on disk in bytes, without holes.
    pub bytes: u64,
    /// Number of files with content in the diff, changed or new.
    pub files: usize,
    /// Number of relations that these files belong to.
    pub relations: usize,
    /// Number of names created, hidden or moved, and of attributes changed.
    pub names: usize,
}

impl Changes {
    /// Whether the diff holds no changes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} in {} of {}, and {}",
            human_bytes(self.bytes),
            counted(self.files, "file"),
            counted(self.relations, "relation"),
            counted(self.names, "changed name"),
        )
    }
}
