//! The names and inodes that differ from the image, in memory, and those of them not
//! committed yet. No I/O happens here.

mod check;
mod inode;
mod links;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use crate::diff::{Batch, ContentRecord, InodeKind, NameEntry, Namespace};
pub use check::check;
pub use inode::{Ino, Inode};
pub use links::{is_hidden, more_dirs};

/// The keys that changed since the last commit. The values are taken from the tree when
/// the batch is created.
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

/// See the module's documentation.
#[derive(Debug)]
pub struct Tree {
    inodes: HashMap<Ino, Inode>,
    entries: HashMap<Ino, BTreeMap<OsString, NameEntry>>,
    /// Directories that are new, or not where the image has them.
    parents: HashMap<Ino, Ino>,
    /// How many more directories each has than in the image.
    more_dirs: HashMap<Ino, i64>,
    /// Inodes without a name whose bytes still exist, each with the sequence number at
    /// which it lost its last name; 0 if the store never had the inode.
    dead: HashMap<Ino, u64>,
    /// Those of them that are not open, in that order.
    closed: BTreeSet<(u64, Ino)>,
    /// The image's inodes that were dead and whose removal is committed: no name will
    /// ever refer to them again.
    gone: HashSet<Ino>,
    next_ino: u64,
    stored_next_ino: u64,
    pending: Pending,
    seq: u64,
    durable_seq: u64,
}

impl Tree {
    /// Loads the tree from the store's records, after [`check()`], with the counts of
    /// [`more_dirs`].
    pub fn load(namespace: Namespace, more_dirs: HashMap<Ino, i64>) -> Self {
        let next_ino = namespace.next_ino.unwrap_or(0).max(Ino::FIRST_NEW.0);
        let inodes = namespace.inodes.into_iter();
        let mut tree = Self {
            inodes: inodes
                .map(|(ino, record)| (Ino(ino), Inode::from_record(record)))
                .collect(),
            entries: HashMap::new(),
            parents: HashMap::new(),
            more_dirs,
            dead: HashMap::new(),
            closed: BTreeSet::new(),
            gone: HashSet::new(),
            next_ino,
            stored_next_ino: next_ino,
            pending: Pending::default(),
            seq: 0,
            durable_seq: 0,
        };
        for (dir, name, entry) in namespace.names {
            let dir = Ino(dir);
            if let NameEntry::Inode(ino) = entry {
                let known = tree.inodes.get(&Ino(ino));
                if known.is_none_or(|inode| inode.kind == InodeKind::Directory) {
                    tree.parents.insert(Ino(ino), dir);
                }
            }
            tree.entries
                .entry(dir)
                .or_default()
                .insert(OsString::from_vec(name), entry);
        }
        tree
    }

    pub fn inode(&self, ino: Ino) -> Option<&Inode> {
        self.inodes.get(&ino)
    }

    pub fn entry(&self, dir: Ino, name: &OsStr) -> Option<NameEntry> {
        self.entries.get(&dir)?.get(name).copied()
    }

    /// Returns the diff's entries in a directory, by name.
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

    /// Returns how many more directories a directory has than in the image.
    pub fn more_dirs(&self, dir: Ino) -> i64 {
        self.more_dirs.get(&dir).copied().unwrap_or(0)
    }

    /// Adds `by` to that number.
    pub fn add_dirs(&mut self, dir: Ino, by: i64) {
        *self.more_dirs.entry(dir).or_default() += by;
    }

    /// Whether the inode has lost its last name.
    pub fn is_dead(&self, ino: Ino) -> bool {
        let unknown = || ino.node().is_none() && !self.inodes.contains_key(&ino);
        self.dead.contains_key(&ino) || self.gone.contains(&ino) || unknown()
    }

    /// Adds a new inode and returns its number.
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

    /// Sets what a name refers to; `None` restores the image's entry.
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

    /// Marks an inode that has lost its last name. `open` is whether its bytes are
    /// still in use.
    pub fn bury(&mut self, ino: Ino, open: bool) {
        self.seq += 1;
        let seq = match self.inodes.get(&ino) {
            Some(inode) if !inode.maybe_stored && ino.node().is_none() => 0,
            _ => self.seq,
        };
        // The diff's entries in a removed directory are removed with it.
        let names = self.entries.remove(&ino).unwrap_or_default().into_keys();
        self.pending.names.extend(names.map(|name| (ino, name)));
        self.parents.remove(&ino);
        self.more_dirs.remove(&ino);
        self.pending.inodes.insert(ino);
        self.dead.insert(ino, seq);
        if !open {
            self.close_dead(ino);
        }
    }

    /// Records that a dead inode's bytes are no longer in use.
    pub fn close_dead(&mut self, ino: Ino) {
        if let Some(seq) = self.dead.get(&ino) {
            self.closed.insert((*seq, ino));
        }
    }

    /// Removes and returns the dead inodes whose bytes may be deleted now: closed, and
    /// their removal committed (or never in the store).
    pub fn take_reclaimable(&mut self) -> Vec<Ino> {
        let waiting = self.closed.split_off(&(self.durable_seq + 1, Ino(0)));
        let ready = std::mem::replace(&mut self.closed, waiting);
        let ready: Vec<Ino> = ready.into_iter().map(|(_, ino)| ino).collect();
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

    /// Returns all names and living inodes, committed or not.
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

    /// Whether the inode or its name is not committed yet.
    pub fn needs_commit(&self, ino: Ino) -> bool {
        self.inodes
            .get(&ino)
            .is_some_and(|inode| inode.changed > self.durable_seq)
    }

    /// Whether all names and inodes are committed. A commit in progress does not count.
    pub fn is_durable(&self) -> bool {
        self.pending.is_empty() && self.seq == self.durable_seq
    }

    /// Returns the pending changes as a batch, with what [`Tree::commit_done`] or
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

/// The pending changes of a commit in progress.
#[derive(Debug)]
pub struct InFlight {
    pending: Pending,
    seq: u64,
    next_ino: u64,
}
