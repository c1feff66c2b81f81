//! The names of a session's directory and of its target.

use std::ffi::OsStr;
use std::fs;
use std::hash::Hasher;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::fnv::Fnv;

/// Returns the path that identifies a target, however it was written: its directory is
/// resolved, but its own name is kept, because the mount itself may not answer.
#[must_use]
pub fn canonical(target: &Path) -> PathBuf {
    // Of a mount that hangs, the kernel can tell that it is not a link, but nothing else.
    if fs::read_link(target).is_ok()
        && let Ok(real) = target.canonicalize()
    {
        return real;
    }
    match (target.parent().map(Path::canonicalize), target.file_name()) {
        (Some(Ok(parent)), Some(name)) => parent.join(name),
        _ => target.to_owned(),
    }
}

/// Returns whether a session's directory can have that name.
pub fn is_place(name: &OsStr) -> bool {
    let parts = name.to_str().and_then(|name| name.split_once('-'));
    parts.is_some_and(|(target, hash)| {
        target.bytes().all(|b| b.is_ascii_alphanumeric())
            && hash.len() == 16
            && hash.bytes().all(|b| b.is_ascii_hexdigit())
    })
}

/// Returns the name of the directory for a canonical target.
#[must_use]
pub fn name_for(target: &Path) -> String {
    let mut hash = Fnv::default();
    hash.write(target.as_os_str().as_bytes());
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    // A socket's path is limited to little more than 100 bytes.
    let name: String = name
        .chars()
        .filter(|c| c.is_ascii_alphanumeric())
        .take(20)
        .collect();
    format!("{name}-{:016x}", hash.finish())
}
