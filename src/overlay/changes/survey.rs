//! Derives the changes from the records of a diff.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::change::{Change, ChangeKind};
use crate::diff::{ContentRecord, HeldContent, InodeKind, NameEntry, Records};
use crate::image::NodeId;
use crate::overlay::HIDDEN_DIR;
use crate::overlay::lower::{Lower, LowerKind};
use crate::overlay::tree::Ino;
use crate::overlay::wal::{PG_WAL, is_wal_link, wal_changes};
use crate::pg::BLOCK_SIZE;

/// No data directory nests directories deeper than this. The limit stops loops in a
/// damaged diff.
const DEPTH: usize = 64;

/// Returns the changes in the records and in the WAL directory of the diff in `root`,
/// sorted by path. Without the image, paths that only it knows are shown by node
/// number.
pub fn changes<L: Lower>(records: &Records, lower: Option<&L>, root: &Path) -> Vec<Change> {
    let survey = Survey::new(records, lower);
    let mut changes = survey.changes();
    if records.names.iter().any(|name| survey.is_moved_wal(name)) {
        changes.extend(wal_changes(root, lower));
    }
    changes.sort_by(|a, b| (&a.path, a.kind).cmp(&(&b.path, b.kind)));
    changes
}

struct Survey<'a, L> {
    records: &'a Records,
    lower: Option<&'a L>,
    /// The name of each inode that has one in the diff.
    named: HashMap<u64, (u64, &'a [u8])>,
}

impl<'a, L: Lower> Survey<'a, L> {
    fn new(records: &'a Records, lower: Option<&'a L>) -> Self {
        let mut named = HashMap::new();
        for (dir, name, entry) in &records.names {
            if let NameEntry::Inode(ino) = entry {
                named.insert(*ino, (*dir, name.as_slice()));
            }
        }
        Self {
            records,
            lower,
            named,
        }
    }

    fn changes(&self) -> Vec<Change> {
        let held = self.records.contents.iter();
        let mut changes: Vec<Change> = held
            .filter_map(|(ino, held)| self.content_change(*ino, held))
            .collect();
        for named @ (dir, name, entry) in &self.records.names {
            changes.extend(match entry {
                _ if self.is_moved_wal(named) => None,
                NameEntry::Inode(ino) => self.naming_change(*ino),
                NameEntry::Whiteout => self.deletion(*dir, name),
            });
        }
        changes
    }

    /// Whether it is the link to the WAL directory in the diff.
    fn is_moved_wal(&self, (dir, name, entry): &(u64, Vec<u8>, NameEntry)) -> bool {
        let link = || self.records.inodes.get(&entry.inode()?)?.link.as_deref();
        let is_ours = |link| is_wal_link(Path::new(OsStr::from_bytes(link)));
        (*dir, name.as_slice()) == (Ino::ROOT.0, PG_WAL.as_bytes()) && link().is_some_and(is_ours)
    }

    /// Whether a file of the image was only brought into the diff: a write would have
    /// changed its time.
    fn is_unchanged(&self, origin: Option<&PathBuf>, held: &HeldContent) -> bool {
        let is_of_image = |lower: &L| held.mtime_ns == lower.timestamp_ns();
        origin.is_some() && self.lower.is_some_and(is_of_image)
    }

    fn content_change(&self, ino: u64, held: &HeldContent) -> Option<Change> {
        let (origin, mut blocks, mut bytes, mut whole) = match &held.record {
            ContentRecord::Blocks { origin, .. } => {
                let bytes = (held.blocks * BLOCK_SIZE as u64).saturating_sub(held.saved);
                (Some(origin), held.blocks, bytes, false)
            }
            ContentRecord::Whole { origin } => {
                let blocks = held.data_len.div_ceil(BLOCK_SIZE as u64);
                (origin.as_ref(), blocks, held.data_len, true)
            }
        };
        let replaces = || {
            let (dir, name) = self.named.get(&ino)?;
            self.below(*dir, name)
        };
        let renamed = origin.is_some() && self.named.contains_key(&ino);
        if self.is_unchanged(origin, held) {
            if !renamed {
                return None;
            }
            (blocks, bytes, whole) = (0, 0, false);
        }
        let path = match origin {
            Some(origin) if !renamed => shown(origin),
            // Removed, but still open.
            _ => shown(&self.path(ino)?),
        };
        Some(Change {
            path,
            kind: match (renamed, origin) {
                (true, _) => ChangeKind::Renamed,
                (false, Some(_)) => ChangeKind::Changed,
                // Written beside the old file and renamed over it, like configuration
                // files.
                (false, None) if replaces().is_some() => ChangeKind::Changed,
                (false, None) => ChangeKind::New,
            },
            from: origin.filter(|_| renamed).map(|origin| shown(origin)),
            blocks,
            bytes,
            whole,
        })
    }

    /// Returns the change for a name without changed content: a renamed file or
    /// directory of the image, or a new link or pipe. A new directory shows only by its
    /// content.
    fn naming_change(&self, ino: u64) -> Option<Change> {
        if self.records.contents.contains_key(&ino) {
            return None;
        }
        let node = Ino(ino).node();
        let kind = match node {
            Some(_) => ChangeKind::Renamed,
            None => match self.records.inodes.get(&ino)?.kind {
                InodeKind::Directory => return None,
                _ => ChangeKind::New,
            },
        };
        let is_dir = |(lower, node): (&L, NodeId)| {
            lower.has(node) && lower.kind(node) == LowerKind::Directory
        };
        let directory = self.lower.zip(node).is_some_and(is_dir);
        let slash = |path: &Path| match directory {
            true => format!("{}/", shown(path)),
            false => shown(path),
        };
        Some(Change {
            path: slash(&self.path(ino)?),
            kind,
            from: node.map(|node| slash(&self.image_path(node))),
            blocks: 0,
            bytes: 0,
            whole: false,
        })
    }

    /// Returns the deletion of the image's entry that the diff hides, unless it was
    /// only moved.
    fn deletion(&self, dir: u64, name: &'a [u8]) -> Option<Change> {
        let parent = Ino(dir).node()?;
        let mut path = self.image_path(parent).join(OsStr::from_bytes(name));
        if let Some(lower) = self.lower {
            let node = self.below(dir, name)?;
            if self.named.contains_key(&Ino::of_node(node).0) {
                return None;
            }
            if lower.kind(node) == LowerKind::Directory {
                path.push("");
            }
        }
        Some(Change {
            path: shown(&path),
            kind: ChangeKind::Deleted,
            from: None,
            blocks: 0,
            bytes: 0,
            whole: false,
        })
    }

    /// Returns the image's entry of that name; `None` without the image.
    fn below(&self, dir: u64, name: &[u8]) -> Option<NodeId> {
        let (lower, parent) = (self.lower?, Ino(dir).node()?);
        let parent = Some(parent).filter(|parent| lower.has(*parent))?;
        lower.lookup(parent, OsStr::from_bytes(name))
    }

    /// Returns an inode's current path; `None` if it has none.
    fn path(&self, ino: u64) -> Option<PathBuf> {
        let mut names = Vec::new();
        let mut at = ino;
        for _ in 0..DEPTH {
            if let Some((dir, name)) = self.named.get(&at) {
                names.push(*name);
                at = *dir;
                continue;
            }
            let mut path = self.image_path(Ino(at).node()?);
            path.extend(names.iter().rev().map(|name| OsStr::from_bytes(name)));
            return Some(path);
        }
        None
    }

    fn image_path(&self, node: NodeId) -> PathBuf {
        match self.lower {
            Some(lower) if lower.has(node) => lower.path(node),
            _ if Ino::of_node(node) == Ino::ROOT => PathBuf::new(),
            _ => format!("(image node {})", node.0).into(),
        }
    }
}

/// Formats a path for people, with tablespaces where PostgreSQL has them.
fn shown(path: &Path) -> String {
    let tablespaces = Path::new(HIDDEN_DIR).join("tblspc");
    match path.strip_prefix(&tablespaces) {
        Ok(rest) => Path::new("pg_tblspc").join(rest).display().to_string(),
        Err(_) => path.display().to_string(),
    }
}
