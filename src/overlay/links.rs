//! Directories' link counts: one for their name, one for `.`, and one for the
//! `..` of each directory in them. They are counted, never stored: a record
//! could only come to disagree with the names.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::PoisonError;

use super::lower::{Lower, LowerKind};
use super::tree::{Ino, Tree};
use super::{HIDDEN_DIR, Overlay};
use crate::diff::{InodeKind, NameEntry, Namespace};
use crate::image::NodeId;

impl<L: Lower> Overlay<L> {
    /// A directory's link count; 0 for one that was removed.
    pub(super) fn dir_links(&self, tree: &Tree, dir: Ino) -> u32 {
        if tree.is_dead(dir) {
            return 0;
        }
        let of_image = dir.node().map_or(0, |node| self.image_dirs(node));
        let count = i64::from(of_image) + tree.more_dirs(dir);
        u32::try_from(count.max(0).saturating_add(2)).unwrap_or(u32::MAX)
    }

    /// Counts the directories that `dir` has more than before, or fewer.
    pub(super) fn count_dirs(tree: &mut Tree, dir: Ino, name: &OsStr, by: i64) {
        if !is_hidden(dir, name) {
            tree.add_dirs(dir, by);
        }
    }

    /// How many directories the image has in one of its own. It may hold very
    /// many files, so that it is gone through only once.
    fn image_dirs(&self, node: NodeId) -> u32 {
        let known = self.image_dirs.lock();
        let mut known = known.unwrap_or_else(PoisonError::into_inner);
        *known.entry(node).or_insert_with(|| {
            let children = self.lower.children(node).into_iter();
            let is_counted = |child: &NodeId| {
                self.lower.kind(*child) == LowerKind::Directory
                    && !is_hidden(Ino::of_node(node), self.lower.name(*child))
            };
            u32::try_from(children.filter(is_counted).count()).unwrap_or(u32::MAX)
        })
    }
}

/// How many directories each directory has more than in the image, by the names
/// of a diff.
pub fn more_dirs<L: Lower>(lower: &L, namespace: &Namespace) -> HashMap<Ino, i64> {
    let mut more = HashMap::new();
    if namespace.names.is_empty() {
        return more;
    }
    let own: HashMap<u64, InodeKind> = namespace
        .inodes
        .iter()
        .map(|(ino, record)| (*ino, record.kind))
        .collect();
    let is_dir = |ino: Ino| match ino.node() {
        Some(node) => lower.kind(node) == LowerKind::Directory,
        None => own.get(&ino.0) == Some(&InodeKind::Directory),
    };
    let known = |node: &NodeId| (node.0 as usize) < lower.node_count();
    for (dir, name, entry) in &namespace.names {
        let (dir, name) = (Ino(*dir), OsStr::from_bytes(name));
        if is_hidden(dir, name) {
            continue;
        }
        let image = dir.node().filter(known);
        let image = image.and_then(|node| lower.lookup(node, name));
        let had = image.is_some_and(|node| is_dir(Ino::of_node(node)));
        let has = matches!(entry, NameEntry::Inode(ino) if is_dir(Ino(*ino)));
        if had != has {
            *more.entry(dir).or_default() += i64::from(has) - i64::from(had);
        }
    }
    more
}

/// The root's listing does not show it, so it is not counted either.
fn is_hidden(dir: Ino, name: &OsStr) -> bool {
    dir == Ino::ROOT && name == HIDDEN_DIR
}
