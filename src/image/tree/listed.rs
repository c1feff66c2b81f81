//! A backup's content list as directories: the tree before its nodes are numbered.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use super::{DIRECTORY_MODE, NO_ENTRY};
use crate::catalog::TablespaceMapping;
use crate::catalog::content::FileEntry;
use crate::image::error::ImageError;
use crate::image::layers::Layer;

/// [`super::TABLESPACES`], as paths in the content list are written.
const TABLESPACES: &[u8] = super::TABLESPACES.as_bytes();

/// Restore creates this file with its default mode, and never changes it.
const CONTROL_FILE: &[u8] = b"global/pg_control";
const CONTROL_FILE_MODE: u16 = 0o644;

/// Additional permissions of directories in a cluster with group access.
const GROUP_ACCESS: u16 = 0o050;

/// Files that restore uses but does not write.
const HIDDEN: [&[u8]; 2] = [b"tablespace_map", b"database_map"];

/// A node that is not placed yet.
pub(super) struct Item<'a> {
    /// The name's first bytes, which decide almost every comparison.
    start: u64,
    pub(super) name: Cow<'a, [u8]>,
    pub(super) kind: ItemKind,
}

/// What an item will become.
#[derive(Clone, Copy)]
pub(super) enum ItemKind {
    /// The directory with this number.
    Directory(usize),
    File {
        permissions: u16,
        entry: u32,
    },
    Symlink,
}

impl<'a> Item<'a> {
    fn new(name: impl Into<Cow<'a, [u8]>>, kind: ItemKind) -> Self {
        let name = name.into();
        let mut start = [0; 8];
        for (to, from) in start.iter_mut().zip(name.iter()) {
            *to = *from;
        }
        Self {
            // No name contains a zero byte, so this orders like the names.
            start: u64::from_be_bytes(start),
            name,
            kind,
        }
    }

    pub(super) fn order(&self, other: &Self) -> Ordering {
        self.start
            .cmp(&other.start)
            .then_with(|| self.name.cmp(&other.name))
    }
}

/// A directory that is not placed yet.
pub(super) struct Directory<'a> {
    pub(super) children: Vec<Item<'a>>,
    /// The numbers of its subdirectories.
    inner: HashMap<Vec<u8>, usize>,
    pub(super) permissions: u16,
    pub(super) entry: u32,
}

/// The directories of an image, by number. The root is 0.
pub(super) struct Directories<'a> {
    all: Vec<Directory<'a>>,
    /// Maximum number of directories.
    most: usize,
}

/// How many more directories than lines an image may have. A genuine list describes
/// nearly every directory that it needs. A forged one could name a thousand in each line,
/// which would only waste memory.
const UNDESCRIBED: usize = 10_000;

/// There are more directories than lines can account for.
struct TooMany;

impl<'a> Directories<'a> {
    /// Builds the directories of PGDATA from the target's content list, each at its place
    /// in the image, and adds our own.
    pub(super) fn listed(target: &'a Layer) -> Result<Self, ImageError> {
        let tablespaces: HashSet<String> = oids(&target.backup.tablespaces).collect();
        let mut directories = Self::new(target.list.len() + tablespaces.len() + UNDESCRIBED);
        let misplaced = |entry: &FileEntry<'_>| ImageError::Misplaced {
            path: OsStr::from_bytes(entry.path).into(),
            backup: target.backup.id.clone(),
            why: "the content list needs more directories than it has lines",
        };
        // Most files are in the same directory as the one before.
        let mut last: (&[u8], usize) = (b"", 0);
        for (index, entry) in target.list.iter().enumerate() {
            if entry.external_dir_num != 0 || HIDDEN.contains(&entry.path) {
                continue;
            }
            if entry.is_cfs {
                return Err(ImageError::Cfs {
                    path: OsStr::from_bytes(entry.path).into(),
                    backup: target.backup.id.clone(),
                });
            }
            // The list packs its entries with 32-bit numbers, so this fits.
            let index = index as u32;
            let permissions = permissions(&entry);
            if entry.is_directory() {
                let place = place_of(entry.path, &tablespaces);
                let directory = directories.of(&place);
                let directory = directory.map_err(|TooMany| misplaced(&entry))?;
                (directory.permissions, directory.entry) = (permissions, index);
                continue;
            }
            let (above, name) = split_path(entry.path);
            if above != last.0 {
                let place = place_of(entry.path, &tablespaces);
                let number = directories.number(split_path(&place).0);
                last = (above, number.map_err(|TooMany| misplaced(&entry))?);
            }
            let kind = ItemKind::File {
                permissions,
                entry: index,
            };
            let item = Item::new(name, kind);
            directories.all[last.1].children.push(item);
        }
        let added = add_tablespaces(&mut directories, &target.backup.tablespaces);
        added.map_err(|TooMany| ImageError::Misplaced {
            path: OsStr::from_bytes(TABLESPACES).into(),
            backup: target.backup.id.clone(),
            why: "there are too many tablespaces",
        })?;
        directories.give_undescribed_a_mode();
        Ok(directories)
    }

    /// Sets the mode of directories that no line describes, such as PGDATA itself. The
    /// server gives every directory that it creates PGDATA's permissions. Those of
    /// `global`, which it creates first, therefore show whether the cluster has group
    /// access (`initdb -g`).
    fn give_undescribed_a_mode(&mut self) {
        let root = self.all.first();
        let global = root.and_then(|root| self.all.get(*root.inner.get(&b"global"[..])?));
        let has_group_access =
            global.is_some_and(|global| global.permissions & GROUP_ACCESS == GROUP_ACCESS);
        if has_group_access {
            let undescribed = self.all.iter_mut().filter(|each| each.entry == NO_ENTRY);
            undescribed.for_each(|each| each.permissions |= GROUP_ACCESS);
        }
    }

    /// Returns all directories, indexed by their numbers.
    pub(super) fn into_all(self) -> Vec<Directory<'a>> {
        self.all
    }

    fn new(most: usize) -> Self {
        Self {
            all: vec![Directory::new()],
            most,
        }
    }

    /// Returns the number of a directory. It and its parents are created if they do not
    /// exist yet: a file's directory need not have a line.
    fn number(&mut self, path: &[u8]) -> Result<usize, TooMany> {
        let names = path.split(|&byte| byte == b'/');
        let mut names = names.filter(|name| !name.is_empty());
        names.try_fold(0, |above, name| self.inner(above, name))
    }

    /// Returns the number of a directory within another.
    fn inner(&mut self, above: usize, name: &[u8]) -> Result<usize, TooMany> {
        if let Some(&number) = self.all[above].inner.get(name) {
            return Ok(number);
        }
        let number = self.all.len();
        if number >= self.most {
            return Err(TooMany);
        }
        self.all.push(Directory::new());
        let above = &mut self.all[above];
        above.inner.insert(name.to_vec(), number);
        let item = Item::new(name.to_vec(), ItemKind::Directory(number));
        above.children.push(item);
        Ok(number)
    }

    fn of(&mut self, path: &[u8]) -> Result<&mut Directory<'a>, TooMany> {
        let number = self.number(path)?;
        Ok(&mut self.all[number])
    }
}

impl Directory<'_> {
    fn new() -> Self {
        Self {
            children: Vec::new(),
            inner: HashMap::new(),
            permissions: DIRECTORY_MODE,
            entry: NO_ENTRY,
        }
    }
}

/// Splits a path into its directory (empty for the root) and its name.
fn split_path(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

fn permissions(entry: &FileEntry<'_>) -> u16 {
    match entry.path {
        CONTROL_FILE => CONTROL_FILE_MODE,
        _ => (entry.mode & 0o777) as u16,
    }
}

/// Returns the tablespaces' names under `pg_tblspc`.
fn oids(tablespaces: &[TablespaceMapping]) -> impl Iterator<Item = String> + '_ {
    tablespaces.iter().map(|space| space.oid.to_string())
}

/// Returns the place in the image of a path in PGDATA, given the names of the relocated
/// tablespaces.
fn place_of<'a>(path: &'a [u8], tablespaces: &HashSet<String>) -> Cow<'a, [u8]> {
    let moved = || {
        let below = path.strip_prefix(b"pg_tblspc/")?;
        let name = below.split(|&byte| byte == b'/').next()?;
        let is_moved = str::from_utf8(name).is_ok_and(|name| tablespaces.contains(name));
        is_moved.then(|| [TABLESPACES, b"/", below].concat())
    };
    moved().map_or(Cow::Borrowed(path), Cow::Owned)
}

/// Adds our own directories and the links to them.
fn add_tablespaces(
    directories: &mut Directories<'_>,
    tablespaces: &[TablespaceMapping],
) -> Result<(), TooMany> {
    for oid in oids(tablespaces) {
        // Restore creates the directory of an empty tablespace, too.
        directories.number(&[TABLESPACES, b"/", oid.as_bytes()].concat())?;
        let link = Item::new(oid.into_bytes(), ItemKind::Symlink);
        directories.of(b"pg_tblspc")?.children.push(link);
    }
    Ok(())
}
