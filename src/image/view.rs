//! The image itself: its tree, and what is known without reading a file.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::time::SystemTime;

use super::counters::ImageCounters;
use super::error::ImageError;
use super::fingerprint::fingerprint;
use super::layers::{Layer, read_layers};
use super::segment::SegmentMap;
use super::tree::{NodeId, NodeKind, Tree};
use crate::cache::Cache;
use crate::catalog::content::FileEntry;
use crate::catalog::store::StoreFile;
use crate::catalog::{BackupId, TablespaceMapping};
use crate::chain::Chain;
use crate::descriptors;
use crate::pg::BLOCK_SIZE;

/// Number of stored files kept open, if the system permits that many.
const OPEN_FILES: usize = 512;

/// Marks a length that is not known yet.
pub(super) const UNKNOWN: u64 = u64::MAX;

/// A file of the catalog, identified by its layer and its index in the content list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum StoredFile {
    /// The stored bytes of one entry.
    Entry { layer: usize, entry: usize },
    /// A backup's `page_header_map`.
    HeaderMap { layer: usize },
}

/// Options for reading an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageOptions {
    /// Verify every page's checksum, if the cluster has checksums.
    pub verify_checksums: bool,
    /// Bytes of memory for the page indexes of the most recently used segments.
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

/// The data directory that a chain contains.
///
/// ```
/// use std::path::Path;
///
/// use pbkfs::catalog::{BackupRef, Catalog};
/// use pbkfs::chain::Chain;
/// use pbkfs::image::{Image, ImageOptions, NodeKind};
///
/// # let unpacked = include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc_catalog.rs"));
/// # let root = unpacked.path().join("catalog");
/// let instance = Catalog::open(&root)?.instance("main")?;
/// let chain = Chain::resolve("main", &instance.backups()?, &BackupRef::Latest)?;
/// let image = Image::open(&chain, &ImageOptions::default())?;
///
/// // A table is a file of pages, merged out of all backups of the chain.
/// let global = image.find(Path::new("global")).ok_or("no global")?;
/// for node in image.children(global) {
///     if image.kind(node) == NodeKind::File && image.is_paged(node) {
///         let mut page = [0; 8192];
///         image.read_at(node, 0, &mut page)?;
///     }
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// A [`NodeId`] that this image never allocated is treated as the root, except when
/// content is requested: that is an error.
#[derive(Debug)]
pub struct Image {
    /// Oldest first, never empty.
    pub(super) layers: Vec<Layer>,
    pub(super) tree: Tree,
    /// The layers whose truncation markers may cause restore to truncate newer blocks.
    pub(super) marked: Vec<BackupId>,
    /// The lengths determined so far, by node.
    pub(super) lengths: Vec<AtomicU64>,
    pub(super) segments: Cache<NodeId, SegmentMap>,
    pub(super) files: Cache<StoredFile, dyn StoreFile>,
    pub(super) verify_checksums: bool,
    fingerprint: u64,
    pub(super) counters: ImageCounters,
}

impl Image {
    /// The root of PGDATA.
    pub const ROOT: NodeId = NodeId(0);

    /// Reads the content lists of a chain and builds the tree.
    ///
    /// # Errors
    /// If a list cannot be read or is invalid, or if the target contains files that
    /// cannot be shown, which are those of a compressed tablespace.
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

    /// Returns how many threads should read it at a time.
    #[must_use]
    pub fn parallel(&self) -> usize {
        self.target().backup.place.parallel()
    }

    /// Returns the number of nodes; all ids are below it.
    #[must_use]
    pub fn node_count(&self) -> usize {
        self.tree.len()
    }

    /// Returns a node's kind.
    #[must_use]
    pub fn kind(&self, node: NodeId) -> NodeKind {
        self.tree.node(node).kind
    }

    /// Returns a node's permission bits, as restore leaves them.
    #[must_use]
    pub fn mode(&self, node: NodeId) -> u32 {
        u32::from(self.tree.node(node).permissions)
    }

    /// Returns a node's name in its directory; empty for the root.
    #[must_use]
    pub fn name(&self, node: NodeId) -> &OsStr {
        OsStr::from_bytes(self.tree.name(node))
    }

    /// Returns the directory of a node; the root is its own.
    #[must_use]
    pub fn parent(&self, node: NodeId) -> NodeId {
        self.tree.node(node).parent
    }

    /// Returns a node's path inside PGDATA; empty for the root.
    #[must_use]
    pub fn path(&self, node: NodeId) -> PathBuf {
        self.tree.path(node)
    }

    /// Returns the node with this name in a directory.
    #[must_use]
    pub fn lookup(&self, directory: NodeId, name: &OsStr) -> Option<NodeId> {
        self.tree.lookup(directory, name.as_bytes())
    }

    /// Returns the nodes of a directory, in the byte order of their names.
    pub fn children(&self, directory: NodeId) -> impl Iterator<Item = NodeId> + '_ {
        self.tree.children(directory).map(NodeId)
    }

    /// Returns the node at a path inside PGDATA. Symbolic links are not followed.
    #[must_use]
    pub fn find(&self, path: &Path) -> Option<NodeId> {
        let mut names = path.as_os_str().as_bytes().split(|&byte| byte == b'/');
        names
            .by_ref()
            .filter(|name| !name.is_empty())
            .try_fold(Self::ROOT, |at, name| self.tree.lookup(at, name))
    }

    /// Returns the target of a symbolic link, relative to the link's directory.
    #[must_use]
    pub fn symlink_target(&self, node: NodeId) -> Option<&Path> {
        self.tree.symlink_target(node)
    }

    /// Whether a file is merged page by page from several layers.
    #[must_use]
    pub fn is_paged(&self, node: NodeId) -> bool {
        self.entry(node)
            .is_some_and(|entry| entry.is_datafile && !entry.is_directory())
    }

    /// Returns the size of a file by the content lists, in bytes, which is not exact if
    /// its length is not recorded.
    #[must_use]
    pub fn listed_size(&self, node: NodeId) -> u64 {
        let Some(entry) = self.entry(node) else {
            return 0;
        };
        let blocks = u64::from(entry.n_blocks) * BLOCK_SIZE as u64;
        match entry.is_datafile && blocks > 0 {
            true => blocks,
            false => u64::try_from(entry.size.max(entry.full_size)).unwrap_or(0),
        }
    }

    /// Returns a number that two images share only if their chains have the same ids, and
    /// their trees the same names and kinds in the same places.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// Returns counts of what has been read so far.
    #[must_use]
    pub fn counters(&self) -> &ImageCounters {
        &self.counters
    }

    /// Returns the target's tablespaces and their original locations.
    #[must_use]
    pub fn tablespaces(&self) -> &[TablespaceMapping] {
        &self.target().backup.tablespaces
    }

    /// Returns the timestamp of all files in the image: the start of the backup.
    #[must_use]
    pub fn timestamp(&self) -> SystemTime {
        self.target().backup.start_time.into()
    }

    pub(super) fn target(&self) -> &Layer {
        // `open` refuses a chain without layers.
        &self.layers[self.layers.len() - 1]
    }

    /// Returns the target's line for a node; `None` for nodes without a line.
    pub(super) fn entry(&self, node: NodeId) -> Option<FileEntry<'_>> {
        let index = self.tree.entry(node)?;
        Some(self.target().list.entry(index))
    }

    pub(super) fn file_entry(&self, node: NodeId) -> Result<FileEntry<'_>, ImageError> {
        self.entry(node)
            .filter(|entry| !entry.is_directory())
            .filter(|_| self.kind(node) == NodeKind::File)
            .ok_or(ImageError::NotAFile { node })
    }

    pub(super) fn counted<T>(&self, result: Result<T, ImageError>) -> Result<T, ImageError> {
        result.inspect_err(|_| self.counters.errors.add(1))
    }
}
