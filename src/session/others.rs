//! Clones of other users. The kernel's table of mounts says that they are there, and
//! whose they are; what else there is to know is in directories that only their
//! users, and root, can read.
//!
//! What root reads there is that user's word. It is shown, and it is used to end a
//! process of that same user; nothing else is done by it.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::geteuid;
use rustix::io::Errno;

use super::down::{Down, did_not_end};
use super::mounts::{self, MountEntry};
use super::owner::{Owner, signal_error};
use super::place::{Place, STATE, is_held_in, name_for};
use super::state::State;
use super::status::{Status, word};
use super::{SessionError, run_root, target};
use crate::catalog::lock::user_name;
use crate::untrusted::{self, Dir};

/// A clone of another user.
#[derive(Debug)]
pub struct Other {
    /// The mount point.
    pub target: PathBuf,
    /// Whose it is, by number.
    pub uid: u32,
    /// Whose it is, by name.
    pub user: String,
    session: Option<Session>,
}

/// What root finds of its session.
#[derive(Debug)]
struct Session {
    dir: Dir,
    state: State,
}

/// All clones of other users.
///
/// # Errors
/// The table of mounts cannot be read.
pub fn all() -> Result<Vec<Other>, SessionError> {
    let mut found: Vec<Other> = mounts::ours()?.into_iter().filter_map(of_mount).collect();
    // Dead mounts may lie on each other.
    found.dedup_by(|a, b| a.target == b.target);
    Ok(found)
}

/// The clone of another user at a target, which is canonical.
///
/// # Errors
/// As [`all`].
pub fn at(target: &Path) -> Result<Option<Other>, SessionError> {
    let mount = mounts::at(target)?.filter(MountEntry::is_ours);
    Ok(mount.and_then(of_mount))
}

fn of_mount(mount: MountEntry) -> Option<Other> {
    let me = geteuid();
    let uid = mount.user.filter(|uid| *uid != me.as_raw())?;
    let session = me.is_root().then(|| find(&mount.target, uid)).flatten();
    Some(Other {
        target: mount.target,
        uid,
        user: user_name(uid),
        session,
    })
}

/// The session of a user on a target, if it is where those of users commonly are.
fn find(target: &Path, uid: u32) -> Option<Session> {
    let read = |root: PathBuf| {
        let (parent, name) = Dir::of_file(&root)?;
        let root = parent.dir(name)?;
        if root.stat_self()?.uid != uid {
            return Ok(None);
        }
        let dir = root.dir(name_for(target))?;
        let state: State = serde_json::from_slice(&dir.read(STATE, untrusted::SMALL)?)?;
        Ok::<_, io::Error>((state.target == target).then_some(Session { dir, state }))
    };
    run_root::of_user(uid).into_iter().find_map(|root| {
        let found = read(root);
        found.unwrap_or_else(|error| {
            tracing::debug!("no session of user {uid} on {}: {error}", target.display());
            None
        })
    })
}

impl Other {
    /// What `status` shows of it; `None` if this user may not see it.
    #[must_use]
    pub fn into_status(self) -> Option<Status> {
        let Session { dir, state } = self.session?;
        Some(Status {
            word: word(is_held_in(&dir).unwrap_or(true), state.phase),
            user: Some(self.user),
            run_dir: dir.path().to_owned(),
            diff_bytes: None,
            counters: None,
            state,
        })
    }

    /// Whether this user may see more of it than that it is there.
    #[must_use]
    pub fn is_visible(&self) -> bool {
        self.session.is_some()
    }

    /// Ends it, for root.
    ///
    /// # Errors
    /// [`SessionError::OfAnotherUser`] if this user may not; as [`super::down()`].
    pub(super) fn down(self, patience: Duration) -> Result<Down, SessionError> {
        let Some(session) = &self.session else {
            return Err(SessionError::OfAnotherUser {
                is_known: !geteuid().is_root(),
                target: self.target,
                user: self.user,
            });
        };
        if session.is_held()? {
            return match session.end(self.uid, patience)? {
                true => Ok(Down::Ended(session.state.clone())),
                false => {
                    let pid = Some(session.state.pid);
                    let place = Place::of(&self.target);
                    Err(did_not_end(&place, &self.target, pid, patience * 2))
                }
            };
        }
        target::clear(&self.target)?;
        tracing::warn!(
            "the pbkfs of user {} on {} had died; what else it has left is cleared away when that \
             user runs pbkfs down --target {}",
            self.user,
            self.target.display(),
            self.target.display()
        );
        Ok(Down::Unmounted)
    }
}

impl Session {
    fn is_held(&self) -> Result<bool, SessionError> {
        is_held_in(&self.dir).map_err(|e| SessionError::io("look at", self.dir.path(), e))
    }

    /// Asks its owner to end. Tells whether it did. A process that is not that user's
    /// is none that the session could have.
    fn end(&self, uid: u32, patience: Duration) -> Result<bool, SessionError> {
        let dir = self.dir.path();
        let Some(owner) = Owner::open(dir, self.state.pid, || self.is_held())? else {
            return Ok(!self.is_held()?);
        };
        let process = Dir::open(Path::new(&format!("/proc/{}", self.state.pid)));
        let found = process.and_then(|dir| dir.stat_self());
        match found.is_ok_and(|stat| stat.uid == uid) {
            true => owner.end(patience),
            false => Err(signal_error(dir, Errno::PERM)),
        }
    }
}
