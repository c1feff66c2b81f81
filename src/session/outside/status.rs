//! What is running.

use std::path::Path;
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

/// A session as `status` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Status {
    /// "starting", "ready", "stopping" or "failed"; "recovering" if the session was
    /// ready and its PostgreSQL, when asked, is in recovery again; "dead" if the owner
    /// was killed, so that `down` has to finish its work; "orphaned" if the host went
    /// down together with the owner, and only the throw-away diff is left.
    #[serde(rename = "state")]
    pub word: &'static str,
    /// What the owner recorded.
    #[serde(flatten)]
    pub state: State,
    /// The user it belongs to, if that is another one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The diff's size on disk in bytes; null if it is not known, as for another user's.
    pub diff_bytes: Option<u64>,
    /// The directory with the session's logs.
    pub run_dir: std::path::PathBuf,
    /// Its owner's counters; absent if no mount answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub counters: Option<Counts>,
    /// How far the hydration of the clone is; absent if `promote` never started one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hydration: Option<Hydration>,
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
    Some(Status {
        word: word(is_held_in(&dir).unwrap_or(true), state.phase),
        user: Some(user),
        run_dir: dir.path().to_owned(),
        diff_bytes: None,
        counters: None,
        hydration: None,
        state,
    })
}

/// Shows a throw-away diff that was left behind as the session it was part of.
fn orphaned(left: ThrowAway) -> Status {
    let mut state = State::begin(&left.target);
    state.pid = 0;
    state.since = left.since;
    state.diff_dir = Some(left.diff_dir);
    state.throw_away = true;
    Status {
        word: "orphaned",
        user: None,
        diff_bytes: diff_bytes(&state),
        run_dir: Place::of(&left.target).dir().to_owned(),
        state,
        counters: None,
        hydration: None,
    }
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
            if session.user.is_none() && matches!(session.word, "ready" | "stopping") {
                scope.spawn(move || {
                    session.counters = counted(session, request);
                    // An owner that hangs has been waited for once.
                    if session.counters.is_some() {
                        session.hydration = hydration(&session.state.target).ok().flatten();
                    }
                    if session.word == "ready" && recovers(&session.state) {
                        session.word = "recovering";
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
        Err(_) if session.word == "stopping" => None,
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
    Ok(Some(Status {
        word: word(place.is_held()?, state.phase),
        user: None,
        diff_bytes: diff_bytes(&state),
        state,
        run_dir: place.dir().to_owned(),
        counters: None,
        hydration: None,
    }))
}

/// Returns the word for a session, given whether its owner is alive.
fn word(is_held: bool, phase: Phase) -> &'static str {
    match (is_held, phase) {
        (_, Phase::Failed) => "failed",
        (false, _) => "dead",
        (true, Phase::Starting) => "starting",
        (true, Phase::Ready) => "ready",
        (true, Phase::Stopping) => "stopping",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::refuse_with;

    #[test]
    fn a_server_that_recovers_again_is_not_ready() {
        for (code, word) in [("57P03", "recovering"), ("53300", "ready")] {
            let dir = tempfile::tempdir().unwrap();
            let mut state = State::begin(&dir.path().join("clone"));
            state.conninfo = Some(refuse_with(code, dir.path()));
            let mut sessions = [Status {
                word: "ready",
                user: None,
                state,
                diff_bytes: None,
                run_dir: dir.path().to_owned(),
                counters: None,
                hydration: None,
            }];
            count(&mut sessions, false);
            assert_eq!(sessions[0].word, word);
        }
    }
}
