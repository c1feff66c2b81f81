//! Keeping the cache within its limit.

use std::io;
use std::path::{Path, PathBuf};

use crate::untrusted::{Dir, Kind, found};

/// The cache is measured when a share of its limit was written: one part of so many.
pub const SHARE: u64 = 16;

/// What was not used for longest is removed until this part of the limit is left, in
/// percent.
const LEFT: u64 = 90;

/// Removes what was not used for longest from a directory of directories, if all of it
/// exceeds `limit` bytes. Files that others remove meanwhile are no error.
///
/// # Errors
/// If a directory cannot be read.
pub fn shrink(dir: &Dir, limit: u64) -> io::Result<()> {
    let mut files = Vec::new();
    let mut total = 0u64;
    for name in dir.names()? {
        let Some(inner) = found(dir.dir(&name))? else {
            continue;
        };
        for file in inner.names()? {
            let Some(stat) = inner.stat(&file)?.filter(|stat| stat.kind == Kind::File) else {
                continue;
            };
            total = total.saturating_add(stat.disk_bytes);
            files.push(Cached {
                used: stat.mtime_ns,
                place: Path::new(&name).join(&file),
                bytes: stat.disk_bytes,
            });
        }
    }
    if total <= limit {
        return Ok(());
    }
    files.sort_unstable_by_key(|file| file.used);
    let wanted = limit / 100 * LEFT;
    for file in files {
        if total <= wanted {
            break;
        }
        let (Some(above), Some(name)) = (file.place.parent(), file.place.file_name()) else {
            continue;
        };
        found(dir.dir(above).and_then(|inner| inner.remove_file(name)))?;
        total = total.saturating_sub(file.bytes);
    }
    Ok(())
}

struct Cached {
    /// When it was last used, in nanoseconds since the epoch.
    used: i64,
    place: PathBuf,
    /// What it occupies.
    bytes: u64,
}
