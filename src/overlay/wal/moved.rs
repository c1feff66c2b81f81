//! Moving the WAL directory out of the tree.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use super::{PG_WAL, WalPlace, is_wal_link};
use crate::diff::{InodeKind, WAL_DEPTH};
use crate::overlay::error::OverlayError;
use crate::overlay::lower::Lower;
use crate::overlay::operations::Attr;
use crate::overlay::state::Overlay;
use crate::overlay::tree::Ino;
use crate::untrusted::{Dir, give};

/// Number of bytes copied at a time.
const STEP: usize = 1 << 20;

impl<L: Lower> Overlay<L> {
    /// Returns the location of the WAL directory.
    ///
    /// # Errors
    /// If attributes cannot be read. Returns [`OverlayError::Unsupported`] if it
    /// contains anything but files and directories, or directories nested deeper than
    /// PostgreSQL's.
    pub fn wal_place(&self) -> Result<WalPlace, OverlayError> {
        let attr = match self.lookup(Ino::ROOT, OsStr::new(PG_WAL)) {
            Ok(attr) => attr,
            Err(OverlayError::NotFound) => return Ok(WalPlace::Elsewhere),
            Err(error) => return Err(error),
        };
        match attr.kind {
            InodeKind::Directory => Ok(WalPlace::Tree(self.bytes_in(attr.ino, WAL_DEPTH)?)),
            InodeKind::Symlink => {
                let link = PathBuf::from(self.read_link(attr.ino)?);
                match is_wal_link(&link) {
                    true => Ok(WalPlace::Diff(link)),
                    false => Ok(WalPlace::Elsewhere),
                }
            }
            _ => Ok(WalPlace::Elsewhere),
        }
    }

    /// Copies the WAL directory into the diff, which must not have one yet, and syncs
    /// the copy if `durable`. The copies belong to `owner` (user and group) and are
    /// accessible to nobody else: the tree's owners and modes may come from the clone
    /// or a foreign diff, and these files are outside the mount.
    ///
    /// # Errors
    /// If reading the tree fails, or if copying fails; a part of the copy may then be
    /// left.
    pub fn copy_wal(&self, owner: (u32, u32), durable: bool) -> Result<(), OverlayError> {
        let attr = self.lookup(Ino::ROOT, OsStr::new(PG_WAL))?;
        let diff = self.diff()?;
        self.copy_dir(&attr, &diff.make_wal_dir()?, owner, durable)?;
        match durable {
            true => Ok(diff.sync_root()?),
            false => Ok(()),
        }
    }

    /// Replaces the WAL directory, or a link to elsewhere, by a link to `to`, and
    /// commits that at once.
    ///
    /// # Errors
    /// If the diff fails.
    pub fn link_wal(&self, to: &Path) -> Result<(), OverlayError> {
        let name = OsStr::new(PG_WAL);
        let attr = self.lookup(Ino::ROOT, name)?;
        let root = self.attr(Ino::ROOT)?;
        self.remove_all(Ino::ROOT, name, &attr)?;
        self.symlink(Ino::ROOT, name, to, root.uid, root.gid)?;
        // One commit suffices: nobody else changes the tree yet.
        self.sync_names()
    }

    /// Returns the entries of a directory without `.` and `..`.
    fn entries_of(&self, dir: Ino) -> Result<Vec<(OsString, Attr)>, OverlayError> {
        let listed = self.read_dir(dir)?.into_iter().skip(2);
        listed
            .map(|entry| Ok((entry.name, self.attr(entry.ino)?)))
            .collect()
    }

    fn bytes_in(&self, dir: Ino, depth: usize) -> Result<u64, OverlayError> {
        let depth = depth.checked_sub(1).ok_or(OverlayError::Unsupported)?;
        let mut bytes = 0_u64;
        for (_, attr) in self.entries_of(dir)? {
            bytes = bytes.saturating_add(match attr.kind {
                InodeKind::Directory => self.bytes_in(attr.ino, depth)?,
                InodeKind::File => attr.size,
                _ => return Err(OverlayError::Unsupported),
            });
        }
        Ok(bytes)
    }

    /// Copies relative to an opened directory: the diff may belong to another user, who
    /// can replace names by links.
    fn copy_dir(
        &self,
        dir: &Attr,
        to: &Dir,
        owner: (u32, u32),
        durable: bool,
    ) -> Result<(), OverlayError> {
        for (name, attr) in self.entries_of(dir.ino)? {
            match attr.kind {
                InodeKind::Directory => {
                    self.copy_dir(&attr, &to.make_dir(&name, 0o700)?, owner, durable)?;
                }
                _ => self.copy_file(&attr, to.create(&name, 0o600)?, owner, durable)?,
            }
        }
        to.give_to(owner.0, owner.1)?;
        match durable {
            true => Ok(to.sync()?),
            false => Ok(()),
        }
    }

    fn copy_file(
        &self,
        file: &Attr,
        mut copy: File,
        owner: (u32, u32),
        durable: bool,
    ) -> Result<(), OverlayError> {
        let mut buf = vec![0; STEP];
        let mut offset = 0;
        loop {
            let n = self.read(file.ino, offset, &mut buf)?;
            if n == 0 {
                break;
            }
            copy.write_all(buf.get(..n).unwrap_or_default())?;
            offset += n as u64;
        }
        give(&copy, owner.0, owner.1)?;
        copy.set_modified(file.mtime)?;
        if durable {
            copy.sync_all()?;
        }
        Ok(())
    }

    /// Removes what is at a name, with everything in it.
    fn remove_all(&self, parent: Ino, name: &OsStr, found: &Attr) -> Result<(), OverlayError> {
        if found.kind != InodeKind::Directory {
            return self.unlink(parent, name);
        }
        for (inner, attr) in self.entries_of(found.ino)? {
            self.remove_all(found.ino, &inner, &attr)?;
        }
        self.remove_dir(parent, name)
    }
}
