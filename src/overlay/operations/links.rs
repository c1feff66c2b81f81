//! Counting a directory's links.

use std::ffi::OsStr;
use std::sync::PoisonError;

use crate::image::NodeId;
use crate::overlay::lower::{Lower, LowerKind};
use crate::overlay::state::Overlay;
use crate::overlay::tree::{Ino, Tree, is_hidden};

impl<L: Lower> Overlay<L> {
    /// Returns a directory's link count; 0 for a removed one.
    pub(in crate::overlay) fn dir_links(&self, tree: &Tree, dir: Ino) -> u32 {
        if tree.is_dead(dir) {
            return 0;
        }
        let of_image = dir.node().map_or(0, |node| self.image_dirs(node));
        let count = i64::from(of_image) + tree.more_dirs(dir);
        u32::try_from(count.max(0).saturating_add(2)).unwrap_or(u32::MAX)
    }

    /// Adds `by` to the number of directories in `dir`.
    pub(in crate::overlay) fn count_dirs(tree: &mut Tree, dir: Ino, name: &OsStr, by: i64) {
        if !is_hidden(dir, name) {
            tree.add_dirs(dir, by);
        }
    }

    /// Returns how many directories the image has in one of its own. The directory may
    /// hold very many files, so it is scanned only once.
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
