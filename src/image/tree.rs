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
use std::collections::{HashMap, VecDeque};
use std::ffi::OsStr;
use std::mem;
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

/// Where tablespaces live, in our own directory inside the mount.
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

/// What cannot be shown, and why.
type Misplaced = (PathBuf, &'static str);

/// A node before it has its place.
struct Item<'a> {
    /// The name's first bytes, which decide nearly every comparison.
    start: u64,
    name: Cow<'a, [u8]>,
    kind: ItemKind,
}

/// What an item is to become.
#[derive(Clone, Copy)]
enum ItemKind {
    /// The directory of this number.
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
            // No name has a zero byte, so this is the order of the names.
            start: u64::from_be_bytes(start),
            name,
            kind,
        }
    }

    fn order(&self, other: &Self) -> Ordering {
        self.start
            .cmp(&other.start)
            .then_with(|| self.name.cmp(&other.name))
    }
}

/// A directory before it has its place.
struct Directory<'a> {
    children: Vec<Item<'a>>,
    permissions: u16,
    entry: u32,
}

/// The directories of an image, by number. The root is 0.
struct Directories<'a> {
    all: Vec<Directory<'a>>,
    numbers: HashMap<Vec<u8>, usize>,
}

impl<'a> Directories<'a> {
    fn new() -> Self {
        Self {
            all: vec![Directory::new()],
            numbers: HashMap::from([(Vec::new(), 0)]),
        }
    }

    /// The number of a directory. It and those above are made if they are
    /// not there yet: no line need describe what something is in.
    fn number(&mut self, path: &[u8]) -> usize {
        if let Some(&number) = self.numbers.get(path) {
            return number;
        }
        let (above, name) = split_path(path);
        let above = self.number(above);
        let number = self.all.len();
        self.all.push(Directory::new());
        self.numbers.insert(path.to_vec(), number);
        let item = Item::new(name.to_vec(), ItemKind::Directory(number));
        self.all[above].children.push(item);
        number
    }

    fn of(&mut self, path: &[u8]) -> &mut Directory<'a> {
        let number = self.number(path);
        &mut self.all[number]
    }
}

impl Directory<'_> {
    fn new() -> Self {
        Self {
            children: Vec::new(),
            permissions: DIRECTORY_MODE,
            entry: NO_ENTRY,
        }
    }
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
        let mut directories = listed(target)?;
        add_tablespaces(&mut directories, &target.backup.tablespaces);
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
        tree.place(directories.all)
            .map_err(|(path, why)| ImageError::Misplaced {
                path,
                backup: target.backup.id.clone(),
                why,
            })?;
        Ok(tree)
    }

    /// Adds everything below the root, level by level.
    fn place(&mut self, mut directories: Vec<Directory<'_>>) -> Result<(), Misplaced> {
        let mut next = VecDeque::from([(0, NodeId(0))]);
        while let Some((number, id)) = next.pop_front() {
            let mut items = mem::take(&mut directories[number].children);
            items.sort_unstable_by(Item::order);
            let mut before = None;
            for item in &items {
                if before.replace(&item.name) == Some(&item.name) {
                    return Err(self.misplaced(id, item, "its place is taken"));
                }
                let child = self.push(id, item, &directories)?;
                if let ItemKind::Directory(number) = item.kind {
                    next.push_back((number, child));
                }
            }
        }
        Ok(())
    }

    fn push(
        &mut self,
        parent: NodeId,
        item: &Item<'_>,
        directories: &[Directory<'_>],
    ) -> Result<NodeId, Misplaced> {
        let (Ok(number), Ok(name_offset), Ok(name_length)) = (
            u32::try_from(self.nodes.len()),
            u32::try_from(self.names.len()),
            u16::try_from(item.name.len()),
        ) else {
            let why = "there are more than four thousand million names";
            return Err(self.misplaced(parent, item, why));
        };
        let (kind, permissions, entry) = match item.kind {
            ItemKind::Directory(number) => {
                let Directory {
                    permissions, entry, ..
                } = directories[number];
                (NodeKind::Directory, permissions, entry)
            }
            ItemKind::File { permissions, entry } => (NodeKind::File, permissions, entry),
            ItemKind::Symlink => {
                let target = Path::new("../.pbkfs/tblspc").join(OsStr::from_bytes(&item.name));
                self.links.push((NodeId(number), target));
                (NodeKind::Symlink, 0o777, NO_ENTRY)
            }
        };
        let owner = &mut self.nodes[parent.0 as usize];
        if owner.child_count == 0 {
            owner.first_child = number;
        }
        owner.child_count += 1;
        self.names.extend_from_slice(&item.name);
        self.nodes.push(Node {
            name_offset,
            name_length,
            permissions,
            kind,
            parent,
            first_child: 0,
            child_count: 0,
            entry,
        });
        Ok(NodeId(number))
    }

    fn misplaced(&self, parent: NodeId, item: &Item<'_>, why: &'static str) -> Misplaced {
        (self.path(parent).join(OsStr::from_bytes(&item.name)), why)
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
fn listed(target: &Layer) -> Result<Directories<'_>, ImageError> {
    let tablespaces = oids(&target.backup.tablespaces);
    let mut directories = Directories::new();
    // Most files are in the directory of the one before.
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
        // The list packs its entries by 32-bit numbers, so this one fits.
        let index = index as u32;
        let permissions = permissions(&entry);
        if entry.is_directory() {
            let directory = directories.of(&place_of(entry.path, &tablespaces));
            (directory.permissions, directory.entry) = (permissions, index);
            continue;
        }
        let (above, name) = split_path(entry.path);
        if above != last.0 {
            let place = place_of(entry.path, &tablespaces);
            last = (above, directories.number(split_path(&place).0));
        }
        let kind = ItemKind::File {
            permissions,
            entry: index,
        };
        let item = Item::new(name, kind);
        directories.all[last.1].children.push(item);
    }
    Ok(directories)
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
fn add_tablespaces(directories: &mut Directories<'_>, tablespaces: &[TablespaceMapping]) {
    for oid in oids(tablespaces) {
        // Restore makes an empty tablespace's directory too.
        directories.number(&[TABLESPACES, b"/", oid.as_bytes()].concat());
        let link = Item::new(oid.into_bytes(), ItemKind::Symlink);
        directories.of(b"pg_tblspc").children.push(link);
    }
}
