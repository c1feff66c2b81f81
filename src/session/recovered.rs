//! What a diff knows of its recovery: a file in the data directory, so that
//! it is kept, copied and thrown away with what it tells about.
//!
//! PostgreSQL itself leaves two traces. `backup_label` is there until its
//! first start, and `recovery.signal` from when we put it there until the end
//! of the recovery. Everything else is in the file.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::SessionError;
use super::recovery::Recovery;
use crate::pg::Lsn;
use crate::pg::wal::History;
use crate::pg::wal::segment::history_timeline;
use crate::profile::{MomentText, RecoveryTarget};
use crate::server::{OsUser, Replay, files};

const RECORD: &str = ".pbkfs-recovery.json";
const SIGNAL: &str = "recovery.signal";
const LABEL: &str = "backup_label";

/// How far a diff's recovery was when last seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    version: u32,
    /// The recovery's identity: target, timeline, inclusive or not.
    target: String,
    /// Whether it has ended, and the clone writes WAL of its own.
    promoted: bool,
    /// The end of what was replayed, once the target was reached.
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
    is_fresh: bool,
    has_signal: bool,
}

/// Why a recovery does not go with a diff.
enum Conflict {
    /// It was recovered to somewhere else.
    Elsewhere(String),
    /// It was started without a recovery.
    Started,
}

/// Prepares a mounted data directory for its server. Gives the recovery that
/// the server will be in: none, where the diff is past it already.
///
/// # Errors
/// [`SessionError::RecoveredElsewhere`] if what is wanted does not go with what
/// the diff holds; I/O errors.
pub fn begin<'a>(
    target: &Path,
    wanted: Option<&'a Recovery>,
    user: Option<&OsUser>,
) -> Result<Option<&'a Recovery>, SessionError> {
    let seen = Seen {
        record: read(target)?,
        is_fresh: exists(&target.join(LABEL))?,
        has_signal: exists(&target.join(SIGNAL))?,
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
            write(target, &record, user)?;
            put_signal(target, user)?;
            Ok(Some(recovery))
        }
        (Ok(_), _) => Ok(None),
    }
}

/// Remembers that the target was reached.
///
/// # Errors
/// I/O errors.
pub fn reached(
    target: &Path,
    recovery: &Recovery,
    replay: &Replay,
    user: Option<&OsUser>,
) -> Result<(), SessionError> {
    let record = Record {
        version: VERSION,
        target: recovery.identity(),
        promoted: !replay.in_recovery,
        lsn: replay.lsn.map(|lsn| lsn.to_string()),
        time: replay.time.clone(),
    };
    write(target, &record, user)
}

/// Checks that a recovery to the end of the archive got there. PostgreSQL takes
/// a broken record for the end of the WAL, whatever comes behind it.
///
/// # Errors
/// [`SessionError::EndedEarly`] if not; I/O errors.
pub fn check_end(target: &Path, recovery: &Recovery) -> Result<(), SessionError> {
    let Some(expected) = recovery.expected_end() else {
        return Ok(());
    };
    match new_timeline_start(&target.join("pg_wal"))? {
        Some(reached) if reached < expected => Err(SessionError::EndedEarly {
            reached,
            expected,
            segment: recovery.segment_at(reached),
        }),
        _ => Ok(()),
    }
}

/// Where the newest timeline begins, which is where recovery ended.
fn new_timeline_start(pg_wal: &Path) -> Result<Option<Lsn>, SessionError> {
    let list_error = |e| SessionError::io("list", pg_wal, e);
    let mut newest = None;
    for entry in fs::read_dir(pg_wal).map_err(list_error)? {
        let name = entry.map_err(list_error)?.file_name();
        newest = newest.max(name.to_str().and_then(history_timeline));
    }
    let Some(timeline) = newest else {
        return Ok(None);
    };
    let path = pg_wal.join(format!("{timeline:08X}.history"));
    let text = fs::read(&path).map_err(|e| SessionError::io("read", &path, e))?;
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
        // A server has run here, and not by our recovery.
        return match (explicit, seen.has_signal) {
            (None, false) => Ok(Decision::Plain),
            (None, true) => Ok(start),
            (Some(_), _) => Err(Conflict::Started),
        };
    };
    let is_same = |recovery: &Recovery| recovery.identity() == record.target;
    // PostgreSQL takes the signal away as the last step of recovery, and we may
    // have been killed before we could write that down.
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
    /// Whether a target is surely not before what was replayed.
    fn is_before(&self, target: &RecoveryTarget) -> bool {
        let lsn: Option<Lsn> = self.lsn.as_ref().and_then(|lsn| lsn.parse().ok());
        let time: Option<MomentText> = self.time.as_ref().and_then(|time| time.parse().ok());
        match target {
            RecoveryTarget::Latest => true,
            RecoveryTarget::Lsn(wanted) => lsn.is_some_and(|lsn| lsn <= *wanted),
            RecoveryTarget::Time(wanted) => time.is_some_and(|time| time.0 <= *wanted),
            // Where these are, only replaying tells.
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

fn read(target: &Path) -> Result<Option<Record>, SessionError> {
    let path = target.join(RECORD);
    match fs::read(&path) {
        Ok(text) => serde_json::from_slice(&text)
            .map(Some)
            .map_err(|source| SessionError::BadState { path, source }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(SessionError::io("read", &path, error)),
    }
}

/// Written whole or not at all, and on disk when this returns.
fn write(target: &Path, record: &Record, user: Option<&OsUser>) -> Result<(), SessionError> {
    let path = target.join(RECORD);
    let temporary = target.join(format!("{RECORD}.tmp"));
    let save = || {
        let mut file = File::create(&temporary)?;
        file.write_all(&serde_json::to_vec_pretty(record)?)?;
        file.sync_all()?;
        fs::rename(&temporary, &path)?;
        File::open(target)?.sync_all()
    };
    save().map_err(|e| SessionError::io("write", &path, e))?;
    Ok(files::hand_over(&path, user)?)
}

fn put_signal(target: &Path, user: Option<&OsUser>) -> Result<(), SessionError> {
    let path = target.join(SIGNAL);
    let put = || {
        File::create(&path)?.sync_all()?;
        File::open(target)?.sync_all()
    };
    put().map_err(|e| SessionError::io("write", &path, e))?;
    Ok(files::hand_over(&path, user)?)
}

fn exists(path: &Path) -> Result<bool, SessionError> {
    path.try_exists()
        .map_err(|e| SessionError::io("look at", path, e))
}
