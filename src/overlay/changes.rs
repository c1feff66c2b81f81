//! What a clone has changed, file by file: of a mounted overlay, or of the
//! records of a diff that nobody uses.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::content::Content;
use super::lower::{Lower, LowerKind};
use super::moved::{PG_WAL, is_wal_link, wal_changes};
use super::tree::Ino;
use super::{HIDDEN_DIR, Overlay, OverlayError};
use crate::diff::{ContentRecord, HeldContent, InodeKind, NameEntry, Records};
use crate::image::NodeId;
use crate::pg::BLOCK_SIZE;

/// Directories are not nested deeper than this in any data directory; the
/// bound keeps a damaged diff from leading in circles.
const DEPTH: usize = 64;

/// What happened to a file.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum ChangeKind {
    /// A file of the backup has other content.
    Changed,
    /// The clone made it.
    New,
    /// The backup has it, the clone no longer.
    Deleted,
    /// A file or directory of the backup has another name; its content, if
    /// that changed too, counts here.
    Renamed,
}

/// One thing that a clone changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Change {
    /// Where it is in the data directory, tablespaces under `pg_tblspc`. A
    /// directory ends with a slash; it stands for all that was in it.
    pub path: String,
    /// What happened.
    pub kind: ChangeKind,
    /// What a renamed file was called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// 8 KiB blocks of it that the diff has.
    pub blocks: u64,
    /// Bytes of it that the diff has.
    pub bytes: u64,
    /// Whether the diff has all of the file, as it has of new ones, and of
    /// small files of the backup, which are copied whole when they are opened:
    /// `blocks` does not say then how many of them differ.
    #[serde(default)]
    pub whole: bool,
}

impl<L: Lower> Overlay<L> {
    /// What was changed so far, committed or not.
    ///
    /// # Errors
    /// The diff's own.
    pub fn changes(&self) -> Result<Vec<Change>, OverlayError> {
        match &self.diff {
            Some(diff) => Ok(changes(&self.records()?, Some(&self.lower), diff.root())),
            None => Ok(Vec::new()),
        }
    }

    /// How many blocks of the backup's files the diff has instead.
    ///
    /// # Errors
    /// The diff's own.
    pub fn diff_blocks(&self) -> Result<u64, OverlayError> {
        if self.is_read_only() {
            return Ok(0);
        }
        let contents = self.held()?;
        Ok(contents.values().map(|(_, blocks)| blocks).sum())
    }

    fn records(&self) -> Result<Records, OverlayError> {
        let mut records = Records::of(self.tree().namespace());
        let saved = self.diff()?.store().saved()?;
        for (ino, (record, blocks)) in self.held()? {
            let data_len = match record {
                ContentRecord::Whole { .. } => self.content_stat(Ino(ino))?.len,
                ContentRecord::Blocks { .. } => 0,
            };
            let held = HeldContent {
                record,
                blocks,
                saved: saved.get(&ino).copied().unwrap_or(0),
                data_len,
            };
            records.contents.insert(ino, held);
        }
        // The clone's own files have a content from the start, their record
        // only from the next commit on.
        for (ino, inode) in &records.inodes {
            let own = Ino(*ino).node().is_none() && inode.kind == InodeKind::File;
            if own && !records.contents.contains_key(ino) {
                let held = HeldContent {
                    record: ContentRecord::Whole { origin: None },
                    blocks: 0,
                    saved: 0,
                    data_len: self.content_stat(Ino(*ino))?.len,
                };
                records.contents.insert(*ino, held);
            }
        }
        Ok(records)
    }

    /// The contents that the store has, and over them those in use.
    fn held(&self) -> Result<BTreeMap<u64, (ContentRecord, u64)>, OverlayError> {
        let stored = self.diff()?.store().contents()?;
        let mut contents: BTreeMap<_, _> = stored
            .into_iter()
            .map(|(ino, record, blocks)| (ino, (record, blocks)))
            .collect();
        let in_use: Vec<_> = self.files().values().cloned().collect();
        for file in in_use {
            let content = file.content();
            let origin = |node| self.lower.path(node);
            match (&*content, file.ino.node()) {
                (Content::Blocks(blocks), Some(node)) => {
                    let record = blocks.record(origin(node));
                    contents.insert(file.ino.0, (record, blocks.count()));
                }
                (Content::Whole(whole), node) if !whole.is_pristine()? => {
                    let origin = node.map(origin);
                    contents.insert(file.ino.0, (ContentRecord::Whole { origin }, 0));
                }
                _ => {}
            }
        }
        let tree = self.tree();
        contents.retain(|ino, _| !tree.is_dead(Ino(*ino)));
        Ok(contents)
    }
}

/// What the records of the diff in `root` say was changed, in the order of the
/// paths, and what its WAL directory does. Without the image, what only it can
/// name is called by its number there.
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
    /// The name of each inode that the diff gives one.
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

    /// Whether that is the link to the WAL directory in the diff.
    fn is_moved_wal(&self, (dir, name, entry): &(u64, Vec<u8>, NameEntry)) -> bool {
        let NameEntry::Inode(ino) = entry else {
            return false;
        };
        let link = || self.records.inodes.get(ino)?.link.as_deref();
        let is_ours = |link| is_wal_link(Path::new(OsStr::from_bytes(link)));
        (*dir, name.as_slice()) == (Ino::ROOT.0, PG_WAL.as_bytes()) && link().is_some_and(is_ours)
    }

    fn content_change(&self, ino: u64, held: &HeldContent) -> Option<Change> {
        let (origin, blocks, bytes, whole) = match &held.record {
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
        let path = match origin {
            Some(origin) if !renamed => shown(origin),
            // Removed, and still open somewhere.
            _ => shown(&self.path(ino)?),
        };
        Some(Change {
            path,
            kind: match (renamed, origin) {
                (true, _) => ChangeKind::Renamed,
                (false, Some(_)) => ChangeKind::Changed,
                // Written beside and renamed over it, as configuration is.
                (false, None) if replaces().is_some() => ChangeKind::Changed,
                (false, None) => ChangeKind::New,
            },
            from: origin.filter(|_| renamed).map(|origin| shown(origin)),
            blocks,
            bytes,
            whole,
        })
    }

    /// A name that leads to something without changed content: a renamed file
    /// or directory of the image, or a new link or pipe. New directories are
    /// told by what is in them.
    fn naming_change(&self, ino: u64) -> Option<Change> {
        if self.records.contents.contains_key(&ino) {
            return None;
        }
        let kind = match Ino(ino).node() {
            Some(_) => ChangeKind::Renamed,
            None => match self.records.inodes.get(&ino)?.kind {
                InodeKind::Directory => return None,
                _ => ChangeKind::New,
            },
        };
        let directory = match (Ino(ino).node(), self.lower) {
            (Some(node), Some(lower)) if known(lower, node) => {
                lower.kind(node) == LowerKind::Directory
            }
            _ => false,
        };
        let slash = |path: &Path| match directory {
            true => format!("{}/", shown(path)),
            false => shown(path),
        };
        Some(Change {
            path: slash(&self.path(ino)?),
            kind,
            from: Ino(ino).node().map(|node| slash(&self.image_path(node))),
            blocks: 0,
            bytes: 0,
            whole: false,
        })
    }

    /// What the image has under a name that the diff hides, unless it only
    /// moved.
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

    /// What the image has under that name; `None` without the image.
    fn below(&self, dir: u64, name: &[u8]) -> Option<NodeId> {
        let (lower, parent) = (self.lower?, Ino(dir).node()?);
        let parent = Some(parent).filter(|parent| known(lower, *parent))?;
        lower.lookup(parent, OsStr::from_bytes(name))
    }

    /// Where an inode is now; `None` if nothing leads to it.
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
            Some(lower) if known(lower, node) => lower.path(node),
            _ if Ino::of_node(node) == Ino::ROOT => PathBuf::new(),
            _ => format!("(image node {})", node.0).into(),
        }
    }
}

fn known<L: Lower>(lower: &L, node: NodeId) -> bool {
    (node.0 as usize) < lower.node_count()
}

/// A path for people: tablespaces where PostgreSQL has them.
fn shown(path: &Path) -> String {
    let tablespaces = Path::new(HIDDEN_DIR).join("tblspc");
    match path.strip_prefix(&tablespaces) {
        Ok(rest) => Path::new("pg_tblspc").join(rest).display().to_string(),
        Err(_) => path.display().to_string(),
    }
}
