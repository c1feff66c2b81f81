//! What a session's directory is called, and its target.

use std::ffi::OsStr;
use std::fs;
use std::hash::Hasher;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::fnv::Fnv;

/// A path by which a target is known, however it was written: its directory
/// resolved, its own name kept, as the mount itself may not answer.
#[must_use]
pub fn canonical(target: &Path) -> PathBuf {
    // Of a mount that hangs, the kernel tells that it is no link, but no more.
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

/// Whether a session's directory can have that name.
pub fn is_place(name: &OsStr) -> bool {
    let parts = name.to_str().and_then(|name| name.split_once('-'));
    parts.is_some_and(|(target, hash)| {
        target.bytes().all(|b| b.is_ascii_alphanumeric())
            && hash.len() == 16
            && hash.bytes().all(|b| b.is_ascii_hexdigit())
    })
}

/// The name of the directory for a target, which is canonical.
#[must_use]
pub fn name_for(target: &Path) -> String {
    let mut hash = Fnv::default();
    hash.write(target.as_os_str().as_bytes());
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    // A socket's path holds little more than 100 bytes.
    let name: String = name
        .chars()
        .filter(|c| c.is_ascii_alphanumeric())
        .take(20)
        .collect();
    format!("{name}-{:016x}", hash.finish())
}
