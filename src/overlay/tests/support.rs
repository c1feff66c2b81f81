//! An image in memory, and shortcuts for using an overlay.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use crate::diff::{Binding, Diff, DiffLock, FORMAT_VERSION, LockHolder};
use crate::image::NodeId;
use crate::overlay::{Ino, Lower, LowerKind, Overlay, OverlayError, OverlayOptions};
use crate::pg::BLOCK_SIZE;

pub const BS: usize = BLOCK_SIZE;

/// The image's time, long before any test runs.
pub const IMAGE_TIME_NS: i64 = 1_600_000_000_000_000_000;

#[derive(Debug, Clone)]
enum Body {
    Directory(BTreeMap<OsString, NodeId>),
    File(Vec<u8>),
    Symlink(PathBuf),
}

#[derive(Debug, Clone)]
struct Node {
    name: OsString,
    parent: NodeId,
    body: Body,
}

/// A lower layer in memory.
#[derive(Debug, Clone)]
pub struct MemLower {
    nodes: Vec<Node>,
}

impl MemLower {
    pub fn new() -> Self {
        Self {
            nodes: vec![Node {
                name: OsString::new(),
                parent: NodeId(0),
                body: Body::Directory(BTreeMap::new()),
            }],
        }
    }

    fn add(mut self, path: &str, body: Body) -> Self {
        let path = Path::new(path);
        let mut parent = NodeId(0);
        for part in path.parent().unwrap() {
            parent = self.lookup(parent, part).unwrap();
        }
        let node = NodeId(u32::try_from(self.nodes.len()).unwrap());
        let name = path.file_name().unwrap().to_owned();
        let Body::Directory(children) = &mut self.nodes[parent.0 as usize].body else {
            panic!("{} is in no directory", path.display());
        };
        children.insert(name.clone(), node);
        self.nodes.push(Node { name, parent, body });
        self
    }

    pub fn dir(self, path: &str) -> Self {
        self.add(path, Body::Directory(BTreeMap::new()))
    }

    pub fn file(self, path: &str, bytes: Vec<u8>) -> Self {
        self.add(path, Body::File(bytes))
    }

    pub fn symlink(self, path: &str, target: &str) -> Self {
        self.add(path, Body::Symlink(target.into()))
    }

    pub fn file_bytes(&self, path: &str) -> &[u8] {
        let mut node = NodeId(0);
        for part in Path::new(path) {
            node = self.lookup(node, part).unwrap();
        }
        self.bytes(node)
    }

    fn node(&self, node: NodeId) -> &Node {
        &self.nodes[node.0 as usize]
    }

    fn bytes(&self, node: NodeId) -> &[u8] {
        match &self.node(node).body {
            Body::File(bytes) => bytes,
            other => panic!("{other:?} has no bytes"),
        }
    }
}

impl Lower for MemLower {
    fn node_count(&self) -> usize {
        self.nodes.len()
    }
    fn kind(&self, node: NodeId) -> LowerKind {
        match self.node(node).body {
            Body::Directory(_) => LowerKind::Directory,
            Body::File(_) => LowerKind::File,
            Body::Symlink(_) => LowerKind::Symlink,
        }
    }
    fn mode(&self, node: NodeId) -> u32 {
        match self.kind(node) {
            LowerKind::Directory => 0o700,
            LowerKind::File => 0o600,
            LowerKind::Symlink => 0o777,
        }
    }
    fn name(&self, node: NodeId) -> &OsStr {
        &self.node(node).name
    }
    fn parent(&self, node: NodeId) -> NodeId {
        self.node(node).parent
    }
    fn path(&self, node: NodeId) -> PathBuf {
        if node.0 == 0 {
            return PathBuf::new();
        }
        self.path(self.parent(node)).join(self.name(node))
    }
    fn lookup(&self, dir: NodeId, name: &OsStr) -> Option<NodeId> {
        match &self.node(dir).body {
            Body::Directory(children) => children.get(name).copied(),
            _ => None,
        }
    }
    fn children(&self, dir: NodeId) -> Vec<NodeId> {
        match &self.node(dir).body {
            Body::Directory(children) => children.values().copied().collect(),
            _ => Vec::new(),
        }
    }
    fn symlink_target(&self, node: NodeId) -> Option<&Path> {
        match &self.node(node).body {
            Body::Symlink(target) => Some(target),
            _ => None,
        }
    }
    fn len(&self, node: NodeId) -> Result<u64, OverlayError> {
        Ok(self.bytes(node).len() as u64)
    }
    fn read_at(&self, node: NodeId, offset: u64, buf: &mut [u8]) -> Result<usize, OverlayError> {
        let bytes = self.bytes(node);
        let from = usize::try_from(offset).unwrap().min(bytes.len());
        let n = buf.len().min(bytes.len() - from);
        buf[..n].copy_from_slice(&bytes[from..from + n]);
        Ok(n)
    }
    fn timestamp_ns(&self) -> i64 {
        IMAGE_TIME_NS
    }
}

pub fn name(name: &str) -> &OsStr {
    OsStr::new(name)
}

/// Generates bytes that identify their writer and offset in each 8 bytes; none is zero.
pub fn pattern(stamp: u32, offset: u64, len: usize) -> Vec<u8> {
    let byte = |at: u64| {
        let word = (u64::from(stamp) << 32) ^ (at / 8).wrapping_mul(0x9e37_79b9);
        let mixed = word.wrapping_mul(0xbf58_476d_1ce4_e5b9) ^ (word >> 29);
        (mixed >> (8 * (at % 8))) as u8 | 1
    };
    (offset..offset + len as u64).map(byte).collect()
}

pub fn binding() -> Binding {
    Binding {
        version: FORMAT_VERSION,
        catalog: "/catalog".into(),
        instance: "main".into(),
        system_identifier: None,
        backup: "AAA".into(),
        chain: vec!["AAA".into()],
        image: "00".into(),
    }
}

pub fn options(passthrough: bool) -> OverlayOptions {
    OverlayOptions {
        uid: 26,
        gid: 26,
        tablespace_version_dir: Some("PG_15_202209061".into()),
        data_dir: None,
        passthrough,
    }
}

/// Creates a directory on which syncing costs nothing, if the system has one.
pub fn memory_dir() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .unwrap()
}

/// Opens an overlay whose diff is in `dir`.
pub fn open_in(lower: MemLower, dir: &Path, passthrough: bool) -> Overlay<MemLower> {
    open_with(lower, dir, options(passthrough))
}

pub fn open_with(lower: MemLower, dir: &Path, options: OverlayOptions) -> Overlay<MemLower> {
    let root = dir.join("diff");
    let lock = DiffLock::acquire(&root, &LockHolder::default()).unwrap();
    let diff = Diff::open(lock, &binding()).unwrap();
    Overlay::new(lower, Some(diff), options).unwrap()
}

impl Overlay<MemLower> {
    /// Returns the inode at a path from the root.
    pub fn at(&self, path: &str) -> Result<Ino, OverlayError> {
        let mut ino = Ino::ROOT;
        for part in Path::new(path) {
            ino = self.lookup(ino, part)?.ino;
        }
        Ok(ino)
    }

    pub(super) fn bytes(&self, ino: Ino) -> Result<Vec<u8>, OverlayError> {
        let mut bytes = vec![0xaa; usize::try_from(self.attr(ino)?.size).unwrap()];
        let n = self.read(ino, 0, &mut bytes)?;
        assert_eq!(n, bytes.len(), "a read ends before the file does");
        Ok(bytes)
    }

    pub(super) fn contents(&self, path: &str) -> Result<Vec<u8>, OverlayError> {
        self.bytes(self.at(path)?)
    }

    pub(super) fn make(&self, parent: Ino, name: &str) -> Result<Ino, OverlayError> {
        Ok(self.create(parent, OsStr::new(name), 0o600, 26, 26)?.ino)
    }

    pub(super) fn set_len(&self, ino: Ino, size: u64) -> Result<(), OverlayError> {
        let change = crate::overlay::AttrChange {
            size: Some(size),
            ..Default::default()
        };
        self.set_attr(ino, &change).map(|_| ())
    }
}
