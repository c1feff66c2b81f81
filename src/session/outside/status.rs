//! What is running.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;

use super::control::{self, Request};
use super::metrics::Counts;
use super::orphans::{self, ThrowAway};
use super::others::{self, Other, Session};
use crate::diff::Diff;
use crate::server::is_recovering;
use crate::session::SessionError;
use crate::session::hydrate::{Hydration, hydration};
use crate::session::place::state::{Phase, State};
use crate::session::place::{Place, canonical, is_held_in, run_root};

/// How long an owner may take to report its counters, and a server to show
/// whether it is in recovery.
const PATIENCE: Duration = Duration::from_secs(2);

/// What a session does, as far as others can see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Condition {
    /// It is being set up.
    Starting,
    /// The clone can be used.
    Ready,
    /// It was ready, and its PostgreSQL, when asked, is in recovery again.
    Recovering,
    /// It is being taken down.
    Stopping,
    /// It ended with an error.
    Failed,
    /// Its owner was killed, so that `down` has to finish its work.
    Dead,
    /// The host went down together with its owner, and only the throw-away diff is left.
    Orphaned,
}

impl Condition {
    fn of(is_held: bool, phase: Phase) -> Self {
        match (is_held, phase) {
            (_, Phase::Failed) => Self::Failed,
            (false, _) => Self::Dead,
            (true, Phase::Starting) => Self::Starting,
            (true, Phase::Ready) => Self::Ready,
            (true, Phase::Stopping) => Self::Stopping,
        }
    }

    /// Returns the word that users see.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Recovering => "recovering",
            Self::Stopping => "stopping",
            Self::Failed => "failed",
            Self::Dead => "dead",
            Self::Orphaned => "orphaned",
        }
    }

    /// Whether nothing of the session works any more.
    #[must_use]
    pub fn is_over(self) -> bool {
        matches!(self, Self::Failed | Self::Dead | Self::Orphaned)
    }
}

/// A session as `status` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Status {
    /// What it does. "recovering": it was ready, and its PostgreSQL, when asked, is in
    /// recovery again; "dead": its owner was killed, so that `down` has to finish its
    /// work; "orphaned": the host went down together with its owner, and only the
    /// throw-away diff is left.
    #[serde(rename = "state")]
    pub condition: Condition,
    /// What the owner recorded.
    #[serde(flatten)]
    pub state: State,
    /// The user it belongs to, if that is another one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The diff's size on disk in bytes; null if it is not known, as for another user's.
    pub diff_bytes: Option<u64>,
    /// The directory with the session's logs.
    pub run_dir: PathBuf,
    /// Its owner's counters; absent if no mount answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub counters: Option<Counts>,
    /// How far the hydration of the clone is; absent if `promote` never started one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hydration: Option<Hydration>,
}

impl Status {
    /// Returns what the state and the directory of a session tell.
    fn of(condition: Condition, state: State, run_dir: &Path) -> Self {
        Self {
            condition,
            state,
            user: None,
            diff_bytes: None,
            run_dir: run_dir.to_owned(),
            counters: None,
            hydration: None,
        }
    }

    /// Adds the size of the diff.
    fn measured(mut self) -> Self {
        self.diff_bytes = diff_bytes(&self.state);
        self
    }
}

/// Returns all sessions that this user may see, without counters: its own and, for
/// root, those of others.
///
/// # Errors
/// If the run directory or the mount table cannot be read. A single session that cannot
/// be read is logged and left out.
pub fn all() -> Result<Vec<Status>, SessionError> {
    let mut found = own()?;
    found.extend(others::all()?.into_iter().filter_map(of_other));
    Ok(found)
}

fn own() -> Result<Vec<Status>, SessionError> {
    let mut found = Vec::new();
    for place in Place::all()? {
        match read(&place) {
            Ok(status) => found.extend(status),
            Err(error) => tracing::warn!("{error}"),
        }
    }
    let orphans = orphans::all_if_usable(orphans::all());
    found.extend(orphans.into_iter().map(orphaned));
    Ok(found)
}

/// Returns what is shown of another user's session; `None` if this user may not see it.
fn of_other(other: Other) -> Option<Status> {
    let (user, Session { dir, state }) = other.into_session()?;
    let condition = Condition::of(is_held_in(&dir).unwrap_or(true), state.phase);
    Some(Status {
        user: Some(user),
        ..Status::of(condition, state, dir.path())
    })
}

/// Shows a throw-away diff that was left behind as the session it was part of.
fn orphaned(left: ThrowAway) -> Status {
    let mut state = State::begin(&left.target);
    state.pid = 0;
    state.since = left.since;
    state.diff_dir = Some(left.diff_dir);
    state.throw_away = true;
    let place = Place::of(&left.target);
    Status::of(Condition::Orphaned, state, place.dir()).measured()
}

/// Returns the sessions that were started with a profile, without counters. The clone
/// may no longer be where the profile says, and the profile may be lost. One-shot
/// jobs are not included.
///
/// # Errors
/// As [`all`].
pub fn of_profile(profile: &Path) -> Result<Vec<Status>, SessionError> {
    let mut sessions = all()?;
    let is_it = |path: &Path| {
        let real = |path: &Path| path.canonicalize().ok();
        std::path::absolute(profile).is_ok_and(|given| given == path)
            || real(profile).is_some_and(|given| real(path) == Some(given))
    };
    sessions.retain(|session| {
        let state = &session.state;
        state.profile.as_deref().is_some_and(is_it) && !run_root::is_of_job(&state.target)
    });
    Ok(sessions)
}

/// Returns the session on a target, without counters, if there is one
/// that this user may see.
///
/// # Errors
/// If its state cannot be read.
pub fn of_target(target: &Path) -> Result<Option<Status>, SessionError> {
    let target = canonical(target);
    if let Some(status) = read(&Place::of(&target))? {
        return Ok(Some(status));
    }
    if let Some(other) = others::at(&target)? {
        return Ok(of_other(other));
    }
    let mut orphans = orphans::all_if_usable(orphans::all()).into_iter();
    Ok(orphans.find(|left| left.target == target).map(orphaned))
}

/// Asks the owners of the sessions for their counters, all at once, and makes them
/// restart counting if `reset` is set. An owner that does not answer is logged. Their
/// servers are also asked whether they are in recovery.
pub fn count(sessions: &mut [Status], reset: bool) {
    let request = &match reset {
        true => Request::StatsReset,
        false => Request::Stats,
    };
    thread::scope(|scope| {
        for session in sessions {
            // What another user's state says is only that user's claim.
            if session.user.is_none()
                && matches!(session.condition, Condition::Ready | Condition::Stopping)
            {
                scope.spawn(move || {
                    session.counters = counted(session, request);
                    // An owner that hangs has been waited for once.
                    if session.counters.is_some() {
                        session.hydration = hydration(&session.state.target).ok().flatten();
                    }
                    if session.condition == Condition::Ready && recovers(&session.state) {
                        session.condition = Condition::Recovering;
                    }
                });
            }
        }
    });
}

/// Returns whether the server is in recovery again. If one of its processes dies, as on
/// a full disk, the whole server restarts and recovers while the postmaster lives on.
fn recovers(state: &State) -> bool {
    let conninfo = state.conninfo.as_deref();
    conninfo.is_some_and(|conninfo| is_recovering(conninfo, PATIENCE))
}

fn counted(session: &Status, request: &Request) -> Option<Counts> {
    let place = Place::of(&session.state.target);
    match control::ask(&place, request, PATIENCE) {
        Ok(counts) => Some(counts),
        // A session that is ending has already removed its socket.
        Err(_) if session.condition == Condition::Stopping => None,
        Err(error) => {
            tracing::warn!(
                "the session on {} (pid {}) does not report its counters: {error}",
                session.state.target.display(),
                session.state.pid
            );
            None
        }
    }
}

/// Returns the size of a session's diff on disk in bytes.
pub fn diff_bytes(state: &State) -> Option<u64> {
    let dir = state.diff_dir.as_deref()?;
    Diff::disk_bytes(dir).ok()
}

fn read(place: &Place) -> Result<Option<Status>, SessionError> {
    let Some(state) = place.state()? else {
        return Ok(None);
    };
    // A state with another target does not belong to this place, whoever wrote it.
    if Place::of(&state.target).dir() != place.dir() {
        return Ok(None);
    }
    let condition = Condition::of(place.is_held()?, state.phase);
    Ok(Some(Status::of(condition, state, place.dir()).measured()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::refuse_with;

    #[test]
    fn a_server_that_recovers_again_is_not_ready() {
        for (code, condition) in [
            ("57P03", Condition::Recovering),
            ("53300", Condition::Ready),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let mut state = State::begin(&dir.path().join("clone"));
            state.conninfo = Some(refuse_with(code, dir.path()));
            let mut sessions = [Status::of(Condition::Ready, state, dir.path())];
            count(&mut sessions, false);
            assert_eq!(sessions[0].condition, condition);
        }
    }
}
