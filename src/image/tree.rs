//! The names of an image: one node a file or directory, in a flat table.
//!
//! Nodes stand level by level, and by path within a level. So a directory's
//! children are neighbours in the order of their names, and an id depends on
//! the target's content list alone.
//!
//! A tablespace of the backup is moved from `pg_tblspc/OID` to
//! `.pbkfs/tblspc/OID`, and a relative symbolic link takes its place: the
//! server wants a link there, and must not be led to the live directory.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::HashSet;
use std::ffi::OsStr;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::{ImageError, Layer};
use crate::catalog::TablespaceMapping;
use crate::catalog::content::FileEntry;

/// A node of an image: a file, directory or symbolic link. 0 is the root.
#[derive(Copy, Clone, Eq, PartialEq, Hash, Ord, PartialOrd, Debug)]
pub struct NodeId(pub u32);

/// What a node is.
#[derive(Copy, Clone, Eq, PartialEq, Hash, Debug)]
pub enum NodeKind {
    /// A directory.
    Directory,
    /// A regular file.
    File,
    /// A symbolic link.
    Symlink,
}

/// Our own directory inside the mount, and where tablespaces live in it.
const OWN_DIRECTORY: &[u8] = b".pbkfs";
const TABLESPACES: &[u8] = b".pbkfs/tblspc";

/// PGDATA has no entry of its own; so too for directories that we add.
const DIRECTORY_MODE: u16 = 0o700;

/// Restore writes this one with its default mode, and never sets another.
const CONTROL_FILE: &[u8] = b"global/pg_control";
const CONTROL_FILE_MODE: u16 = 0o644;

/// Files that restore uses and does not write.
const HIDDEN: [&[u8]; 2] = [b"tablespace_map", b"database_map"];

/// A node that no line of the content list stands for.
const NO_ENTRY: u32 = u32::MAX;

#[derive(Debug)]
pub(super) struct Node {
    name_offset: u32,
    name_length: u16,
    pub(super) permissions: u16,
    pub(super) kind: NodeKind,
    pub(super) parent: NodeId,
    first_child: u32,
    child_count: u32,
    /// Index into the target's content list, or [`NO_ENTRY`].
    entry: u32,
}

#[derive(Debug)]
pub(super) struct Tree {
    nodes: Vec<Node>,
    names: Vec<u8>,
    links: Vec<(NodeId, PathBuf)>,
}

/// A node before it has its place.
struct Item<'a> {
    path: Cow<'a, [u8]>,
    depth: usize,
    kind: NodeKind,
    permissions: u16,
    entry: u32,
}

impl<'a> Item<'a> {
    fn new(path: impl Into<Cow<'a, [u8]>>, kind: NodeKind, permissions: u16, entry: u32) -> Self {
        let path = path.into();
        Self {
            depth: path.iter().filter(|&&byte| byte == b'/').count(),
            path,
            kind,
            permissions,
            entry,
        }
    }

    fn directory(path: impl Into<Cow<'a, [u8]>>, permissions: u16) -> Self {
        Self::new(path, NodeKind::Directory, permissions, NO_ENTRY)
    }

    fn order(&self, other: &Self) -> Ordering {
        self.depth
            .cmp(&other.depth)
            .then_with(|| compare_paths(&self.path, &other.path))
    }
}

/// By components, so that a directory's children are neighbours.
fn compare_paths(a: &[u8], b: &[u8]) -> Ordering {
    let slash = |&byte: &u8| byte == b'/';
    a.split(slash).cmp(b.split(slash))
}

/// A path's directory (empty for the root) and its name in it.
fn split_path(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

impl Tree {
    /// Lays out what the target of a chain holds.
    pub(super) fn build(target: &Layer) -> Result<Self, ImageError> {
        let mut items = listed(target)?;
        add_tablespaces(&mut items, &target.backup.tablespaces);
        add_missing_directories(&mut items);
        items.sort_by(Item::order);
        let mut tree = Self {
            nodes: vec![Node {
                name_offset: 0,
                name_length: 0,
                permissions: DIRECTORY_MODE,
                kind: NodeKind::Directory,
                parent: NodeId(0),
                first_child: 0,
                child_count: 0,
                entry: NO_ENTRY,
            }],
            names: Vec::new(),
            links: Vec::new(),
        };
        tree.place(&items)
            .map_err(|(path, why)| ImageError::Misplaced {
                path: OsStr::from_bytes(path).into(),
                backup: target.backup.id.clone(),
                why,
            })?;
        Ok(tree)
    }

    /// Adds the sorted items below the root. Since parents stand in the same
    /// order as their children, one cursor finds every parent.
    fn place<'a>(&mut self, items: &'a [Item<'_>]) -> Result<(), (&'a [u8], &'static str)> {
        let mut parent = 0;
        for (at, item) in items.iter().enumerate() {
            let fail = |why| Err((&*item.path, why));
            if at > 0 && items[at - 1].path == item.path {
                return fail("its place is taken");
            }
            let (directory, name) = split_path(&item.path);
            let path_of = |node: usize| node.checked_sub(1).map_or(&b""[..], |at| &items[at].path);
            while parent <= at && path_of(parent) != directory {
                parent += 1;
            }
            let id = self.nodes.len();
            let Some(owner) = self.nodes.get_mut(parent) else {
                return fail("its directory is not in the backup");
            };
            if owner.kind != NodeKind::Directory {
                return fail("it is in something that is no directory");
            }
            let (Ok(number), Ok(name_offset), Ok(name_length)) = (
                u32::try_from(id),
                u32::try_from(self.names.len()),
                u16::try_from(name.len()),
            ) else {
                return fail("there are more than four thousand million names");
            };
            if owner.child_count == 0 {
                owner.first_child = number;
            }
            owner.child_count += 1;
            self.names.extend_from_slice(name);
            self.nodes.push(Node {
                name_offset,
                name_length,
                permissions: item.permissions,
                kind: item.kind,
                parent: NodeId(parent as u32),
                first_child: 0,
                child_count: 0,
                entry: item.entry,
            });
            if item.kind == NodeKind::Symlink {
                let target = Path::new("../.pbkfs/tblspc").join(OsStr::from_bytes(name));
                self.links.push((NodeId(number), target));
            }
        }
        Ok(())
    }

    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = NodeId> {
        // `place` gives no number beyond u32.
        (0..self.nodes.len() as u32).map(NodeId)
    }

    /// The node of an id; the root's for an id that was never given out.
    pub(super) fn node(&self, id: NodeId) -> &Node {
        self.nodes.get(id.0 as usize).unwrap_or(&self.nodes[0])
    }

    /// The node's line in the target's content list.
    pub(super) fn entry(&self, id: NodeId) -> Option<usize> {
        let node = self.nodes.get(id.0 as usize)?;
        (node.entry != NO_ENTRY).then_some(node.entry as usize)
    }

    pub(super) fn name(&self, id: NodeId) -> &[u8] {
        let node = self.node(id);
        let start = node.name_offset as usize;
        &self.names[start..start + usize::from(node.name_length)]
    }

    pub(super) fn path(&self, id: NodeId) -> PathBuf {
        let mut names = Vec::new();
        let mut at = id;
        while self.node(at).parent != at && !self.name(at).is_empty() {
            names.push(OsStr::from_bytes(self.name(at)));
            at = self.node(at).parent;
        }
        names.iter().rev().collect()
    }

    pub(super) fn children(&self, directory: NodeId) -> Range<u32> {
        let node = self.node(directory);
        node.first_child..node.first_child + node.child_count
    }

    pub(super) fn lookup(&self, directory: NodeId, name: &[u8]) -> Option<NodeId> {
        let mut range = self.children(directory);
        while range.start < range.end {
            let middle = range.start + (range.end - range.start) / 2;
            match self.name(NodeId(middle)).cmp(name) {
                Ordering::Equal => return Some(NodeId(middle)),
                Ordering::Less => range.start = middle + 1,
                Ordering::Greater => range.end = middle,
            }
        }
        None
    }

    pub(super) fn symlink_target(&self, id: NodeId) -> Option<&Path> {
        let found = self.links.binary_search_by_key(&id, |(node, _)| *node);
        found.ok().map(|at| self.links[at].1.as_path())
    }
}

/// What the target's content list has in PGDATA, each at its place in the
/// image.
fn listed(target: &Layer) -> Result<Vec<Item<'_>>, ImageError> {
    let tablespaces = oids(&target.backup.tablespaces);
    let mut items = Vec::with_capacity(target.list.len());
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
        let path = place_of(entry.path, &tablespaces);
        let kind = match entry.is_directory() {
            true => NodeKind::Directory,
            false => NodeKind::File,
        };
        // The list packs its entries by 32-bit numbers, so this one fits.
        items.push(Item::new(path, kind, permissions(&entry), index as u32));
    }
    Ok(items)
}

fn permissions(entry: &FileEntry<'_>) -> u16 {
    match entry.path {
        CONTROL_FILE => CONTROL_FILE_MODE,
        _ => (entry.mode & 0o777) as u16,
    }
}

/// The tablespaces' names under `pg_tblspc`.
fn oids(tablespaces: &[TablespaceMapping]) -> Vec<String> {
    tablespaces
        .iter()
        .map(|space| space.oid.to_string())
        .collect()
}

/// Where a path of PGDATA stands in the image, given the names of the
/// tablespaces that are moved.
fn place_of<'a>(path: &'a [u8], tablespaces: &[String]) -> Cow<'a, [u8]> {
    let moved = || {
        let below = path.strip_prefix(b"pg_tblspc/")?;
        let name = below.split(|&byte| byte == b'/').next()?;
        let is_moved = tablespaces.iter().any(|oid| oid.as_bytes() == name);
        is_moved.then(|| [TABLESPACES, b"/", below].concat())
    };
    moved().map_or(Cow::Borrowed(path), Cow::Owned)
}

/// Adds our own directories and the links that lead to them.
fn add_tablespaces(items: &mut Vec<Item<'_>>, tablespaces: &[TablespaceMapping]) {
    if tablespaces.is_empty() {
        return;
    }
    items.push(Item::directory(OWN_DIRECTORY, DIRECTORY_MODE));
    items.push(Item::directory(TABLESPACES, DIRECTORY_MODE));
    for oid in oids(tablespaces) {
        let link = [b"pg_tblspc/", oid.as_bytes()].concat();
        items.push(Item::new(link, NodeKind::Symlink, 0o777, NO_ENTRY));
        // Restore makes an empty tablespace's directory too.
        let home = [TABLESPACES, b"/", oid.as_bytes()].concat();
        if items.iter().all(|item| *item.path != *home) {
            items.push(Item::directory(home, DIRECTORY_MODE));
        }
    }
}

/// Adds the directories that something is in, but no line describes.
fn add_missing_directories(items: &mut Vec<Item<'_>>) {
    let mut known: HashSet<Vec<u8>> = items
        .iter()
        .filter(|item| item.kind == NodeKind::Directory)
        .map(|item| item.path.to_vec())
        .collect();
    let mut missing = Vec::new();
    let mut checked: &[u8] = b"";
    for item in items.iter() {
        let (mut directory, _) = split_path(&item.path);
        // Most items are in the directory of the one before.
        if directory == checked {
            continue;
        }
        checked = directory;
        while !directory.is_empty() && !known.contains(directory) {
            known.insert(directory.to_vec());
            missing.push(Item::directory(directory.to_vec(), DIRECTORY_MODE));
            (directory, _) = split_path(directory);
        }
    }
    items.append(&mut missing);
}
