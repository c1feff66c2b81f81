//! Clones of other users. The kernel's mount table shows that they exist and whose they
//! are; everything else is in directories that only their users and root can read.
//!
//! What root reads there is only that user's claim. It is shown, and it is used to end
//! a process of that same user, but for nothing else.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::geteuid;
use rustix::io::Errno;

use super::owner::{Owner, signal_error};
use crate::catalog::lock::user_name;
use crate::session::SessionError;
use crate::session::place::mounts::{self, MountEntry};
use crate::session::place::state::State;
use crate::session::place::{STATE, is_held_in, name_for, run_root};
use crate::untrusted::{self, Dir};

/// A clone of another user.
#[derive(Debug)]
pub struct Other {
    /// The mount point.
    pub target: PathBuf,
    /// The uid of its user.
    pub uid: u32,
    /// The name of its user.
    pub user: String,
    session: Option<Session>,
}

/// What root finds of another user's session. All of it is only that user's claim.
#[derive(Debug)]
pub struct Session {
    /// The session's directory.
    pub dir: Dir,
    /// What its owner recorded.
    pub state: State,
}

/// Returns all clones of other users.
///
/// # Errors
/// If the mount table cannot be read.
pub fn all() -> Result<Vec<Other>, SessionError> {
    let mut found: Vec<Other> = mounts::ours()?.into_iter().filter_map(of_mount).collect();
    // Dead mounts may be stacked.
    found.dedup_by(|a, b| a.target == b.target);
    Ok(found)
}

/// Returns the clone of another user at a target, which must be canonical.
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

/// Finds the session of a user on a target, if its directory is in one of the usual places.
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
    /// Returns what this user may see of its session: the directory and the state in
    /// it, and whose they are.
    #[must_use]
    pub fn into_session(self) -> Option<(String, Session)> {
        Some((self.user, self.session?))
    }

    /// Returns whether this user may see more of it than that it exists.
    #[must_use]
    pub fn is_visible(&self) -> bool {
        self.session.is_some()
    }

    /// Asks its owner to end, on behalf of root. Whatever a dead owner has left, except
    /// for the mount, is for its user to clear away.
    ///
    /// # Errors
    /// Returns [`SessionError::OfAnotherUser`] if this user may not, and other errors
    /// if the owner cannot be signalled.
    pub fn end(self, patience: Duration) -> Result<End, SessionError> {
        let Some(session) = self.session else {
            return Err(SessionError::OfAnotherUser {
                is_known: !geteuid().is_root(),
                target: self.target,
                user: self.user,
            });
        };
        Ok(match session.is_held()? {
            true if session.end(self.uid, patience)? => End::Ended(Box::new(session.state)),
            true => End::Stays(session.state.pid),
            false => End::WasDead(self.user),
        })
    }
}

/// The result of asking the owner of another user's session to end.
#[derive(Debug)]
pub enum End {
    /// It has ended.
    Ended(Box<State>),
    /// It is still running, as this process.
    Stays(u32),
    /// It had died before; this is its user.
    WasDead(String),
}

impl Session {
    fn is_held(&self) -> Result<bool, SessionError> {
        is_held_in(&self.dir).map_err(|e| SessionError::io("check", self.dir.path(), e))
    }

    /// Asks its owner to end. Returns whether it did. A process of any other user
    /// cannot be the session's.
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
