//! The server's changes in the WAL directory of the diff.

use std::ffi::OsStr;
use std::fs::File;
use std::path::Path;

use super::PG_WAL;
use crate::diff::{WAL_DEPTH, WAL_DIR, time_ns};
use crate::image::NodeId;
use crate::overlay::changes::{Change, ChangeKind};
use crate::overlay::lower::{Lower, LowerKind};
use crate::overlay::tree::Ino;
use crate::pg::BLOCK_SIZE;
use crate::untrusted::{Dir, Kind};

/// Returns the changes in the WAL directory of the diff in `root`. A file counts as
/// unchanged as long as it has the backup's size and time. A directory that cannot be
/// read yields nothing, and links are not followed.
pub fn wal_changes<L: Lower>(root: &Path, lower: Option<&L>) -> Vec<Change> {
    let below = lower.and_then(|lower| lower.lookup(Ino::ROOT.node()?, OsStr::new(PG_WAL)));
    let mut changes = Vec::new();
    if let Ok(dir) = Dir::open(root).and_then(|root| root.dir(WAL_DIR)) {
        gather(&dir, Path::new(PG_WAL), lower.zip(below), &mut changes);
    }
    changes
}

fn gather<L: Lower>(
    dir: &Dir,
    path: &Path,
    below: Option<(&L, NodeId)>,
    changes: &mut Vec<Change>,
) {
    if path.components().count() > WAL_DEPTH {
        return;
    }
    let mut add = |path: &Path, kind, bytes: u64| {
        changes.push(Change {
            path: path.display().to_string(),
            kind,
            from: None,
            blocks: bytes.div_ceil(BLOCK_SIZE as u64),
            bytes,
            whole: bytes > 0,
        });
    };
    let mut directories = Vec::new();
    for name in dir.names().into_iter().flatten() {
        let Ok(Some(stat)) = dir.stat(&name) else {
            continue;
        };
        let node = below.and_then(|(lower, dir)| Some((lower, lower.lookup(dir, &name)?)));
        let is_same = |(lower, node): (&L, NodeId)| {
            lower.len(node).ok() == Some(stat.len)
                && dir
                    .file(&name)
                    .is_ok_and(|file| mtime_ns(&file) == lower.timestamp_ns())
        };
        let path = path.join(&name);
        match node {
            _ if stat.kind == Kind::Directory => directories.push((name, path, node)),
            Some(node) if is_same(node) => {}
            Some(_) => add(&path, ChangeKind::Changed, stat.len),
            None => add(&path, ChangeKind::New, stat.len),
        }
    }
    for (lower, node) in below
        .iter()
        .flat_map(|(lower, node)| lower.children(*node).into_iter().map(move |n| (lower, n)))
    {
        let name = lower.name(node);
        if !matches!(dir.stat(name), Ok(Some(_))) {
            let slash = match lower.kind(node) {
                LowerKind::Directory => "/",
                _ => "",
            };
            let path = format!("{}{slash}", path.join(name).display());
            add(Path::new(&path), ChangeKind::Deleted, 0);
        }
    }
    for (name, path, below) in directories {
        if let Ok(inner) = dir.dir(&name) {
            gather(&inner, &path, below, changes);
        }
    }
}

fn mtime_ns(file: &File) -> i64 {
    let modified = file.metadata().and_then(|meta| meta.modified());
    modified.map_or(0, time_ns)
}
