//! What a diff knows about its recovery: a note in its metadata. There it is kept,
//! copied and discarded together with what it describes. It is also out of reach of the
//! clone, whose superuser can write anything into the data directory.
//!
//! PostgreSQL itself leaves two traces in the data directory. `backup_label` is there
//! until the first start, and `recovery.signal` from when we create it until the end of
//! the recovery. Either can be forged, but then the clone only deceives itself; the
//! note takes precedence.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Recovery;
use crate::pg::Lsn;
use crate::pg::wal::History;
use crate::pg::wal::segment::history_timeline;
use crate::profile::{MomentText, RecoveryTarget};
use crate::server::Replay;
use crate::session::SessionError;
use crate::session::clone::StartingClone;
use crate::untrusted::{Dir, SMALL, found};

/// The note's name in the diff.
const NOTE: &str = "recovery";

/// The file in the data directory where the first versions kept the same information.
/// It is read for a diff that has no note yet.
const OLD_RECORD: &str = ".pbkfs-recovery.json";

/// A server that finds this file starts in recovery.
pub const SIGNAL: &str = "recovery.signal";

/// The files that tell PostgreSQL to recover first. A server that has finished has
/// removed them.
pub const SIGNALS: [&str; 2] = [SIGNAL, "standby.signal"];
const LABEL: &str = "backup_label";

/// What is noted about a clone that was started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "start", rename_all = "lowercase")]
enum Noted {
    /// It has run, without a recovery of ours before that.
    Plain,
    /// It recovered, or is about to.
    Recovery(Record),
}

/// How far a diff's recovery had got when last seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    version: u32,
    /// The recovery's identity: target, timeline, inclusive or not.
    target: String,
    /// Whether it has ended, and the clone writes WAL of its own.
    promoted: bool,
    /// The end of the WAL that was replayed, once the target was reached.
    lsn: Option<String>,
    /// When the last transaction in it had ended.
    time: Option<String>,
}

const VERSION: u32 = 1;

/// How a server is to be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Decision {
    /// As after any shutdown or crash.
    Plain,
    /// Recovering.
    Recover,
}

/// What is known about the mounted diff.
struct Seen {
    record: Option<Record>,
    /// No server has run on it yet.
    is_fresh: bool,
    has_signal: bool,
}

/// Why a recovery is incompatible with a diff.
enum Conflict {
    /// The diff was recovered to another point.
    Elsewhere(String),
    /// The diff was started without a recovery.
    Started,
}

/// Prepares a data directory for its server, before it is mounted. Returns the recovery
/// that the server will perform; `None` if the diff is already past it.
///
/// # Errors
/// Returns [`SessionError::RecoveredElsewhere`] if what is wanted is incompatible with
/// what the diff holds; I/O errors.
pub fn begin<'a>(
    clone: &StartingClone<'_>,
    wanted: Option<&'a Recovery>,
) -> Result<Option<&'a Recovery>, SessionError> {
    let noted = read(clone)?;
    let (has_run, record) = match noted {
        None => (false, None),
        Some(Noted::Plain) => (true, None),
        Some(Noted::Recovery(record)) => (record.promoted || record.lsn.is_some(), Some(record)),
    };
    let seen = Seen {
        record,
        is_fresh: !has_run && exists(clone, LABEL)?,
        has_signal: exists(clone, SIGNAL)?,
    };
    match (decide(&seen, wanted), wanted) {
        (Err(conflict), _) => Err(SessionError::RecoveredElsewhere {
            recovered: match conflict {
                Conflict::Elsewhere(recovered) => format!("recovered to {recovered}"),
                Conflict::Started => "started without replaying the archive".to_owned(),
            },
            wanted: wanted.map_or("no recovery".to_owned(), Recovery::identity),
        }),
        (Ok(Decision::Recover), Some(recovery)) => {
            let record = Record {
                version: VERSION,
                target: recovery.identity(),
                promoted: false,
                lsn: None,
                time: None,
            };
            write(clone, &Noted::Recovery(record))?;
            put_signal(clone)?;
            Ok(Some(recovery))
        }
        (Ok(_), _) => Ok(None),
    }
}

/// Records that the target was reached.
///
/// # Errors
/// I/O errors.
pub fn reached(
    clone: &StartingClone<'_>,
    recovery: &Recovery,
    replay: &Replay,
) -> Result<(), SessionError> {
    let record = Record {
        version: VERSION,
        target: recovery.identity(),
        promoted: !replay.in_recovery,
        lsn: replay.lsn.map(|lsn| lsn.to_string()),
        time: replay.time.clone(),
    };
    write(clone, &Noted::Recovery(record))
}

/// Records that a server has run that was started without a recovery of ours.
///
/// # Errors
/// I/O errors.
pub fn started(clone: &StartingClone<'_>) -> Result<(), SessionError> {
    match read(clone)? {
        Some(_) => Ok(()),
        None => write(clone, &Noted::Plain),
    }
}

/// Checks that a recovery to the end of the archive reached it. PostgreSQL takes a
/// broken record for the end of the WAL, whatever follows it.
///
/// # Errors
/// Returns [`SessionError::EndedEarly`] if it did not; I/O errors.
pub fn check_end(
    clone: &StartingClone<'_>,
    wal_dir: Option<&Dir>,
    recovery: &Recovery,
) -> Result<(), SessionError> {
    let Some(expected) = recovery.expected_end() else {
        return Ok(());
    };
    match new_timeline_start(clone, wal_dir)? {
        Some(reached) if reached < expected => Err(SessionError::EndedEarly {
            reached,
            expected,
            segment: recovery.segment_at(reached),
        }),
        _ => Ok(()),
    }
}

/// Returns where the newest timeline begins, which is where recovery ended.
fn new_timeline_start(
    clone: &StartingClone<'_>,
    wal_dir: Option<&Dir>,
) -> Result<Option<Lsn>, SessionError> {
    let names = clone.wal_names(wal_dir)?;
    let timelines = names
        .iter()
        .filter_map(|name| history_timeline(name.to_str()?));
    let Some(timeline) = timelines.max() else {
        return Ok(None);
    };
    let text = clone.wal_file(wal_dir, &format!("{timeline:08X}.history"))?;
    let history = History::parse(timeline, &String::from_utf8_lossy(&text));
    let parent = history.ok().and_then(|history| history.parent());
    Ok(parent.map(|parent| parent.end))
}

fn decide(seen: &Seen, wanted: Option<&Recovery>) -> Result<Decision, Conflict> {
    let start = match wanted {
        Some(_) => Decision::Recover,
        None => Decision::Plain,
    };
    if seen.is_fresh {
        return Ok(start);
    }
    let explicit = wanted.filter(|recovery| recovery.is_explicit);
    let Some(record) = &seen.record else {
        // A server has run here, but not in a recovery of ours.
        return match (explicit, seen.has_signal) {
            (None, false) => Ok(Decision::Plain),
            (None, true) => Ok(start),
            (Some(_), _) => Err(Conflict::Started),
        };
    };
    let is_same = |recovery: &Recovery| recovery.identity() == record.target;
    // PostgreSQL removes the signal file as the last step of recovery, and we may have
    // been killed before we could record that.
    if record.promoted || !seen.has_signal {
        return match explicit {
            Some(other) if !is_same(other) => Err(Conflict::Elsewhere(record.describe())),
            _ => Ok(Decision::Plain),
        };
    }
    match wanted {
        Some(recovery) if is_same(recovery) || record.is_before(&recovery.target) => Ok(start),
        _ => Err(Conflict::Elsewhere(record.describe())),
    }
}

impl Record {
    /// Returns whether a target is known not to be before what was replayed.
    fn is_before(&self, target: &RecoveryTarget) -> bool {
        let lsn: Option<Lsn> = self.lsn.as_ref().and_then(|lsn| lsn.parse().ok());
        let time: Option<MomentText> = self.time.as_ref().and_then(|time| time.parse().ok());
        match target {
            RecoveryTarget::Latest => true,
            RecoveryTarget::Lsn(wanted) => lsn.is_some_and(|lsn| lsn <= *wanted),
            RecoveryTarget::Time(wanted) => time.is_some_and(|time| time.0 <= *wanted),
            // Only replay shows where these are.
            RecoveryTarget::Immediate | RecoveryTarget::Xid(_) | RecoveryTarget::Name(_) => false,
        }
    }

    fn describe(&self) -> String {
        let mut text = self.target.clone();
        if let Some(lsn) = &self.lsn {
            text.push_str(&format!(" (reached at {lsn})"));
        }
        text
    }
}

fn read(clone: &StartingClone<'_>) -> Result<Option<Noted>, SessionError> {
    let Some(diff) = clone.memory else {
        return Ok(None);
    };
    let bad = |path, source| SessionError::BadState { path, source };
    if let Some(note) = diff.note(NOTE)? {
        let noted = serde_json::from_slice(&note);
        return noted.map(Some).map_err(|e| bad(diff.root().to_owned(), e));
    }
    let path = clone.path(OLD_RECORD);
    let text = found(clone.files.read(Path::new(OLD_RECORD), SMALL));
    let text = text.map_err(|e| SessionError::io("read", &path, e))?;
    let record = text.map(|text| serde_json::from_slice(&text)).transpose();
    Ok(record.map_err(|e| bad(path, e))?.map(Noted::Recovery))
}

fn write(clone: &StartingClone<'_>, noted: &Noted) -> Result<(), SessionError> {
    let Some(diff) = clone.memory else {
        return Ok(());
    };
    let text = serde_json::to_vec(noted).map_err(|source| SessionError::BadState {
        path: diff.root().to_owned(),
        source,
    })?;
    Ok(diff.set_note(NOTE, Some(&text))?)
}

fn put_signal(clone: &StartingClone<'_>) -> Result<(), SessionError> {
    let put = clone.files.put_empty(SIGNAL);
    put.map_err(|e| SessionError::io("write", &clone.path(SIGNAL), e))
}

fn exists(clone: &StartingClone<'_>, name: &str) -> Result<bool, SessionError> {
    let found = clone.files.find(Path::new(name));
    let found = found.map_err(|e| SessionError::io("check", &clone.path(name), e))?;
    Ok(found.is_some())
}
