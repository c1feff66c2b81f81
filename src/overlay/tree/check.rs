//! Checks of a diff's records against an image. Anybody may have written the diff, so
//! its records are checked once, where they enter the overlay. The overlay then relies
//! on them: each inode belongs to the image or to the diff and has one kind, and a
//! directory has one name and does not contain itself. Blocks are checked with their
//! content.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use super::inode::Ino;
use crate::diff::{DiffError, InodeKind, NameEntry, Namespace};
use crate::image::NodeId;
use crate::overlay::lower::Lower;

/// A name: its directory, and the name in that directory.
type Place<'a> = (u64, &'a [u8]);

/// Checks all names and inodes, and which inodes have content.
///
/// # Errors
/// Returns [`DiffError::BadRecord`].
pub fn check<L: Lower>(
    lower: &L,
    namespace: &Namespace,
    contents: &HashSet<u64>,
) -> Result<(), DiffError> {
    let records = Records::new(lower, namespace);
    records.check_inodes(namespace, contents)?;
    let places = records.directories(namespace)?;
    records.check_one_name(&places)?;
    records.check_circles(&places)
}

fn bad<T>(what: &str, ino: u64, reason: &str) -> Result<T, DiffError> {
    Err(DiffError::record(what, ino, &reason))
}

struct Records<'a, L> {
    lower: &'a L,
    kinds: HashMap<u64, InodeKind>,
    names: HashMap<Place<'a>, NameEntry>,
}

impl<'a, L: Lower> Records<'a, L> {
    fn new(lower: &'a L, namespace: &'a Namespace) -> Self {
        let inodes = namespace.inodes.iter();
        let names = namespace.names.iter();
        Self {
            lower,
            kinds: inodes.map(|(ino, record)| (*ino, record.kind)).collect(),
            names: names
                .map(|(dir, name, entry)| ((*dir, name.as_slice()), *entry))
                .collect(),
        }
    }

    /// Returns the image's node of that inode, if it has one.
    fn node(&self, ino: u64) -> Option<NodeId> {
        Ino(ino).node().filter(|node| self.lower.has(*node))
    }

    fn lower_kind(&self, ino: u64) -> Option<InodeKind> {
        self.node(ino).map(|node| self.lower.inode_kind(node))
    }

    fn kind(&self, ino: u64) -> Option<InodeKind> {
        self.lower_kind(ino)
            .or_else(|| self.kinds.get(&ino).copied())
    }

    fn check_inodes(
        &self,
        namespace: &Namespace,
        contents: &HashSet<u64>,
    ) -> Result<(), DiffError> {
        for (ino, kind) in &self.kinds {
            let is_own = Ino(*ino) >= Ino::FIRST_NEW;
            if !is_own && self.lower_kind(*ino) != Some(*kind) {
                return bad("inode", *ino, "the backup has no such inode of that kind");
            }
        }
        for ino in contents {
            let kind = self.kind(*ino);
            let is_own = Ino(*ino) >= Ino::FIRST_NEW;
            // An inode of the diff's own that has no name has no kind, either.
            if kind != Some(InodeKind::File) && !(is_own && kind.is_none()) {
                return bad("content", *ino, "its inode is not a file");
            }
        }
        for (dir, _, entry) in &namespace.names {
            if self.kind(*dir) != Some(InodeKind::Directory) {
                return bad("a name in directory", *dir, "it is not a directory");
            }
            if let NameEntry::Inode(ino) = entry
                && self.kind(*ino).is_none()
            {
                return bad("inode", *ino, "it has a name but does not exist");
            }
        }
        Ok(())
    }

    /// Returns the place of each directory that has a name in the diff.
    fn directories(&self, namespace: &'a Namespace) -> Result<HashMap<u64, Place<'a>>, DiffError> {
        let mut places = HashMap::new();
        for (dir, name, entry) in &namespace.names {
            let NameEntry::Inode(ino) = *entry else {
                continue;
            };
            if self.kind(ino) != Some(InodeKind::Directory) {
                continue;
            }
            if ino == Ino::ROOT.0 || places.insert(ino, (*dir, name.as_slice())).is_some() {
                return bad("directory", ino, "it has a second name");
            }
        }
        Ok(places)
    }

    /// Refuses a directory of the image that has another name in the diff while its own
    /// name is still visible.
    fn check_one_name(&self, places: &HashMap<u64, Place<'a>>) -> Result<(), DiffError> {
        let mut known = HashMap::from([(Ino::ROOT.0, true)]);
        for (ino, place) in places {
            let Some(own) = self.own_place(*ino) else {
                continue;
            };
            let hidden = self.names.contains_key(&own);
            if *place != own && !hidden && self.is_reachable(places, own.0, &mut known) {
                return bad("directory", *ino, "it has a second name");
            }
        }
        Ok(())
    }

    /// Returns an inode's place in the image.
    fn own_place(&self, ino: u64) -> Option<Place<'a>> {
        let node = self.node(ino).filter(|_| ino != Ino::ROOT.0)?;
        let parent = Ino::of_node(self.lower.parent(node)).0;
        Some((parent, OsStr::as_bytes(self.lower.name(node))))
    }

    /// Whether names lead from the root to a directory. `known` caches earlier results.
    fn is_reachable(
        &self,
        places: &HashMap<u64, Place<'a>>,
        mut ino: u64,
        known: &mut HashMap<u64, bool>,
    ) -> bool {
        let mut way = HashSet::new();
        let is_reachable = loop {
            if let Some(known) = known.get(&ino) {
                break *known;
            }
            let place = places.get(&ino).copied().or_else(|| {
                // The image's own name counts unless the diff overrides it.
                self.own_place(ino)
                    .filter(|own| !self.names.contains_key(own))
            });
            match place {
                Some((dir, _)) if way.insert(ino) => ino = dir,
                _ => break false,
            }
        };
        known.extend(way.into_iter().map(|ino| (ino, is_reachable)));
        is_reachable
    }

    /// Refuses a directory that contains itself.
    fn check_circles(&self, places: &HashMap<u64, Place<'a>>) -> Result<(), DiffError> {
        let mut ends = HashSet::from([Ino::ROOT.0]);
        for start in places.keys() {
            let mut way = HashSet::new();
            let mut ino = *start;
            while !ends.contains(&ino) {
                if !way.insert(ino) {
                    return bad("directory", ino, "it contains itself");
                }
                let place = places.get(&ino).copied();
                match place.or_else(|| self.own_place(ino)) {
                    Some((dir, _)) => ino = dir,
                    None => break,
                }
            }
            ends.extend(way);
        }
        Ok(())
    }
}
