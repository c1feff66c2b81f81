//! The flat table of nodes.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::mem;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::listed::{Directories, Directory, Item, ItemKind};
use super::node::{NodeId, NodeKind};
use super::{DIRECTORY_MODE, NO_ENTRY};
use crate::image::error::ImageError;
use crate::image::layers::Layer;

#[derive(Debug)]
pub(in crate::image) struct Node {
    name_offset: u32,
    name_length: u16,
    pub(in crate::image) permissions: u16,
    pub(in crate::image) kind: NodeKind,
    pub(in crate::image) parent: NodeId,
    first_child: u32,
    child_count: u32,
    /// Index into the target's content list, or [`NO_ENTRY`].
    entry: u32,
}

#[derive(Debug)]
pub(in crate::image) struct Tree {
    nodes: Vec<Node>,
    names: Vec<u8>,
    links: Vec<(NodeId, PathBuf)>,
}

/// A path that cannot be shown, and the reason.
type Misplaced = (PathBuf, &'static str);

impl Tree {
    /// Lays out the contents of a chain's target.
    pub(in crate::image) fn build(target: &Layer) -> Result<Self, ImageError> {
        let directories = Directories::listed(target)?.into_all();
        let root = directories.first();
        let mut tree = Self {
            nodes: vec![Node {
                name_offset: 0,
                name_length: 0,
                permissions: root.map_or(DIRECTORY_MODE, |root| root.permissions),
                kind: NodeKind::Directory,
                parent: NodeId(0),
                first_child: 0,
                child_count: 0,
                entry: NO_ENTRY,
            }],
            names: Vec::new(),
            links: Vec::new(),
        };
        tree.place(directories)
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
                    return Err(self.misplaced(id, item, "its path is already taken"));
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
            let why = "there are too many names, or this one is too long";
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
                let target = Path::new("..").join(super::TABLESPACES);
                let target = target.join(OsStr::from_bytes(&item.name));
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

    pub(in crate::image) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(in crate::image) fn ids(&self) -> impl Iterator<Item = NodeId> {
        // `place` assigns no number beyond u32.
        (0..self.nodes.len() as u32).map(NodeId)
    }

    /// Returns the node with this id, or the root if the id was never allocated.
    pub(in crate::image) fn node(&self, id: NodeId) -> &Node {
        self.nodes.get(id.0 as usize).unwrap_or(&self.nodes[0])
    }

    /// Returns the index of the node's line in the target's content list.
    pub(in crate::image) fn entry(&self, id: NodeId) -> Option<usize> {
        let node = self.nodes.get(id.0 as usize)?;
        (node.entry != NO_ENTRY).then_some(node.entry as usize)
    }

    pub(in crate::image) fn name(&self, id: NodeId) -> &[u8] {
        self.name_of(self.node(id))
    }

    fn name_of(&self, node: &Node) -> &[u8] {
        let start = node.name_offset as usize;
        &self.names[start..start + usize::from(node.name_length)]
    }

    pub(in crate::image) fn path(&self, id: NodeId) -> PathBuf {
        let mut names = Vec::new();
        let mut at = id;
        while self.node(at).parent != at && !self.name(at).is_empty() {
            names.push(OsStr::from_bytes(self.name(at)));
            at = self.node(at).parent;
        }
        names.iter().rev().collect()
    }

    pub(in crate::image) fn children(&self, directory: NodeId) -> Range<u32> {
        let node = self.node(directory);
        node.first_child..node.first_child + node.child_count
    }

    pub(in crate::image) fn lookup(&self, directory: NodeId, name: &[u8]) -> Option<NodeId> {
        let range = self.children(directory);
        let children = self.nodes.get(range.start as usize..range.end as usize)?;
        let found = children.binary_search_by(|child| self.name_of(child).cmp(name));
        // The directory's children are a range of u32.
        found.ok().map(|at| NodeId(range.start + at as u32))
    }

    pub(in crate::image) fn symlink_target(&self, id: NodeId) -> Option<&Path> {
        let found = self.links.binary_search_by_key(&id, |(node, _)| *node);
        found.ok().map(|at| self.links[at].1.as_path())
    }
}
