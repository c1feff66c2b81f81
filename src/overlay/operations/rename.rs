//! Renaming, with all modes of `renameat2(2)`.

use std::ffi::OsStr;

use super::names::check_name;
use crate::diff::{InodeKind, NameEntry, now_ns};
use crate::overlay::error::OverlayError;
use crate::overlay::lower::Lower;
use crate::overlay::state::Overlay;
use crate::overlay::tree::{Ino, Tree};

/// The action of a rename if the new name exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RenameMode {
    /// Replaces it.
    Replace,
    /// Fails.
    NoReplace,
    /// Swaps the two.
    Exchange,
}

impl<L: Lower> Overlay<L> {
    /// Renames a file or directory.
    ///
    /// # Errors
    /// As the system call does: returns [`OverlayError::NotFound`], `Exists`,
    /// `NotEmpty`, `NotADirectory` or `IsADirectory`.
    pub fn rename(
        &self,
        parent: Ino,
        name: &OsStr,
        new_parent: Ino,
        new_name: &OsStr,
        mode: RenameMode,
    ) -> Result<(), OverlayError> {
        self.diff()?;
        check_name(new_name)?;
        Self::refuse_hidden(parent, name)?;
        Self::refuse_hidden(new_parent, new_name)?;
        let mut tree = self.tree_mut();
        self.require_directory(&tree, new_parent)?;
        let ino = self
            .resolve(&tree, parent, name)
            .ok_or(OverlayError::NotFound)?;
        let taken = self.resolve(&tree, new_parent, new_name);
        let swaps = taken.filter(|_| mode == RenameMode::Exchange);
        if self.is_within(&tree, new_parent, ino)
            || swaps.is_some_and(|other| self.is_within(&tree, parent, other))
        {
            return Err(OverlayError::Invalid(
                "a directory cannot be moved into itself",
            ));
        }
        if taken == Some(ino) && mode != RenameMode::NoReplace {
            return Ok(());
        }
        match (mode, taken) {
            (RenameMode::NoReplace, Some(_)) => return Err(OverlayError::Exists),
            (RenameMode::Exchange, None) => return Err(OverlayError::NotFound),
            (RenameMode::Exchange, Some(other)) => {
                self.leave(&mut tree, other, new_parent, new_name);
                self.place(&mut tree, other, parent, name)?;
            }
            (RenameMode::Replace, Some(old)) => {
                self.replace(&mut tree, ino, old)?;
                self.leave(&mut tree, old, new_parent, new_name);
                self.detach(&mut tree, parent, name);
            }
            (_, None) => self.detach(&mut tree, parent, name),
        }
        self.leave(&mut tree, ino, parent, name);
        self.place(&mut tree, ino, new_parent, new_name)?;
        self.touch(&mut tree, parent)?;
        self.touch(&mut tree, new_parent)?;
        self.reclaim(tree);
        Ok(())
    }

    /// Whether `dir` is `above` itself or below it.
    fn is_within(&self, tree: &Tree, mut dir: Ino, above: Ino) -> bool {
        while dir != above {
            if dir == Ino::ROOT {
                return false;
            }
            dir = self.parent(tree, dir);
        }
        true
    }

    /// Removes `old` so that `ino` can take its name.
    fn replace(&self, tree: &mut Tree, ino: Ino, old: Ino) -> Result<(), OverlayError> {
        let is_dir = self.kind(tree, ino) == Some(InodeKind::Directory);
        let old_is_dir = self.kind(tree, old) == Some(InodeKind::Directory);
        match (is_dir, old_is_dir) {
            (true, false) => Err(OverlayError::NotADirectory),
            (false, true) => Err(OverlayError::IsADirectory),
            (true, true) if !self.is_empty_dir(tree, old) => Err(OverlayError::NotEmpty),
            (true, true) => {
                tree.bury(old, false);
                Ok(())
            }
            (false, false) => self.drop_name(tree, old),
        }
    }

    /// Records that an inode is no longer at a name.
    fn leave(&self, tree: &mut Tree, ino: Ino, parent: Ino, name: &OsStr) {
        if self.kind(tree, ino) == Some(InodeKind::Directory) {
            Self::count_dirs(tree, parent, name, -1);
        }
    }

    /// Makes a name refer to an inode, whatever it referred to before.
    fn place(
        &self,
        tree: &mut Tree,
        ino: Ino,
        parent: Ino,
        name: &OsStr,
    ) -> Result<(), OverlayError> {
        tree.set_entry(parent, name, Some(NameEntry::Inode(ino.0)));
        let mut inode = self.inode(tree, ino)?;
        if inode.kind == InodeKind::Directory {
            tree.set_parent(ino, parent);
            Self::count_dirs(tree, parent, name, 1);
        }
        inode.ctime_ns = now_ns();
        tree.put(ino, inode);
        Ok(())
    }
}
