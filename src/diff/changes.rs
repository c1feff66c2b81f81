//! How much a diff holds, for people.

use std::fmt;

use crate::figures::{counted, human_bytes};

/// How much a diff holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Changes {
    /// Bytes on disk of the data files, holes left out.
    pub bytes: u64,
    /// Files with content in the diff, changed or new.
    pub files: usize,
    /// Relations that some of these files belong to.
    pub relations: usize,
    /// Names made, hidden or moved, and attributes changed.
    pub names: usize,
}

impl Changes {
    /// Whether there is nothing.
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
