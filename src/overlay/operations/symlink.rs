//! Symbolic links. A tablespace's link is redirected into the mount.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::attr::Attr;
use super::names::Added;
use crate::diff::{InodeKind, now_ns};
use crate::overlay::HIDDEN_DIR;
use crate::overlay::error::OverlayError;
use crate::overlay::lower::Lower;
use crate::overlay::state::Overlay;
use crate::overlay::tree::{Ino, Inode, Tree};

/// The target of `pg_tblspc/OID`, without the OID.
const TABLESPACES: &str = "../.pbkfs/tblspc/";

impl<L: Lower> Overlay<L> {
    /// Creates a symbolic link. One that looks like a tablespace's (a number in
    /// `pg_tblspc`) is redirected into the mount: the clone must not write to a live
    /// tablespace directory, nor outside its diff.
    ///
    /// # Errors
    /// As for [`Overlay::create`].
    pub fn symlink(
        &self,
        parent: Ino,
        name: &OsStr,
        target: &Path,
        uid: u32,
        gid: u32,
    ) -> Result<Attr, OverlayError> {
        let mut tree = self.tree_mut();
        let target = if self.is_tablespace_link(parent, name) {
            self.vacant(&tree, parent, name)?;
            self.tablespace_dir(&mut tree, name, uid, gid)?
        } else {
            target.as_os_str().to_owned()
        };
        let mut new = Inode::new(InodeKind::Symlink, 0o777, uid, gid, now_ns());
        new.link = Some(target);
        let Added { ino, inode, .. } = self.add_named(&mut tree, parent, name, new)?;
        drop(tree);
        self.attr_of(ino, &inode)
    }

    fn is_tablespace_link(&self, parent: Ino, name: &OsStr) -> bool {
        let is_oid = name.to_str().is_some_and(|n| n.parse::<u32>().is_ok());
        is_oid && self.lower_child(Ino::ROOT, OsStr::new("pg_tblspc")) == Some(parent)
    }

    /// Creates `.pbkfs/tblspc/OID` and in it the version directory, which PostgreSQL
    /// has created at the real location just before this link
    /// (`create_tablespace_directories`). Returns the link's target.
    fn tablespace_dir(
        &self,
        tree: &mut Tree,
        oid: &OsStr,
        uid: u32,
        gid: u32,
    ) -> Result<OsString, OverlayError> {
        let mut dir = Ino::ROOT;
        let version = self
            .options
            .tablespace_version_dir
            .as_deref()
            .map(OsStr::new);
        let path = [
            Some(OsStr::new(HIDDEN_DIR)),
            Some(OsStr::new("tblspc")),
            Some(oid),
            version,
        ];
        for name in path.into_iter().flatten() {
            dir = match self.resolve(tree, dir, name) {
                Some(ino) => ino,
                None => {
                    let new = Inode::new(InodeKind::Directory, 0o700, uid, gid, now_ns());
                    self.add_named(tree, dir, name, new)?.ino
                }
            };
        }
        let mut target = OsString::from(TABLESPACES);
        target.push(oid);
        Ok(target)
    }

    /// Returns a symbolic link's target.
    ///
    /// # Errors
    /// Returns [`OverlayError::NotFound`], or [`OverlayError::Invalid`] for anything
    /// but a link.
    pub fn read_link(&self, ino: Ino) -> Result<OsString, OverlayError> {
        let inode = self.inode(&self.tree(), ino)?;
        self.shown_link(&inode)
            .ok_or(OverlayError::Invalid("not a symbolic link"))
    }

    /// Returns a symbolic link's target as it is shown.
    pub(in crate::overlay) fn shown_link(&self, inode: &Inode) -> Option<OsString> {
        let link = inode.link.as_ref()?;
        let oid = link.as_bytes().strip_prefix(TABLESPACES.as_bytes());
        match (oid, &self.options.data_dir) {
            (Some(oid), Some(data_dir)) => {
                let tablespaces = data_dir.join(HIDDEN_DIR).join("tblspc");
                Some(tablespaces.join(OsStr::from_bytes(oid)).into_os_string())
            }
            _ => Some(link.clone()),
        }
    }
}
