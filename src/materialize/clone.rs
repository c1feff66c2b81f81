//! What a clone has made of its backup: the layout of the clone's tree, and the content
//! of the files that differ from the backup's.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::layout::{Item, Layout, Own, Spaces, Spot, spot_of};
use super::staging::io_error;
use crate::diff::{InodeKind, WAL_DIR};
use crate::escape::value;
use crate::image::Image;
use crate::overlay::{Attr, HIDDEN_DIR, Ino, Overlay, OverlayError, is_wal_link};
use crate::session::SessionError;
use crate::untrusted::{Dir, Kind};

/// A file that a killed server leaves, which would keep another from starting.
const PID_FILE: &str = "postmaster.pid";

/// A server that finds this file has not finished recovery.
const SIGNALS: [&str; 2] = ["recovery.signal", "standby.signal"];

/// How many levels of a WAL directory are read; PostgreSQL's has one below it.
const DEPTH: usize = 4;

/// Number of bytes read at a time.
const STEP: usize = 1 << 20;

/// A page of zeros is left as a hole.
const ZEROS: [u8; 8192] = [0; 8192];

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
    pub fn open(overlay: &'a Overlay<Image>, diff: &Path) -> Result<Self, SessionError> {
        let link = match overlay.lookup(Ino::ROOT, OsStr::new("pg_wal")) {
            Ok(attr) if attr.kind == InodeKind::Symlink => overlay.read_link(attr.ino).map(Some),
            Ok(_) | Err(OverlayError::NotFound) => Ok(None),
            Err(error) => Err(error),
        }?;
        let is_outside = link.is_some_and(|link| is_wal_link(Path::new(&link)));
        let path = diff.join(WAL_DIR);
        let open = || Dir::open(diff)?.dir(WAL_DIR);
        let wal = is_outside.then(open).transpose();
        let wal = wal.map_err(io_error("open", &path))?;
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
        for name in SIGNALS {
            if self.find(Ino::ROOT, name)?.is_some() {
                return Err(usage(format!(
                    "the clone in the diff has not finished its recovery ({name} exists); start \
                     it with recovery.action = \"promote\", or use --from-backup"
                )));
            }
        }
        let image = self.overlay.lower();
        let mut spaces = Spaces::of(image);
        let hidden = self.find(Ino::ROOT, HIDDEN_DIR)?;
        let places = match &hidden {
            Some(hidden) => self.find(hidden.ino, "tblspc")?,
            None => None,
        };
        for entry in places
            .iter()
            .flat_map(|dir| self.overlay.read_dir(dir.ino))
            .flatten()
        {
            spaces.add(&entry.name);
        }
        let (mut layout, by_oid) = Layout::empty(spaces, to, mapping)?;
        let mut left = vec![(Ino::ROOT, PathBuf::new())];
        left.extend(hidden.map(|hidden| (hidden.ino, PathBuf::from(HIDDEN_DIR))));
        while let Some((ino, path)) = left.pop() {
            let attr = self.overlay.attr(ino).map_err(|e| tree_error(&path, e))?;
            self.add(&mut layout, &by_oid, &attr, &path)?;
            if attr.kind == InodeKind::Directory {
                let entries = self
                    .overlay
                    .read_dir(ino)
                    .map_err(|e| tree_error(&path, e))?;
                let entries = entries
                    .into_iter()
                    .filter(|entry| entry.name != "." && entry.name != "..");
                left.extend(entries.map(|entry| (entry.ino, path.join(entry.name))));
            }
        }
        Ok(layout)
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
                let is_space = path.parent() == Some(Path::new("pg_tblspc"));
                let root = root
                    .and_then(|root| layout.roots.get(root))
                    .filter(|_| is_space);
                match (root, &self.wal) {
                    (Some(root), _) => layout.links.push((spot, root.to.clone())),
                    (None, Some(wal)) if path == Path::new("pg_wal") => {
                        layout.dirs.push(Item { spot, mode: 0o700 });
                        add_wal(layout, wal, Path::new(""), DEPTH)
                            .map_err(io_error("read", wal.path()))?;
                    }
                    _ => {
                        return Err(usage(format!(
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

    fn find(&self, dir: Ino, name: &str) -> Result<Option<Attr>, SessionError> {
        match self.overlay.lookup(dir, OsStr::new(name)) {
            Ok(attr) => Ok(Some(attr)),
            Err(OverlayError::NotFound) => Ok(None),
            Err(error) => Err(tree_error(Path::new(name), error)),
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
        let mut buffer = vec![0; STEP];
        let mut at = 0;
        loop {
            let count = self.overlay.read(ino, at, &mut buffer)?;
            if count == 0 {
                return Ok(at);
            }
            for page in buffer.get(..count).unwrap_or_default().chunks(ZEROS.len()) {
                if page != ZEROS.get(..page.len()).unwrap_or_default() {
                    take(at, page);
                }
                at += page.len() as u64;
            }
        }
    }

    fn read_wal(&self, name: &Path, take: &mut dyn FnMut(u64, &[u8])) -> io::Result<u64> {
        let wal = self.wal.as_ref().ok_or(io::ErrorKind::NotFound)?;
        let mut file = wal.file(name)?;
        let mut buffer = vec![0; STEP];
        let mut at = 0;
        loop {
            match file.read(&mut buffer) {
                Ok(0) => return Ok(at),
                Ok(count) => {
                    take(at, buffer.get(..count).unwrap_or_default());
                    at += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Adds the files of a WAL directory, as PostgreSQL has them below `pg_wal`.
fn add_wal(layout: &mut Layout, wal: &Dir, below: &Path, depth: usize) -> io::Result<()> {
    let here = match below.as_os_str().is_empty() {
        true => wal.dir(".")?,
        false => wal.dir(below)?,
    };
    for name in here.names()? {
        let path = below.join(&name);
        let spot = Spot {
            root: 0,
            path: Path::new("pg_wal").join(&path),
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

fn usage(message: String) -> SessionError {
    SessionError::Usage { message }
}

fn tree_error(path: &Path, source: OverlayError) -> SessionError {
    SessionError::Tree {
        action: "read",
        path: path.to_owned(),
        source: Box::new(source),
    }
}
