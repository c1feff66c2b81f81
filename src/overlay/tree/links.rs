//! Link counts of directories: one for their name, one for `.`, and one for the `..` of
//! each directory in them. They are counted and never stored, because a record could
//! disagree with the names.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use super::inode::Ino;
use crate::diff::{InodeKind, NameEntry, Namespace};
use crate::overlay::HIDDEN_DIR;
use crate::overlay::lower::{Lower, LowerKind};

/// Returns how many more directories each directory has than in the image, according to
/// a diff's names.
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
    for (dir, name, entry) in &namespace.names {
        let (dir, name) = (Ino(*dir), OsStr::from_bytes(name));
        if is_hidden(dir, name) {
            continue;
        }
        let image = dir.node().filter(|node| lower.has(*node));
        let image = image.and_then(|node| lower.lookup(node, name));
        let had = image.is_some_and(|node| is_dir(Ino::of_node(node)));
        let has = matches!(entry, NameEntry::Inode(ino) if is_dir(Ino(*ino)));
        if had != has {
            *more.entry(dir).or_default() += i64::from(has) - i64::from(had);
        }
    }
    more
}

/// Whether it is the hidden directory, which the root neither lists nor counts.
pub fn is_hidden(dir: Ino, name: &OsStr) -> bool {
    dir == Ino::ROOT && name == HIDDEN_DIR
}
