//! What a clone has made of its backup: the layout of the clone's tree, and the content
//! of the files that differ from the backup's.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::io::{pread, retry_on_intr};

use super::layout::{Item, LINKS, Layout, Own, Spaces, Spot, spot_of};
use super::staging::io_error;
use crate::diff::{Diff, InodeKind, WAL_DEPTH, WAL_DIR};
use crate::escape::value;
use crate::image::{Image, TABLESPACES};
use crate::overlay::{Attr, HIDDEN_DIR, Ino, Overlay, OverlayError, PG_WAL, WalPlace};
use crate::pg::BLOCK_SIZE;
use crate::pg::page::Page;
use crate::session::{RECOVERY_SIGNALS, SessionError};
use crate::untrusted::{Dir, Kind};

/// A file that a killed server leaves, which would keep another from starting.
const PID_FILE: &str = "postmaster.pid";

/// Number of bytes read at a time.
const STEP: usize = 1 << 20;

/// A page of zeros is left as a hole.
const ZEROS: Page = [0; BLOCK_SIZE];

/// A clone that is down, with its diff open.
pub struct Source<'a> {
    /// Its tree.
    pub overlay: &'a Overlay<Image>,
    /// The server's WAL directory, if that is outside the tree.
    wal: Option<Dir>,
}

impl<'a> Source<'a> {
    /// Opens what the clone has in its diff besides the tree.
    ///
    /// # Errors
    /// If the WAL directory cannot be opened.
    pub fn open(overlay: &'a Overlay<Image>) -> Result<Self, SessionError> {
        // What else may be wrong with it is found by laying out the tree.
        let is_outside = matches!(overlay.wal_place(), Ok(WalPlace::Diff(_)));
        let diff = overlay.layer().and_then(Diff::dir).filter(|_| is_outside);
        let wal = diff.map(|diff| {
            let opened = diff.dir(WAL_DIR);
            opened.map_err(|e| SessionError::io("open", &diff.path().join(WAL_DIR), e))
        });
        let wal = wal.transpose()?;
        Ok(Self { overlay, wal })
    }

    /// Lays out the clone's tree, as [`Layout::of`] does the image's.
    ///
    /// # Errors
    /// If the clone has not finished recovery, or contains what a data directory of
    /// its own cannot have.
    pub fn lay_out(
        &self,
        to: &Path,
        mapping: &[(PathBuf, PathBuf)],
    ) -> Result<Layout, SessionError> {
        for name in RECOVERY_SIGNALS {
            if self.find(Ino::ROOT, OsStr::new(name))?.is_some() {
                return Err(SessionError::usage(format!(
                    "the clone in the diff has not finished its recovery ({name} exists); start \
                     it with recovery.action = \"promote\", or use --from-backup"
                )));
            }
        }
        let image = self.overlay.lower();
        let mut spaces = Spaces::of(image);
        let mut places = Some(Ino::ROOT);
        for name in Path::new(TABLESPACES) {
            let found = places.map(|dir| self.find(dir, name)).transpose()?;
            places = found.flatten().map(|attr| attr.ino);
        }
        if let Some(places) = places {
            for (_, path) in self.children(places, Path::new(""))? {
                spaces.add(path.as_os_str());
            }
        }
        let (mut layout, by_oid) = Layout::empty(spaces, to, mapping)?;
        let mut left = vec![(Ino::ROOT, PathBuf::new())];
        // The root does not list it.
        let hidden = self.find(Ino::ROOT, OsStr::new(HIDDEN_DIR))?;
        left.extend(hidden.map(|hidden| (hidden.ino, PathBuf::from(HIDDEN_DIR))));
        while let Some((ino, path)) = left.pop() {
            let attr = self.overlay.attr(ino).map_err(|e| tree_error(&path, e))?;
            self.add(&mut layout, &by_oid, &attr, &path)?;
            if attr.kind == InodeKind::Directory {
                left.extend(self.children(ino, &path)?);
            }
        }
        Ok(layout)
    }

    /// Returns what is in a directory, with the paths; `path` is the directory's.
    fn children(&self, dir: Ino, path: &Path) -> Result<Vec<(Ino, PathBuf)>, SessionError> {
        let entries = self.overlay.read_dir(dir);
        let entries = entries.map_err(|e| tree_error(path, e))?;
        // Without the directory itself and the one above it.
        let listed = entries.into_iter().skip(2);
        Ok(listed
            .map(|entry| (entry.ino, path.join(entry.name)))
            .collect())
    }

    fn add(
        &self,
        layout: &mut Layout,
        by_oid: &HashMap<OsString, usize>,
        attr: &Attr,
        path: &Path,
    ) -> Result<(), SessionError> {
        let Some(spot) = spot_of(path, by_oid) else {
            return Ok(());
        };
        let mode = attr.mode;
        match attr.kind {
            InodeKind::Directory => layout.dirs.push(Item { spot, mode }),
            InodeKind::File if path == Path::new(PID_FILE) => {}
            InodeKind::File => match attr.ino.node() {
                Some(node) if self.overlay.is_untouched(attr.ino) => {
                    layout.files.insert(node, Item { spot, mode });
                }
                _ => layout.own.push((Own::Tree(attr.ino), Item { spot, mode })),
            },
            InodeKind::Symlink => {
                let root = path.file_name().and_then(|name| by_oid.get(name)).copied();
                let is_space = path.parent() == Some(Path::new(LINKS));
                let root = root
                    .and_then(|root| layout.roots.get(root))
                    .filter(|_| is_space);
                match (root, &self.wal) {
                    (Some(root), _) => layout.links.push((spot, root.to.clone())),
                    (None, Some(wal)) if path == Path::new(PG_WAL) => {
                        layout.dirs.push(Item { spot, mode: 0o700 });
                        add_wal(layout, wal, Path::new(""), WAL_DEPTH)
                            .map_err(io_error("read", wal.path()))?;
                    }
                    _ => {
                        return Err(SessionError::usage(format!(
                            "the clone has a symbolic link at {}, which leads out of it; remove it",
                            value(path)
                        )));
                    }
                }
            }
            // Nothing of PostgreSQL's.
            InodeKind::Fifo | InodeKind::Socket => {}
        }
        Ok(())
    }

    fn find(&self, dir: Ino, name: &OsStr) -> Result<Option<Attr>, SessionError> {
        match self.overlay.lookup(dir, name) {
            Ok(attr) => Ok(Some(attr)),
            Err(OverlayError::NotFound) => Ok(None),
            Err(error) => Err(tree_error(Path::new(name), error)),
        }
    }

    /// Returns the space that a file takes, in bytes; its holes take none.
    ///
    /// # Errors
    /// If its attributes cannot be read.
    pub fn size(&self, own: &Own, path: &Path) -> Result<u64, SessionError> {
        match own {
            Own::Tree(ino) => {
                let attr = self.overlay.attr(*ino).map_err(|e| tree_error(path, e))?;
                Ok(attr.blocks.saturating_mul(512).min(attr.size))
            }
            Own::Wal(name) => {
                let stat = self.wal.as_ref().map(|wal| wal.stat(name)).transpose();
                let stat = stat.map_err(io_error("stat", path))?.flatten();
                Ok(stat.map_or(0, |stat| stat.disk_bytes))
            }
        }
    }

    /// Returns the file of the diff that is a file of the clone as a whole, if there is
    /// one.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn whole_file(&self, own: &Own, path: &Path) -> Result<Option<Arc<File>>, SessionError> {
        match (own, &self.wal) {
            (Own::Tree(ino), _) => {
                let file = self.overlay.whole_file(*ino);
                file.map_err(|e| tree_error(path, e))
            }
            (Own::Wal(name), Some(wal)) => {
                let file = wal.file(name).map_err(io_error("open", path))?;
                Ok(Some(Arc::new(file)))
            }
            (Own::Wal(_), None) => Ok(None),
        }
    }

    /// Reads a file piece by piece, and returns its length. Pages of zeros are left out.
    ///
    /// # Errors
    /// If any byte cannot be read.
    pub fn read(
        &self,
        own: &Own,
        path: &Path,
        take: &mut dyn FnMut(u64, &[u8]),
    ) -> Result<u64, SessionError> {
        match own {
            Own::Tree(ino) => {
                self.overlay.open(*ino).map_err(|e| tree_error(path, e))?;
                let length = self.read_tree(*ino, take);
                self.overlay.release(*ino);
                length.map_err(|e| tree_error(path, e))
            }
            Own::Wal(name) => self.read_wal(name, take).map_err(io_error("read", path)),
        }
    }

    fn read_tree(&self, ino: Ino, take: &mut dyn FnMut(u64, &[u8])) -> Result<u64, OverlayError> {
        let read = |buffer: &mut [u8], at| self.overlay.read(ino, at, buffer);
        read_on(read, &mut |start, piece| {
            for (at, page) in (start..)
                .step_by(ZEROS.len())
                .zip(piece.chunks(ZEROS.len()))
            {
                if !ZEROS.starts_with(page) {
                    take(at, page);
                }
            }
        })
    }

    fn read_wal(&self, name: &Path, take: &mut dyn FnMut(u64, &[u8])) -> io::Result<u64> {
        let wal = self.wal.as_ref().ok_or(io::ErrorKind::NotFound)?;
        let file = wal.file(name)?;
        let read = |buffer: &mut [u8], at| {
            let count = retry_on_intr(|| pread(&file, &mut *buffer, at))?;
            Ok::<_, io::Error>(count)
        };
        read_on(read, take)
    }
}

/// Reads until there is nothing left, and returns the length.
fn read_on<E>(
    read: impl Fn(&mut [u8], u64) -> Result<usize, E>,
    take: &mut dyn FnMut(u64, &[u8]),
) -> Result<u64, E> {
    let mut buffer = vec![0; STEP];
    let mut at = 0;
    loop {
        let count = read(&mut buffer, at)?;
        if count == 0 {
            return Ok(at);
        }
        take(at, buffer.get(..count).unwrap_or_default());
        at += count as u64;
    }
}

/// Adds the files of a WAL directory, as PostgreSQL has them below `pg_wal`.
fn add_wal(layout: &mut Layout, wal: &Dir, below: &Path, depth: usize) -> io::Result<()> {
    // An empty path would name nothing.
    let here = wal.dir(Path::new(".").join(below))?;
    for name in here.names()? {
        let path = below.join(&name);
        let spot = Spot {
            root: 0,
            path: Path::new(PG_WAL).join(&path),
        };
        match here.stat(&name)?.map(|stat| stat.kind) {
            Some(Kind::Directory) if depth > 0 => {
                layout.dirs.push(Item { spot, mode: 0o700 });
                add_wal(layout, wal, &path, depth - 1)?;
            }
            Some(Kind::File) => layout
                .own
                .push((Own::Wal(path), Item { spot, mode: 0o600 })),
            _ => return Err(io::Error::other("it contains something that is not WAL")),
        }
    }
    Ok(())
}

fn tree_error(path: &Path, source: OverlayError) -> SessionError {
    SessionError::Tree {
        action: "read",
        path: path.to_owned(),
        source: Box::new(source),
    }
}
