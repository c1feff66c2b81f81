//! `.pbkfs-wal/`: the server's WAL directory, if it is outside the overlay. Its content
//! and all names in it are PostgreSQL's.

use super::root::Root;
use crate::diff::layout::{WAL_DEPTH, WAL_DIR};
use crate::untrusted::{Dir, Kind};

/// What a directory takes up.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    /// Size on disk in bytes.
    pub bytes: u64,
    /// Number of files.
    pub files: usize,
}

/// Measures a diff's WAL directory as far as it can be read. Files may appear and
/// vanish meanwhile, and the directory need not exist. Links are not followed.
pub fn disk_usage(root: &Root) -> Usage {
    let dir = root.dir().dir(WAL_DIR);
    dir.map_or_else(|_| Usage::default(), |dir| usage_of(&dir, WAL_DEPTH))
}

fn usage_of(dir: &Dir, depth: usize) -> Usage {
    let mut usage = Usage::default();
    if depth == 0 {
        return usage;
    }
    for name in dir.names().into_iter().flatten() {
        let Ok(Some(stat)) = dir.stat(&name) else {
            continue;
        };
        if stat.kind == Kind::Directory {
            let inner = dir.dir(&name);
            let inner = inner.map_or_else(|_| Usage::default(), |dir| usage_of(&dir, depth - 1));
            usage.bytes = usage.bytes.saturating_add(inner.bytes);
            usage.files += inner.files;
        } else {
            usage.bytes = usage.bytes.saturating_add(stat.disk_bytes);
            usage.files += 1;
        }
    }
    usage
}
