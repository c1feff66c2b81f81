//! The names and inodes that differ from the image, in memory, and what of
//! them has yet to be committed. No I/O happens here.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use super::error::OverlayError;
use super::lower::Lower;
use crate::diff::{Batch, ContentRecord, InodeKind, InodeRecord, NameEntry, Namespace};
use crate::image::NodeId;

/// An inode number. The image's nodes come first (node + 1, so that the root
/// is 1 as FUSE wants it); the clone's own begin at 2^32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ino(pub u64);

impl Ino {
    /// The root directory.
    pub const ROOT: Self = Self(1);
    /// The first number of the clone's own.
    pub const FIRST_NEW: Self = Self(1 << 32);

    /// The inode of an image node.
    #[must_use]
    pub fn of_node(node: NodeId) -> Self {
        Self(u64::from(node.0) + 1)
    }

    /// The image node of an inode; `None` for the clone's own.
    #[must_use]
    pub fn node(self) -> Option<NodeId> {
        // 2^32 less 1 would fit a u32 too, but is the first of the clone's own.
        if self >= Self::FIRST_NEW {
            return None;
        }
        u32::try_from(self.0.checked_sub(1)?).ok().map(NodeId)
    }
}

/// An inode whose attributes differ from the image's, or that it lacks.
#[derive(Debug, Clone)]
pub struct Inode {
    pub kind: InodeKind,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub nlink: u32,
    pub mtime_ns: i64,
    pub ctime_ns: i64,
    pub link: Option<OsString>,
    /// The tree's sequence number at the last change.
    pub changed: u64,
    /// Whether a commit that holds it has been begun; only then can the
    /// store know it.
    pub maybe_stored: bool,
}

impl Inode {
    pub fn new(kind: InodeKind, mode: u32, uid: u32, gid: u32, now_ns: i64) -> Self {
        Self {
            kind,
            mode: mode & 0o7777,
            uid,
            gid,
            // For a directory, 1 says that subdirectories are not counted.
            nlink: 1,
            mtime_ns: now_ns,
            ctime_ns: now_ns,
            link: None,
            changed: 0,
            maybe_stored: false,
        }
    }

    fn record(&self) -> InodeRecord {
        InodeRecord {
            kind: self.kind,
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            nlink: self.nlink,
            mtime_ns: self.mtime_ns,
            ctime_ns: self.ctime_ns,
            link: self.link.as_ref().map(|l| l.as_bytes().to_vec()),
        }
    }

    fn from_record(record: InodeRecord) -> Self {
        Self {
            kind: record.kind,
            mode: record.mode,
            uid: record.uid,
            gid: record.gid,
            nlink: record.nlink,
            mtime_ns: record.mtime_ns,
            ctime_ns: record.ctime_ns,
            link: record.link.map(OsString::from_vec),
            changed: 0,
            maybe_stored: true,
        }
    }
}

/// What has changed since the last commit, by key; the values are the tree's
/// when the batch is made.
#[derive(Debug, Default, Clone)]
pub struct Pending {
    names: HashSet<(Ino, OsString)>,
    inodes: HashSet<Ino>,
}

impl Pending {
    pub fn is_empty(&self) -> bool {
        self.names.is_empty() && self.inodes.is_empty()
    }
}

/// An inode without a name whose bytes are still there.
#[derive(Debug, Clone, Copy)]
struct Dead {
    /// When the last name went; 0 if the store never knew the inode.
    seq: u64,
    closed: bool,
}

/// See the module's text.
#[derive(Debug)]
pub struct Tree {
    inodes: HashMap<Ino, Inode>,
    entries: HashMap<Ino, BTreeMap<OsString, NameEntry>>,
    /// Directories that are elsewhere than the image has them, or new.
    parents: HashMap<Ino, Ino>,
    dead: HashMap<Ino, Dead>,
    /// The image's inodes that were dead and whose removal is committed:
    /// nothing leads to them ever again.
    gone: HashSet<Ino>,
    next_ino: u64,
    stored_next_ino: u64,
    pending: Pending,
    seq: u64,
    durable_seq: u64,
}

impl Default for Tree {
    fn default() -> Self {
        Self {
            inodes: HashMap::new(),
            entries: HashMap::new(),
            parents: HashMap::new(),
            dead: HashMap::new(),
            gone: HashSet::new(),
            next_ino: Ino::FIRST_NEW.0,
            stored_next_ino: Ino::FIRST_NEW.0,
            pending: Pending::default(),
            seq: 0,
            durable_seq: 0,
        }
    }
}

impl Tree {
    /// The tree as the store has it, checked against the image.
    pub fn load<L: Lower>(lower: &L, namespace: Namespace) -> Result<Self, OverlayError> {
        let mut tree = Self::default();
        if let Some(next) = namespace.next_ino {
            tree.next_ino = next.max(Ino::FIRST_NEW.0);
            tree.stored_next_ino = tree.next_ino;
        }
        for (ino, record) in namespace.inodes {
            tree.inodes.insert(Ino(ino), Inode::from_record(record));
        }
        for (dir, name, entry) in namespace.names {
            let dir = Ino(dir);
            if let NameEntry::Inode(ino) = entry {
                tree.check_known(lower, Ino(ino))?;
                let is_directory = match tree.inodes.get(&Ino(ino)) {
                    Some(inode) => inode.kind == InodeKind::Directory,
                    None => true,
                };
                if is_directory {
                    tree.parents.insert(Ino(ino), dir);
                }
            }
            tree.check_known(lower, dir)?;
            tree.entries
                .entry(dir)
                .or_default()
                .insert(OsString::from_vec(name), entry);
        }
        Ok(tree)
    }

    fn check_known<L: Lower>(&self, lower: &L, ino: Ino) -> Result<(), OverlayError> {
        let known = match ino.node() {
            Some(node) => (node.0 as usize) < lower.node_count(),
            None => self.inodes.contains_key(&ino),
        };
        if known {
            return Ok(());
        }
        Err(OverlayError::Mismatch(format!(
            "inode {} is in neither",
            ino.0
        )))
    }

    pub fn inode(&self, ino: Ino) -> Option<&Inode> {
        self.inodes.get(&ino)
    }

    pub fn entry(&self, dir: Ino, name: &OsStr) -> Option<NameEntry> {
        self.entries.get(&dir)?.get(name).copied()
    }

    /// What the diff says of a directory, in name order.
    pub fn entries(&self, dir: Ino) -> impl Iterator<Item = (&OsString, NameEntry)> {
        self.entries
            .get(&dir)
            .into_iter()
            .flatten()
            .map(|(name, entry)| (name, *entry))
    }

    pub fn parent(&self, dir: Ino) -> Option<Ino> {
        self.parents.get(&dir).copied()
    }

    pub fn set_parent(&mut self, dir: Ino, parent: Ino) {
        self.parents.insert(dir, parent);
    }

    /// Whether the inode has lost its last name.
    pub fn is_dead(&self, ino: Ino) -> bool {
        let unknown = || ino.node().is_none() && !self.inodes.contains_key(&ino);
        self.dead.contains_key(&ino) || self.gone.contains(&ino) || unknown()
    }

    /// Adds a new inode and gives its number.
    pub fn add(&mut self, inode: Inode) -> Ino {
        let ino = Ino(self.next_ino);
        self.next_ino += 1;
        self.put(ino, inode);
        ino
    }

    /// Sets an inode's attributes.
    pub fn put(&mut self, ino: Ino, mut inode: Inode) {
        self.seq += 1;
        inode.changed = self.seq;
        self.inodes.insert(ino, inode);
        self.pending.inodes.insert(ino);
    }

    /// Sets what a name leads to; `None` gives it back to the image.
    pub fn set_entry(&mut self, dir: Ino, name: &OsStr, entry: Option<NameEntry>) {
        self.seq += 1;
        let names = self.entries.entry(dir).or_default();
        match entry {
            Some(entry) => {
                names.insert(name.to_owned(), entry);
                if let NameEntry::Inode(ino) = entry
                    && let Some(inode) = self.inodes.get_mut(&Ino(ino))
                {
                    inode.changed = self.seq;
                }
            }
            None => {
                names.remove(name);
            }
        }
        if let Some(inode) = self.inodes.get_mut(&dir) {
            inode.changed = self.seq;
        }
        self.pending.names.insert((dir, name.to_owned()));
    }

    /// Marks an inode whose last name went. `open` tells whether somebody
    /// still uses its bytes.
    pub fn bury(&mut self, ino: Ino, open: bool) {
        self.seq += 1;
        let seq = match self.inodes.get(&ino) {
            Some(inode) if !inode.maybe_stored && ino.node().is_none() => 0,
            _ => self.seq,
        };
        // What the diff says inside a removed directory goes with it.
        for name in self
            .entries
            .remove(&ino)
            .into_iter()
            .flatten()
            .map(|(name, _)| name)
        {
            self.pending.names.insert((ino, name));
        }
        self.parents.remove(&ino);
        self.pending.inodes.insert(ino);
        self.dead.insert(ino, Dead { seq, closed: !open });
    }

    /// Notes that nobody uses a dead inode's bytes any more.
    pub fn close_dead(&mut self, ino: Ino) {
        if let Some(dead) = self.dead.get_mut(&ino) {
            dead.closed = true;
        }
    }

    /// Takes out the dead whose bytes may be deleted now: closed, and their
    /// removal committed (or never in the store).
    pub fn take_reclaimable(&mut self) -> Vec<Ino> {
        let durable = self.durable_seq;
        let ready: Vec<Ino> = self
            .dead
            .iter()
            .filter(|(_, dead)| dead.closed && dead.seq <= durable)
            .map(|(ino, _)| *ino)
            .collect();
        for ino in &ready {
            self.dead.remove(ino);
            self.inodes.remove(ino);
            if ino.node().is_none() {
                self.pending.inodes.remove(ino);
            } else {
                self.gone.insert(*ino);
            }
        }
        ready
    }

    /// All names and living inodes, committed or not.
    pub fn namespace(&self) -> Namespace {
        let names = self.entries.iter().flat_map(|(dir, names)| {
            names
                .iter()
                .map(|(name, entry)| (dir.0, name.as_bytes().to_vec(), *entry))
        });
        let living = self.inodes.iter().filter(|(ino, _)| !self.is_dead(**ino));
        Namespace {
            names: names.collect(),
            inodes: living.map(|(ino, inode)| (ino.0, inode.record())).collect(),
            next_ino: None,
        }
    }

    /// Whether the inode or its name has yet to be committed.
    pub fn needs_commit(&self, ino: Ino) -> bool {
        self.inodes
            .get(&ino)
            .is_some_and(|inode| inode.changed > self.durable_seq)
    }

    /// Whether all names and inodes are committed. A commit that is still on
    /// its way does not count.
    pub fn is_durable(&self) -> bool {
        self.pending.is_empty() && self.seq == self.durable_seq
    }

    /// The pending changes as a batch, with what [`Tree::commit_done`] or
    /// [`Tree::commit_failed`] needs.
    pub fn take_pending(&mut self) -> (Batch, InFlight) {
        let pending = std::mem::take(&mut self.pending);
        let mut batch = Batch::default();
        for (dir, name) in &pending.names {
            let entry = self.entry(*dir, name);
            batch.names.push((dir.0, name.as_bytes().to_vec(), entry));
        }
        for ino in &pending.inodes {
            let dead = self.dead.contains_key(ino);
            match self.inodes.get_mut(ino) {
                Some(inode) if !dead => {
                    inode.maybe_stored = true;
                    batch.inodes.push((ino.0, Some(inode.record())));
                    if inode.kind == InodeKind::File && ino.node().is_none() {
                        let whole = ContentRecord::Whole { origin: None };
                        batch.contents.push((ino.0, Some(whole)));
                    }
                }
                _ => {
                    batch.inodes.push((ino.0, None));
                    batch.contents.push((ino.0, None));
                }
            }
        }
        if self.next_ino != self.stored_next_ino {
            batch.next_ino = Some(self.next_ino);
        }
        let in_flight = InFlight {
            pending,
            seq: self.seq,
            next_ino: self.next_ino,
        };
        (batch, in_flight)
    }

    pub fn commit_done(&mut self, in_flight: &InFlight) {
        self.durable_seq = self.durable_seq.max(in_flight.seq);
        self.stored_next_ino = in_flight.next_ino;
    }

    pub fn commit_failed(&mut self, in_flight: InFlight) {
        self.pending.names.extend(in_flight.pending.names);
        self.pending.inodes.extend(in_flight.pending.inodes);
    }
}

/// A batch that is on its way to the store.
#[derive(Debug)]
pub struct InFlight {
    pending: Pending,
    seq: u64,
    next_ino: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clones_first_inode_is_no_node_of_the_image() {
        assert_eq!(Ino(0).node(), None);
        assert_eq!(Ino::ROOT.node(), Some(NodeId(0)));
        assert_eq!(Ino(u64::from(u32::MAX)).node(), Some(NodeId(u32::MAX - 1)));
        assert_eq!(Ino::FIRST_NEW.node(), None);
    }
}
