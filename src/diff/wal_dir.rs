//! `.pbkfs-wal/`: the server's WAL directory, where it is not in the overlay.
//! What is in it is PostgreSQL's, and so is every name.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The directory's name. A link of the overlay that ends in it is ours.
pub const WAL_DIR: &str = ".pbkfs-wal";

/// How deep it is looked into; PostgreSQL's has one level below it.
const DEPTH: usize = 4;

/// What a directory takes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    /// Bytes on disk.
    pub bytes: u64,
    /// Files.
    pub files: usize,
}

/// What is in a diff's WAL directory, as far as it can be read: files come and
/// go meanwhile, and it need not be there at all. Links are not followed.
pub fn disk_usage(root: &Path) -> Usage {
    let dir = root.join(WAL_DIR);
    match dir.symlink_metadata() {
        Ok(meta) if meta.is_dir() => usage_of(&dir, DEPTH),
        _ => Usage::default(),
    }
}

fn usage_of(dir: &Path, depth: usize) -> Usage {
    let mut usage = Usage::default();
    if depth == 0 {
        return usage;
    }
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let Ok(meta) = entry.metadata() else { continue };
        if meta.is_dir() {
            let inner = usage_of(&entry.path(), depth - 1);
            usage.bytes += inner.bytes;
            usage.files += inner.files;
        } else {
            usage.bytes += meta.blocks() * 512;
            usage.files += 1;
        }
    }
    usage
}
