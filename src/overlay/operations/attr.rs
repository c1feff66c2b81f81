//! Attributes: reading them for `stat`, and changing them.

use std::time::SystemTime;

use crate::diff::{InodeKind, now_ns, system_time, time_ns};
use crate::overlay::error::OverlayError;
use crate::overlay::lower::Lower;
use crate::overlay::state::Overlay;
use crate::overlay::tree::{Ino, Inode, Tree};

/// An inode's attributes, as `stat` shows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attr {
    /// The inode's number.
    pub ino: Ino,
    /// Its kind.
    pub kind: InodeKind,
    /// Size in bytes.
    pub size: u64,
    /// Space on disk, in units of 512 bytes.
    pub blocks: u64,
    /// Last access, as it was set: reading does not change it.
    pub atime: SystemTime,
    /// Last change of the content.
    pub mtime: SystemTime,
    /// Last change of the inode.
    pub ctime: SystemTime,
    /// Permission bits.
    pub mode: u32,
    /// Number of names that refer to it.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// A time to set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeChange {
    /// The time of the call.
    Now,
    /// This time.
    At(SystemTime),
}

/// The attributes to change; `None` leaves one unchanged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AttrChange {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Size in bytes.
    pub size: Option<u64>,
    /// Last access.
    pub atime: Option<TimeChange>,
    /// Last change of the content.
    pub mtime: Option<TimeChange>,
    /// The time of these changes, if not now: a kernel that caches writes keeps the
    /// time itself.
    pub ctime: Option<SystemTime>,
}

impl AttrChange {
    /// Whether only times are changed.
    fn is_of_times(&self) -> bool {
        let times = Self {
            atime: self.atime,
            mtime: self.mtime,
            ctime: self.ctime,
            ..Self::default()
        };
        *self == times
    }
}

impl<L: Lower> Overlay<L> {
    /// Returns an inode's attributes.
    ///
    /// # Errors
    /// Returns [`OverlayError::NotFound`] for an unknown inode. Fails if the size of an
    /// image file or of a data file cannot be determined.
    pub fn attr(&self, ino: Ino) -> Result<Attr, OverlayError> {
        let inode = self.inode(&self.tree(), ino)?;
        self.attr_of(ino, &inode)
    }

    pub(in crate::overlay) fn attr_of(
        &self,
        ino: Ino,
        inode: &Inode,
    ) -> Result<Attr, OverlayError> {
        let mut attr = Attr {
            ino,
            kind: inode.kind,
            size: 0,
            blocks: 0,
            atime: system_time(inode.atime_ns),
            mtime: system_time(inode.mtime_ns),
            ctime: system_time(inode.ctime_ns),
            mode: inode.mode,
            nlink: inode.nlink,
            uid: inode.uid,
            gid: inode.gid,
        };
        match inode.kind {
            InodeKind::File => {
                let stat = self.content_stat(ino)?;
                attr.size = stat.len;
                attr.blocks = stat.blocks;
                attr.mtime = system_time(stat.mtime_ns);
                attr.ctime = system_time(file_ctime(inode, stat.mtime_ns));
            }
            InodeKind::Directory => attr.size = 4096,
            InodeKind::Symlink => {
                attr.size = self.shown_link(inode).map_or(0, |link| link.len() as u64);
            }
            InodeKind::Fifo | InodeKind::Socket => {}
        }
        Ok(attr)
    }

    /// Returns the inode, from the diff or derived from the image's node.
    pub(in crate::overlay) fn inode(&self, tree: &Tree, ino: Ino) -> Result<Inode, OverlayError> {
        let mut inode = match tree.inode(ino) {
            Some(inode) => inode.clone(),
            None => self.image_inode(ino).ok_or(OverlayError::NotFound)?,
        };
        if inode.kind == InodeKind::Directory {
            inode.nlink = self.dir_links(tree, ino);
        }
        Ok(inode)
    }

    /// Derives an inode from the image's node.
    fn image_inode(&self, ino: Ino) -> Option<Inode> {
        let node = ino.node().filter(|node| self.lower.has(*node))?;
        let (kind, mode) = (self.lower.inode_kind(node), self.lower.mode(node));
        let (uid, gid) = (self.options.uid, self.options.gid);
        let mut inode = Inode::new(kind, mode, uid, gid, self.lower.timestamp_ns());
        inode.link = self.lower.symlink_target(node).map(Into::into);
        Some(inode)
    }

    /// Changes attributes and returns the new ones.
    ///
    /// # Errors
    /// As for [`Overlay::attr`]. Returns [`OverlayError::ReadOnly`], or
    /// [`OverlayError::IsADirectory`] for the size of a directory. Fails if the diff
    /// fails.
    pub fn set_attr(&self, ino: Ino, change: &AttrChange) -> Result<Attr, OverlayError> {
        self.diff()?;
        // Release the tree at once: setting the size may commit, which locks it.
        let (kind, is_dead) = {
            let tree = self.tree();
            let kind = self.kind(&tree, ino);
            (kind, kind == Some(InodeKind::File) && tree.is_dead(ino))
        };
        // A kernel that caches writes sends the times of a removed file when it evicts
        // the inode. They no longer matter.
        if is_dead && change.is_of_times() && !self.is_open(ino) {
            return Err(OverlayError::NotFound);
        }
        if let Some(size) = change.size {
            match kind {
                None => return Err(OverlayError::NotFound),
                Some(InodeKind::Directory) => return Err(OverlayError::IsADirectory),
                Some(InodeKind::File) => self.truncate(ino, size)?,
                Some(_) => return Err(OverlayError::Invalid("only a file's size can be set")),
            }
        }
        let now = now_ns();
        let at = |time| match time {
            TimeChange::Now => now,
            TimeChange::At(time) => time_ns(time),
        };
        let mtime_ns = change.mtime.map(at);
        let ctime_ns = change.ctime.map_or(now, time_ns);
        if let Some(mtime_ns) = mtime_ns
            && kind == Some(InodeKind::File)
        {
            self.set_content_mtime(ino, mtime_ns)?;
        }
        let mut tree = self.tree_mut();
        let mut inode = self.inode(&tree, ino)?;
        let touches_inode = change.mode.is_some()
            || change.uid.is_some()
            || change.gid.is_some()
            || change.atime.is_some();
        if touches_inode || mtime_ns.is_some_and(|ns| !goes_without_saying(&inode, ns, ctime_ns)) {
            inode.mode = change.mode.map_or(inode.mode, |mode| mode & 0o7777);
            inode.uid = change.uid.unwrap_or(inode.uid);
            inode.gid = change.gid.unwrap_or(inode.gid);
            inode.atime_ns = change.atime.map_or(inode.atime_ns, at);
            inode.mtime_ns = mtime_ns.unwrap_or(inode.mtime_ns);
            inode.ctime_ns = ctime_ns;
            tree.put(ino, inode.clone());
        }
        drop(tree);
        self.attr_of(ino, &inode)
    }
}

/// Returns when a regular file's inode was last changed. The content has a time of its
/// own, and each write changes the inode as well. But a time that was set explicitly
/// does not tell when it was set.
fn file_ctime(inode: &Inode, content_mtime_ns: i64) -> i64 {
    match content_mtime_ns == inode.mtime_ns {
        true => inode.ctime_ns,
        false => inode.ctime_ns.max(content_mtime_ns),
    }
}

/// Whether a file whose content has the time `mtime_ns` shows a change at `ctime_ns`
/// without a record of it. A kernel that caches writes sends their time with every
/// fsync, and a record of each would turn every fsync into a commit.
fn goes_without_saying(inode: &Inode, mtime_ns: i64, ctime_ns: i64) -> bool {
    let shown = file_ctime(inode, mtime_ns);
    let is_set_ahead = mtime_ns > ctime_ns && shown != ctime_ns;
    inode.kind == InodeKind::File && shown >= ctime_ns && !is_set_ahead
}
