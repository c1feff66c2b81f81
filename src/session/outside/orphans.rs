//! Throw-away diffs whose owner died with the host.
//!
//! A session's directory is in /run and disappears at a reboot; its throw-away diff is
//! on a disk and stays, with production's data in it. So each diff is recorded where
//! the record survives a reboot, before the diff is created:
//!
//! ```text
//! LASTING/throw-away/NUMBER.json    {"diff_dir": .., "target": .., "since": .., "made_target": ..}
//! ```
//! NUMBER is a hash of the diff's path. A diff is an orphan if its session is not alive
//! and is not known by its state either: `status` shows it, the next session on its
//! target removes it, and so does `pbkfs cleanup --orphans`. A diff named by a dead
//! session's state is left for `down` to remove.

use std::hash::Hasher;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::clock::now;
use crate::diff::{Diff, DiffLock};
use crate::session::SessionError;
use crate::session::place::fnv::Fnv;
use crate::session::place::state::State;
use crate::session::place::{Place, lasting, mounts};
use crate::untrusted::{self, Dir};

const LIST: &str = "throw-away";

/// One entry of the list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThrowAway {
    /// The diff.
    pub diff_dir: PathBuf,
    /// The mount point of its session.
    pub target: PathBuf,
    /// When it was recorded, in RFC 3339 format.
    pub since: String,
    /// Whether the session created its mount point.
    #[serde(default)]
    pub made_target: bool,
    /// The inode of the directory that contains the diff: if another one is there, the
    /// diff's disk is not mounted.
    #[serde(default)]
    parent: Option<u64>,
}

impl ThrowAway {
    /// Creates the entry of a session that starts now, about the diff that it will discard.
    #[must_use]
    pub fn begin(diff_dir: &Path, target: &Path) -> Self {
        Self {
            diff_dir: diff_dir.to_owned(),
            target: target.to_owned(),
            since: now(),
            made_target: false,
            parent: parent_inode(diff_dir),
        }
    }

    /// Returns whether the diff is gone, and not only its disk.
    fn is_gone(&self) -> bool {
        let diff = self.diff_dir.symlink_metadata();
        let is_missing = diff.is_err_and(|e| e.kind() == io::ErrorKind::NotFound);
        is_missing && self.parent.is_some() && self.parent == parent_inode(&self.diff_dir)
    }

    /// Writes the entry to the list, replacing any other of the same diff.
    ///
    /// # Errors
    /// I/O errors of the list.
    pub fn write_down(&self) -> Result<(), SessionError> {
        let write = || {
            let text = serde_json::to_vec(self)?;
            lasting::make(LIST)?.replace(name_of(&self.diff_dir), &text, 0o600, None)
        };
        write().map_err(list_error("record the throw-away diff in"))
    }

    /// Removes what its session has left: the diff, the mount point if the session
    /// created it and nobody uses it, and the entry in the list.
    ///
    /// # Errors
    /// If the diff cannot be removed.
    pub fn remove(&self) -> Result<(), SessionError> {
        remove(&self.diff_dir)?;
        if self.made_target
            && let Err(error) = mounts::remove_point(&self.target)
        {
            // It is gone, or now belongs to somebody else.
            tracing::debug!("{error}");
        }
        Ok(())
    }
}

/// Records that a session with a throw-away diff has created its mount point: if the
/// host goes down, both are left behind.
pub fn target_made(state: &State) {
    let Some(diff_dir) = state.diff_dir.as_ref().filter(|_| state.throw_away) else {
        return;
    };
    let mut entry = ThrowAway::begin(diff_dir, &state.target);
    entry.made_target = true;
    if let Err(error) = entry.write_down() {
        // A list that cannot be used was reported when the diff was recorded.
        tracing::debug!("{error}");
    }
}

/// Removes a throw-away diff, if it was created at all, and its entry in the list. If
/// the entry cannot be removed, that is only logged: because the diff is gone, the next
/// reader of the list removes it.
///
/// # Errors
/// If the diff cannot be removed.
pub fn remove(diff_dir: &Path) -> Result<(), SessionError> {
    if diff_dir.symlink_metadata().is_ok() {
        Diff::remove(diff_dir)?;
    }
    let forget = || match lasting::open(LIST)? {
        Some(list) => list.remove_file(name_of(diff_dir)),
        None => Ok(()),
    };
    if let Err(error) = forget().map_err(list_error("change")) {
        tracing::warn!("the list still has a throw-away diff that is gone: {error}");
    }
    Ok(())
}

/// Returns all orphans of this user. An entry that cannot be read is logged and left
/// out; one whose diff is gone is removed.
///
/// # Errors
/// I/O errors of the list.
pub fn all() -> Result<Vec<ThrowAway>, SessionError> {
    let mut orphans = written_down()?;
    orphans.retain(|entry| !has_owner(entry));
    for gone in orphans.iter().filter(|entry| entry.is_gone()) {
        // The next check retries.
        if let Err(error) = remove(&gone.diff_dir) {
            tracing::debug!("{error}");
        }
    }
    orphans.retain(|entry| entry.diff_dir.symlink_metadata().is_ok());
    Ok(orphans)
}

/// Removes the orphans of sessions on a target, which the caller holds and where
/// nothing is mounted. The diff of a live session, whose directory may be elsewhere, is
/// in use and stays. A diff that cannot be removed is logged, and so is a list that
/// cannot be used: a new session needs neither.
pub fn remove_of(target: &Path) {
    let mut orphans = all_if_usable(of(target));
    orphans.retain(|entry| entry.diff_dir.symlink_metadata().is_ok());
    for orphan in orphans {
        match orphan.remove() {
            Ok(()) => tracing::info!(
                "removed {}, the throw-away diff of a session that died with the host",
                orphan.diff_dir.display()
            ),
            Err(error) => tracing::warn!("a throw-away diff is left behind: {error}"),
        }
    }
}

/// Returns the entries of the list. If the list cannot be used, there are none, and
/// a warning is logged.
pub fn all_if_usable(entries: Result<Vec<ThrowAway>, SessionError>) -> Vec<ThrowAway> {
    entries.unwrap_or_else(|error| {
        tracing::warn!("cannot search for throw-away diffs left by a power failure: {error}");
        Vec::new()
    })
}

/// Returns the process that holds the throw-away diff of a session on a target, as far
/// as the list alone shows.
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

/// Reads an entry; `None` if its session has ended meanwhile.
fn read(list: &Dir, name: &Path) -> io::Result<Option<ThrowAway>> {
    let Some(text) = untrusted::found(list.read(name, untrusted::SMALL))? else {
        return Ok(None);
    };
    Ok(Some(serde_json::from_slice(&text)?))
}

/// Returns whether the diff's session or its server is alive, or its state leaves the
/// session for `down` to finish. Anything that cannot be determined counts as alive.
/// The session is checked first, because it creates the diff after the entry.
fn has_owner(entry: &ThrowAway) -> bool {
    let place = Place::of(&entry.target);
    let is_held = place.is_held().unwrap_or(true);
    is_held
        || is_named_by(&place, &entry.diff_dir)
        || DiffLock::holder(&entry.diff_dir).map_or(true, |holder| holder.is_some())
}

/// Returns whether the session's state names the diff. A state that cannot be read
/// names nothing: `down` could not do its work with it.
fn is_named_by(place: &Place, diff_dir: &Path) -> bool {
    let state = place.state().ok().flatten();
    state.is_some_and(|state| state.throw_away && state.diff_dir.as_deref() == Some(diff_dir))
}

fn parent_inode(diff_dir: &Path) -> Option<u64> {
    Some(diff_dir.parent()?.metadata().ok()?.ino())
}

fn name_of(diff_dir: &Path) -> String {
    let mut hash = Fnv::default();
    hash.write(diff_dir.as_os_str().as_bytes());
    format!("{:016x}.json", hash.finish())
}

fn list_error(action: &'static str) -> impl Fn(io::Error) -> SessionError {
    move |source| SessionError::io(action, &lasting::lasting_root().join(LIST), source)
}
