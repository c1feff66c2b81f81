//! Names: looking up, creating, removing, renaming, linking.

use std::ffi::OsStr;
use std::sync::Arc;

use super::attr::Attr;
use crate::diff::{DataFile, InodeKind, NameEntry, now_ns};
use crate::overlay::error::OverlayError;
use crate::overlay::lower::Lower;
use crate::overlay::state::Overlay;
use crate::overlay::tree::{Ino, Inode, Tree, is_hidden};

/// The longest name, as in all Linux file systems.
const NAME_MAX: usize = 255;

/// On a directory: what is created in it belongs to its group.
const S_ISGID: u32 = 0o2000;

/// A created inode; a regular file comes with its data file.
pub(super) struct Added {
    pub(super) ino: Ino,
    pub(super) inode: Inode,
    pub(super) data: Option<Arc<dyn DataFile>>,
}

impl<L: Lower> Overlay<L> {
    /// Returns the attributes of what `name` in `parent` refers to.
    ///
    /// # Errors
    /// Returns [`OverlayError::NotFound`], and as for [`Overlay::attr`].
    pub fn lookup(&self, parent: Ino, name: &OsStr) -> Result<Attr, OverlayError> {
        check_name(name)?;
        let (ino, inode) = {
            let tree = self.tree();
            let ino = self
                .resolve(&tree, parent, name)
                .ok_or(OverlayError::NotFound)?;
            (ino, self.inode(&tree, ino)?)
        };
        self.attr_of(ino, &inode)
    }

    /// Creates a file and opens it; [`Overlay::release`] closes it.
    ///
    /// # Errors
    /// Returns [`OverlayError::Exists`] and the like. Fails if the diff fails
    /// (`ENOSPC`).
    pub fn create(
        &self,
        parent: Ino,
        name: &OsStr,
        mode: u32,
        uid: u32,
        gid: u32,
    ) -> Result<Attr, OverlayError> {
        let mut tree = self.tree_mut();
        let new = Inode::new(InodeKind::File, mode, uid, gid, now_ns());
        let Added { ino, inode, data } = self.add_named(&mut tree, parent, name, new)?;
        if let Some(data) = data {
            self.open_new(ino, data);
        }
        drop(tree);
        self.attr_of(ino, &inode)
    }

    /// Creates a file, pipe or socket without opening it.
    ///
    /// # Errors
    /// As for [`Overlay::create`]; [`OverlayError::Unsupported`] for a directory or
    /// symbolic link.
    pub fn make_node(
        &self,
        parent: Ino,
        name: &OsStr,
        kind: InodeKind,
        mode: u32,
        uid: u32,
        gid: u32,
    ) -> Result<Attr, OverlayError> {
        if matches!(kind, InodeKind::Directory | InodeKind::Symlink) {
            return Err(OverlayError::Unsupported);
        }
        let mut tree = self.tree_mut();
        let new = Inode::new(kind, mode, uid, gid, now_ns());
        let Added { ino, inode, .. } = self.add_named(&mut tree, parent, name, new)?;
        drop(tree);
        self.attr_of(ino, &inode)
    }

    /// Creates a directory.
    ///
    /// # Errors
    /// As for [`Overlay::create`].
    pub fn make_dir(
        &self,
        parent: Ino,
        name: &OsStr,
        mode: u32,
        uid: u32,
        gid: u32,
    ) -> Result<Attr, OverlayError> {
        let mut tree = self.tree_mut();
        let new = Inode::new(InodeKind::Directory, mode, uid, gid, now_ns());
        let Added { ino, inode, .. } = self.add_named(&mut tree, parent, name, new)?;
        drop(tree);
        self.attr_of(ino, &inode)
    }

    /// Gives a file another name.
    ///
    /// # Errors
    /// As for [`Overlay::create`]; [`OverlayError::NotPermitted`] for a directory.
    pub fn link(&self, ino: Ino, parent: Ino, name: &OsStr) -> Result<Attr, OverlayError> {
        self.diff()?;
        let mut tree = self.tree_mut();
        let mut inode = self.inode(&tree, ino)?;
        if inode.kind == InodeKind::Directory {
            return Err(OverlayError::NotPermitted(
                "a directory cannot have a second name",
            ));
        }
        if tree.is_dead(ino) {
            return Err(OverlayError::NotFound);
        }
        self.vacant(&tree, parent, name)?;
        inode.nlink = inode.nlink.saturating_add(1);
        inode.ctime_ns = now_ns();
        tree.put(ino, inode.clone());
        tree.set_entry(parent, name, Some(NameEntry::Inode(ino.0)));
        self.touch(&mut tree, parent)?;
        drop(tree);
        self.attr_of(ino, &inode)
    }

    /// Removes a file's name. With the last name, the bytes are removed as well, once
    /// the file is no longer open.
    ///
    /// # Errors
    /// Returns [`OverlayError::NotFound`] or [`OverlayError::IsADirectory`].
    pub fn unlink(&self, parent: Ino, name: &OsStr) -> Result<(), OverlayError> {
        self.diff()?;
        let mut tree = self.tree_mut();
        let ino = self
            .resolve(&tree, parent, name)
            .ok_or(OverlayError::NotFound)?;
        if self.kind(&tree, ino) == Some(InodeKind::Directory) {
            return Err(OverlayError::IsADirectory);
        }
        self.detach(&mut tree, parent, name);
        self.drop_name(&mut tree, ino)?;
        self.touch(&mut tree, parent)?;
        self.reclaim(tree);
        Ok(())
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// Returns [`OverlayError::NotFound`], [`OverlayError::NotADirectory`] or
    /// [`OverlayError::NotEmpty`], and [`OverlayError::NotPermitted`] for the hidden
    /// directory.
    pub fn remove_dir(&self, parent: Ino, name: &OsStr) -> Result<(), OverlayError> {
        self.diff()?;
        let mut tree = self.tree_mut();
        let ino = self
            .resolve(&tree, parent, name)
            .ok_or(OverlayError::NotFound)?;
        self.require_directory(&tree, ino)?;
        Self::refuse_hidden(parent, name)?;
        if !self.is_empty_dir(&tree, ino) {
            return Err(OverlayError::NotEmpty);
        }
        self.detach(&mut tree, parent, name);
        Self::count_dirs(&mut tree, parent, name, -1);
        tree.bury(ino, false);
        self.touch(&mut tree, parent)?;
        self.reclaim(tree);
        Ok(())
    }

    /// Removes a name, leaving a whiteout if the image has the name.
    pub(super) fn detach(&self, tree: &mut Tree, parent: Ino, name: &OsStr) {
        let hides = self.lower_child(parent, name).is_some();
        tree.set_entry(parent, name, hides.then_some(NameEntry::Whiteout));
    }

    /// Decrements the link count, and buries the inode with its last name.
    pub(super) fn drop_name(&self, tree: &mut Tree, ino: Ino) -> Result<(), OverlayError> {
        let mut inode = self.inode(tree, ino)?;
        inode.nlink = inode.nlink.saturating_sub(1);
        inode.ctime_ns = now_ns();
        let gone = inode.nlink == 0;
        // `put` keeps what `bury` needs: the flag whether the store may have the inode
        // is part of it.
        tree.put(ino, inode);
        if gone {
            let open = self.is_open(ino);
            tree.bury(ino, open);
        }
        Ok(())
    }

    /// Updates a directory's times after a change of its content.
    pub(super) fn touch(&self, tree: &mut Tree, dir: Ino) -> Result<(), OverlayError> {
        let mut inode = self.inode(tree, dir)?;
        inode.mtime_ns = now_ns();
        inode.ctime_ns = inode.mtime_ns;
        tree.put(dir, inode);
        Ok(())
    }

    /// Gives a new inode a name, and its directory's group if that is set so.
    pub(super) fn add_named(
        &self,
        tree: &mut Tree,
        parent: Ino,
        name: &OsStr,
        mut inode: Inode,
    ) -> Result<Added, OverlayError> {
        let diff = self.diff()?;
        self.vacant(tree, parent, name)?;
        let dir = self.inode(tree, parent)?;
        if dir.mode & S_ISGID != 0 {
            inode.gid = dir.gid;
            if inode.kind == InodeKind::Directory {
                inode.mode |= S_ISGID;
            }
        }
        let ino = tree.add(inode.clone());
        let data = match inode.kind {
            InodeKind::File => Some(diff.storage().create(ino.0)),
            _ => None,
        };
        let data = data.transpose().inspect_err(|_| {
            tree.bury(ino, false);
            tree.take_reclaimable();
        })?;
        tree.set_entry(parent, name, Some(NameEntry::Inode(ino.0)));
        if inode.kind == InodeKind::Directory {
            tree.set_parent(ino, parent);
            Self::count_dirs(tree, parent, name, 1);
        }
        self.touch(tree, parent)?;
        Ok(Added { ino, inode, data })
    }

    pub(super) fn vacant(
        &self,
        tree: &Tree,
        parent: Ino,
        name: &OsStr,
    ) -> Result<(), OverlayError> {
        check_name(name)?;
        self.require_directory(tree, parent)?;
        match self.resolve(tree, parent, name) {
            Some(_) => Err(OverlayError::Exists),
            None => Ok(()),
        }
    }

    pub(super) fn refuse_hidden(parent: Ino, name: &OsStr) -> Result<(), OverlayError> {
        if is_hidden(parent, name) {
            return Err(OverlayError::NotPermitted(
                "this directory belongs to pbkfs",
            ));
        }
        Ok(())
    }
}

pub(super) fn check_name(name: &OsStr) -> Result<(), OverlayError> {
    if name.len() > NAME_MAX {
        return Err(OverlayError::NameTooLong);
    }
    Ok(())
}
