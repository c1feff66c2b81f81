//! Reading directories.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};

use crate::diff::{InodeKind, NameEntry};
use crate::overlay::HIDDEN_DIR;
use crate::overlay::error::OverlayError;
use crate::overlay::lower::Lower;
use crate::overlay::state::Overlay;
use crate::overlay::tree::{Ino, Tree, is_hidden};

/// One entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// The inode that it refers to.
    pub ino: Ino,
    /// Its name.
    pub name: OsString,
    /// Its kind.
    pub kind: InodeKind,
}

impl<L: Lower> Overlay<L> {
    /// Returns all entries of a directory: `.` and `..` first, then the others by name.
    /// The root's hidden directory is left out.
    ///
    /// # Errors
    /// Returns [`OverlayError::NotFound`] or [`OverlayError::NotADirectory`].
    pub fn read_dir(&self, dir: Ino) -> Result<Vec<DirEntry>, OverlayError> {
        let tree = self.tree();
        self.require_directory(&tree, dir)?;
        let entry = |ino, name: &str| DirEntry {
            ino,
            name: name.into(),
            kind: InodeKind::Directory,
        };
        let mut entries = vec![entry(dir, "."), entry(self.parent(&tree, dir), "..")];
        for (name, ino) in self.merged_names(&tree, dir) {
            if is_hidden(dir, name) {
                continue;
            }
            let kind = self.kind(&tree, ino).ok_or(OverlayError::NotFound)?;
            entries.push(DirEntry {
                ino,
                name: name.to_owned(),
                kind,
            });
        }
        Ok(entries)
    }

    /// Whether an absent name can only appear by a request for that name. This does not
    /// hold below the hidden directory, where a symbolic link in `pg_tblspc` creates
    /// directories.
    #[must_use]
    pub fn stays_absent(&self, dir: Ino, name: &OsStr) -> bool {
        if dir == Ino::ROOT {
            return name != HIDDEN_DIR;
        }
        let tree = self.tree();
        let hidden = self.resolve(&tree, Ino::ROOT, OsStr::new(HIDDEN_DIR));
        let mut above = dir;
        while above != Ino::ROOT {
            if Some(above) == hidden {
                return false;
            }
            above = self.parent(&tree, above);
        }
        true
    }

    pub(in crate::overlay) fn is_empty_dir(&self, tree: &Tree, dir: Ino) -> bool {
        self.merged_names(tree, dir).is_empty()
    }

    pub(in crate::overlay) fn parent(&self, tree: &Tree, dir: Ino) -> Ino {
        tree.parent(dir)
            .or_else(|| dir.node().map(|node| Ino::of_node(self.lower.parent(node))))
            .unwrap_or(Ino::ROOT)
    }

    fn merged_names<'a>(&'a self, tree: &'a Tree, dir: Ino) -> BTreeMap<&'a OsStr, Ino> {
        let mut names = BTreeMap::new();
        if let Some(node) = dir.node().filter(|node| self.lower.has(*node)) {
            for child in self.lower.children(node) {
                names.insert(self.lower.name(child), Ino::of_node(child));
            }
        }
        for (name, entry) in tree.entries(dir) {
            match entry {
                NameEntry::Inode(ino) => names.insert(name.as_os_str(), Ino(ino)),
                NameEntry::Whiteout => names.remove(name.as_os_str()),
            };
        }
        names
    }
}
