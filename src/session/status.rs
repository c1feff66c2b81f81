//! What runs.

use std::path::Path;

use serde::Serialize;

use super::SessionError;
use super::place::{Place, canonical};
use super::state::{Phase, State};
use crate::diff::Diff;

/// A session as `status` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Status {
    /// "starting", "ready", "stopping", "failed", or "dead": the owner was
    /// killed, and `down` has to finish its work.
    #[serde(rename = "state")]
    pub word: &'static str,
    /// What the owner wrote down.
    #[serde(flatten)]
    pub state: State,
    /// Bytes that the diff takes on disk.
    pub diff_bytes: Option<u64>,
    /// The directory with the session's logs.
    pub run_dir: std::path::PathBuf,
}

/// All sessions of this user.
///
/// # Errors
/// The run directory cannot be read. A single session that cannot be read is
/// logged and left out.
pub fn all() -> Result<Vec<Status>, SessionError> {
    let mut found = Vec::new();
    for place in Place::all()? {
        match read(&place) {
            Ok(status) => found.extend(status),
            Err(error) => tracing::warn!("{error}"),
        }
    }
    Ok(found)
}

/// The session on a target, if there is one.
///
/// # Errors
/// Its state cannot be read.
pub fn of_target(target: &Path) -> Result<Option<Status>, SessionError> {
    read(&Place::of(&canonical(target)))
}

fn read(place: &Place) -> Result<Option<Status>, SessionError> {
    let Some(state) = State::read(place)? else {
        return Ok(None);
    };
    let word = match (place.is_held()?, state.phase) {
        (_, Phase::Failed) => "failed",
        (false, _) => "dead",
        (true, Phase::Starting) => "starting",
        (true, Phase::Ready) => "ready",
        (true, Phase::Stopping) => "stopping",
    };
    let diff_bytes = state
        .diff_dir
        .as_deref()
        .and_then(|dir| Diff::disk_bytes(dir).ok());
    Ok(Some(Status {
        word,
        state,
        diff_bytes,
        run_dir: place.dir().to_owned(),
    }))
}
