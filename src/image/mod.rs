//! The merged, read-only view of a chain: exactly what `pg_probackup restore`
//! of its target would write, but for restore's own edits.
//!
//! Opening an [`Image`] reads the content lists and nothing else. Where the
//! pages of a segment are stored is found out when the segment is first
//! needed, and kept in a cache of bounded size.
//!
//! ```text
//! tree      the target's content list -> directories, files, symbolic links
//! segment   a data file's pages: which layer has which block
//! read      blocks -> stored records -> decoded and checked pages
//! loss      what pg_probackup's own restore would lose of it
//! check     everything that can be checked of a file, for verification
//! crc       the checksum of a stored file
//! stored    the files of the catalog, by its store, and files that are stored whole
//! ```
//! The rules are those of `restore_chain`, `restore_data_file` and
//! `restore_non_data_file` in pg_probackup's restore.c and data.c.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::SystemTime;

use crate::cache::Cache;
use crate::catalog::content::{ContentList, FileEntry};
use crate::catalog::store::StoreFile;
use crate::catalog::{Backup, BackupId, TablespaceMapping};
use crate::chain::Chain;
use crate::descriptors;

mod check;
mod counters;
mod crc;
mod error;
mod loss;
mod read;
mod segment;
mod stored;
mod tree;

pub use check::{CheckItem, CheckSink, Checked};
pub use counters::{Counter, ImageCounters};
pub use error::{BadPage, ImageError, PageFault};
pub use loss::{RestoreLoss, RestoreLosses};
pub use tree::{NodeId, NodeKind};

use segment::SegmentMap;
use stored::StoredFile;
use tree::Tree;

/// Stored files that are kept open, where the system permits so many.
const OPEN_FILES: usize = 512;

/// A length that is not known yet.
const UNKNOWN: u64 = u64::MAX;

/// How an image is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageOptions {
    /// Check every page's checksum, where the cluster has them.
    pub verify_checksums: bool,
    /// Bytes of memory for the page indexes of the segments last used.
    pub index_cache_bytes: usize,
}

impl Default for ImageOptions {
    fn default() -> Self {
        Self {
            verify_checksums: true,
            index_cache_bytes: 64 << 20,
        }
    }
}

/// One backup of the chain.
#[derive(Debug)]
struct Layer {
    backup: Backup,
    list: ContentList,
}

/// The data directory that a chain holds.
///
/// A [`NodeId`] that this image never gave out stands for the root, except
/// where content is asked for: that is an error.
#[derive(Debug)]
pub struct Image {
    /// Oldest first, never empty.
    layers: Vec<Layer>,
    tree: Tree,
    /// The layers by whose truncation markers restore may cut newer blocks.
    marked: Vec<BackupId>,
    /// The lengths found so far, by node.
    lengths: Vec<AtomicU64>,
    segments: Cache<NodeId, SegmentMap>,
    files: Cache<StoredFile, dyn StoreFile>,
    verify_checksums: bool,
    fingerprint: u64,
    counters: ImageCounters,
}

impl Image {
    /// The root of PGDATA.
    pub const ROOT: NodeId = NodeId(0);

    /// Reads the content lists of a chain and lays out the tree.
    ///
    /// # Errors
    /// If a list cannot be read or makes no sense, or if the target holds
    /// what cannot be shown: files of a compressed tablespace.
    pub fn open(chain: &Chain, options: &ImageOptions) -> Result<Self, ImageError> {
        let layers = read_layers(chain.layers())?;
        let Some(target) = layers.last() else {
            return Err(ImageError::EmptyChain);
        };
        let tree = Tree::build(target)?;
        let risk = chain.restore_risk();
        let fingerprint = fingerprint(&layers, &tree);
        let lengths = (0..tree.len()).map(|_| AtomicU64::new(UNKNOWN)).collect();
        Ok(Self {
            layers,
            tree,
            marked: risk.map_or_else(Vec::new, |risk| risk.marked),
            lengths,
            segments: Cache::new(options.index_cache_bytes),
            files: Cache::new(OPEN_FILES.min(descriptors::share() / 3)),
            verify_checksums: options.verify_checksums,
            fingerprint,
            counters: ImageCounters::default(),
        })
    }

    /// How many nodes there are; their ids are below this.
    #[must_use]
    pub fn node_count(&self) -> usize {
        self.tree.len()
    }

    /// What a node is.
    #[must_use]
    pub fn kind(&self, node: NodeId) -> NodeKind {
        self.tree.node(node).kind
    }

    /// A node's permission bits, as restore leaves them.
    #[must_use]
    pub fn mode(&self, node: NodeId) -> u32 {
        u32::from(self.tree.node(node).permissions)
    }

    /// A node's name in its directory; empty for the root.
    #[must_use]
    pub fn name(&self, node: NodeId) -> &OsStr {
        OsStr::from_bytes(self.tree.name(node))
    }

    /// The directory a node is in; the root's is itself.
    #[must_use]
    pub fn parent(&self, node: NodeId) -> NodeId {
        self.tree.node(node).parent
    }

    /// A node's path inside PGDATA; empty for the root.
    #[must_use]
    pub fn path(&self, node: NodeId) -> PathBuf {
        self.tree.path(node)
    }

    /// The node of this name in a directory.
    #[must_use]
    pub fn lookup(&self, directory: NodeId, name: &OsStr) -> Option<NodeId> {
        self.tree.lookup(directory, name.as_bytes())
    }

    /// The nodes of a directory, in the order of their names' bytes.
    pub fn children(&self, directory: NodeId) -> impl Iterator<Item = NodeId> + '_ {
        self.tree.children(directory).map(NodeId)
    }

    /// The node at a path inside PGDATA. Symbolic links are not followed.
    #[must_use]
    pub fn find(&self, path: &Path) -> Option<NodeId> {
        let mut names = path.as_os_str().as_bytes().split(|&byte| byte == b'/');
        names
            .by_ref()
            .filter(|name| !name.is_empty())
            .try_fold(Self::ROOT, |at, name| self.tree.lookup(at, name))
    }

    /// Where a symbolic link leads; relative to the directory it is in.
    #[must_use]
    pub fn symlink_target(&self, node: NodeId) -> Option<&Path> {
        self.tree.symlink_target(node)
    }

    /// Whether a file is merged page by page, out of several layers.
    #[must_use]
    pub fn is_paged(&self, node: NodeId) -> bool {
        self.entry(node)
            .is_some_and(|entry| entry.is_datafile && !entry.is_directory())
    }

    /// A file's length in bytes.
    ///
    /// # Errors
    /// If the node is no file, or if its length cannot be told because a
    /// stored file is missing, short or damaged.
    pub fn len(&self, node: NodeId) -> Result<u64, ImageError> {
        let cell = self.lengths.get(node.0 as usize);
        if let Some(known) = cell.map(|cell| cell.load(Ordering::Relaxed))
            && known != UNKNOWN
        {
            return Ok(known);
        }
        let length = self.counted(self.find_length(node))?;
        if let Some(cell) = cell {
            cell.store(length, Ordering::Relaxed);
        }
        Ok(length)
    }

    /// Reads from a file at a byte offset, up to the end of `buf` or of the
    /// file, and says how many bytes there were.
    ///
    /// # Errors
    /// If the node is no file, or if any byte asked for cannot be had exactly
    /// as it was backed up. What `buf` holds then is unspecified.
    pub fn read_at(&self, node: NodeId, offset: u64, buf: &mut [u8]) -> Result<usize, ImageError> {
        self.counters.reads.add(1);
        let read = match self.is_paged(node) {
            true => self.read_paged(node, offset, buf),
            false => self.read_whole(node, offset, buf),
        };
        let count = self.counted(read)?;
        self.counters.bytes.add(count as u64);
        Ok(count)
    }

    /// A number that two images share only if their chains have the same ids
    /// and their trees the same names and kinds in the same places.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// What has been read so far.
    #[must_use]
    pub fn counters(&self) -> &ImageCounters {
        &self.counters
    }

    /// The target's tablespaces and where they were.
    #[must_use]
    pub fn tablespaces(&self) -> &[TablespaceMapping] {
        &self.target().backup.tablespaces
    }

    /// The time that the files of the image bear: when the backup began.
    #[must_use]
    pub fn timestamp(&self) -> SystemTime {
        self.target().backup.start_time.into()
    }

    fn target(&self) -> &Layer {
        // `open` refuses a chain without layers.
        &self.layers[self.layers.len() - 1]
    }

    /// The target's line on a node; `None` for nodes that no line stands for.
    fn entry(&self, node: NodeId) -> Option<FileEntry<'_>> {
        let index = self.tree.entry(node)?;
        Some(self.target().list.entry(index))
    }

    fn file_entry(&self, node: NodeId) -> Result<FileEntry<'_>, ImageError> {
        self.entry(node)
            .filter(|entry| !entry.is_directory())
            .filter(|_| self.kind(node) == NodeKind::File)
            .ok_or(ImageError::NotAFile { node })
    }

    fn find_length(&self, node: NodeId) -> Result<u64, ImageError> {
        match self.is_paged(node) {
            true => Ok(self.segment(node)?.length()),
            false => self.whole_length(node),
        }
    }

    fn counted<T>(&self, result: Result<T, ImageError>) -> Result<T, ImageError> {
        if result.is_err() {
            self.counters.errors.add(1);
        }
        result
    }
}

/// Reads all content lists, several at once.
fn read_layers(backups: &[Backup]) -> Result<Vec<Layer>, ImageError> {
    let lists: Vec<_> = backups.iter().map(|_| OnceLock::new()).collect();
    let next = AtomicUsize::new(0);
    let read = || {
        let take = || {
            let at = next.fetch_add(1, Ordering::Relaxed);
            backups.get(at).zip(lists.get(at))
        };
        while let Some((backup, list)) = take() {
            list.get_or_init(|| ContentList::read(backup));
        }
    };
    let at_once = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 1..at_once.min(backups.len()) {
            scope.spawn(read);
        }
        read();
    });
    let layers = backups.iter().zip(lists).map(|(backup, list)| {
        // Every one was read, or the scope has passed on a panic.
        let list = list
            .into_inner()
            .unwrap_or_else(|| ContentList::read(backup));
        Ok(Layer {
            backup: backup.clone(),
            list: list.map_err(|source| ImageError::Content {
                backup: backup.id.clone(),
                source,
            })?,
        })
    });
    layers.collect()
}

/// FNV-1a over what [`Image::fingerprint`] promises. It is kept on disk, so it
/// must not depend on a hasher that the standard library may change.
fn fingerprint(layers: &[Layer], tree: &Tree) -> u64 {
    let mut hash = 0xCBF2_9CE4_8422_2325_u64;
    let mut add = |bytes: &[u8]| {
        // A length before each piece keeps "ab","c" apart from "a","bc".
        let length = (bytes.len() as u64).to_le_bytes();
        for byte in length.iter().chain(bytes) {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3);
        }
    };
    for layer in layers {
        add(layer.backup.id.0.as_bytes());
    }
    for node in tree.ids() {
        let parent = tree.node(node).parent.0.to_le_bytes();
        add(tree.name(node));
        add(&parent);
        add(&[match tree.node(node).kind {
            NodeKind::Directory => 0,
            NodeKind::File => 1,
            NodeKind::Symlink => 2,
        }]);
    }
    hash
}
