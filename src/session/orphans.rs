//! Throw-away diffs whose owner died with the host.
//!
//! A session's directory is in /run and goes with a reboot; its throw-away diff
//! is on a disk and stays, with production's data in it. So each is written down
//! where it outlasts that, before it is made:
//!
//! ```text
//! LASTING/throw-away/NUMBER.json    {"diff_dir": .., "target": .., "since": ..}
//! ```
//! NUMBER is a hash of the diff's path. One whose session does not live is an
//! orphan: `status` shows it, the next session on its target removes it, and so
//! does `pbkfs cleanup --orphans`.

use std::hash::Hasher;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::place::{Fnv, Place};
use super::state::now;
use super::{SessionError, lasting};
use crate::diff::{Diff, DiffLock};
use crate::untrusted::{self, Dir};

const LIST: &str = "throw-away";

/// One line of the list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThrowAway {
    /// The diff.
    pub diff_dir: PathBuf,
    /// Where its session mounts.
    pub target: PathBuf,
    /// When it began, in RFC 3339.
    pub since: String,
}

/// Writes down that a diff is going to be made and thrown away again.
///
/// # Errors
/// I/O errors of the list.
pub fn write_down(diff_dir: &Path, target: &Path) -> Result<(), SessionError> {
    let entry = ThrowAway {
        diff_dir: diff_dir.to_owned(),
        target: target.to_owned(),
        since: now(),
    };
    let write = || {
        let text = serde_json::to_vec(&entry)?;
        lasting::make(LIST)?.replace(name_of(diff_dir), &text, 0o600, None)
    };
    write().map_err(list_error("write down the throw-away diff in"))
}

/// Removes a throw-away diff, if it was made at all, and its line in the list.
///
/// # Errors
/// Those of the diff; I/O errors of the list.
pub fn remove(diff_dir: &Path) -> Result<(), SessionError> {
    if diff_dir.symlink_metadata().is_ok() {
        Diff::remove(diff_dir)?;
    }
    let forget = || match lasting::open(LIST)? {
        Some(list) => list.remove_file(name_of(diff_dir)),
        None => Ok(()),
    };
    forget().map_err(list_error("change"))
}

/// All orphans of this user. A line that cannot be read is logged and left out.
///
/// # Errors
/// I/O errors of the list.
pub fn all() -> Result<Vec<ThrowAway>, SessionError> {
    let mut orphans = written_down()?;
    orphans.retain(|entry| !has_owner(entry));
    Ok(orphans)
}

/// Removes the orphans of sessions on a target, which the caller holds and where
/// nothing is mounted. The diff of a session that lives, whose directory may be
/// another one, is in use and stays. One that cannot be removed is logged: it is
/// nothing that a new session needs.
///
/// # Errors
/// I/O errors of the list.
pub fn remove_of(target: &Path) -> Result<(), SessionError> {
    for orphan in of(target)? {
        match remove(&orphan.diff_dir) {
            Ok(()) => tracing::info!(
                "removed {}, the throw-away diff of a session that died with the host",
                orphan.diff_dir.display()
            ),
            Err(error) => tracing::warn!("a throw-away diff is left over: {error}"),
        }
    }
    Ok(())
}

/// Who holds the throw-away diff of a session on a target, by the list alone.
pub fn holder_of(target: &Path) -> Option<u32> {
    let holder = |entry: ThrowAway| DiffLock::holder(&entry.diff_dir).ok().flatten();
    let mut holders = of(target).ok()?.into_iter().filter_map(holder);
    holders
        .next()
        .map(|holder| holder.pid)
        .filter(|pid| *pid != 0)
}

fn of(target: &Path) -> Result<Vec<ThrowAway>, SessionError> {
    let mut entries = written_down()?;
    entries.retain(|entry| entry.target == target);
    Ok(entries)
}

fn written_down() -> Result<Vec<ThrowAway>, SessionError> {
    let Some(list) = lasting::open(LIST).map_err(list_error("open"))? else {
        return Ok(Vec::new());
    };
    let mut names = list.names().map_err(list_error("list"))?;
    names.sort();
    let mut found = Vec::new();
    for name in names
        .iter()
        .filter(|name| name.as_bytes().ends_with(b".json"))
    {
        match read(&list, Path::new(name)) {
            Ok(entry) => found.extend(entry),
            Err(error) => {
                let path = list.path().join(name);
                tracing::warn!("{} cannot be used: {error}", path.display());
            }
        }
    }
    Ok(found)
}

/// `None` if its session has ended meanwhile, or its diff is gone.
fn read(list: &Dir, name: &Path) -> io::Result<Option<ThrowAway>> {
    let Some(text) = untrusted::found(list.read(name, untrusted::SMALL))? else {
        return Ok(None);
    };
    let entry: ThrowAway = serde_json::from_slice(&text)?;
    Ok(entry.diff_dir.symlink_metadata().is_ok().then_some(entry))
}

/// Whether the diff's session lives, or its server still does. What cannot be
/// told counts as living.
fn has_owner(entry: &ThrowAway) -> bool {
    let is_held = Place::of(&entry.target).is_held().unwrap_or(true);
    is_held || DiffLock::holder(&entry.diff_dir).map_or(true, |holder| holder.is_some())
}

fn name_of(diff_dir: &Path) -> String {
    let mut hash = Fnv::default();
    hash.write(diff_dir.as_os_str().as_bytes());
    format!("{:016x}.json", hash.finish())
}

fn list_error(action: &'static str) -> impl Fn(io::Error) -> SessionError {
    move |source| SessionError::io(action, &lasting::lasting_root().join(LIST), source)
}
