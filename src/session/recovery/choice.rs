//! The backups from which a recovery target can be reached: those that ended before it.
//! `latest` is the newest of them.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;

use crate::catalog::wal::{Search, WalArchive};
use crate::catalog::{Backup, Instance};
use crate::pg::Lsn;
use crate::pg::wal::History;
use crate::pg::wal::told::{RestorePoint, Wanted};
use crate::profile::{MomentText, Plan, RecoveryTarget, TimelineChoice};
use crate::session::SessionError;

/// The maximum number of restore points named in a message.
const NAMED: usize = 10;

/// A function that tells whether a search may continue.
pub type GoOn<'a> = &'a (dyn Fn() -> bool + Sync);

/// Returns the backups from which the target can be reached. A backup's parents are
/// older than the backup itself, so chains stay complete.
///
/// # Errors
/// If there are backups but none ended before the target, if there is no such restore
/// point, or if the archive cannot be read.
pub fn before_target(
    plan: &Plan,
    instance: &Instance,
    backups: Vec<Backup>,
    go_on: GoOn<'_>,
) -> Result<Vec<Backup>, SessionError> {
    let Some(target) = plan.recovery.target() else {
        return Ok(backups);
    };
    let backups = on_timeline(plan, instance, backups)?;
    match &target {
        RecoveryTarget::Immediate | RecoveryTarget::Latest => Ok(backups),
        RecoveryTarget::Time(_) | RecoveryTarget::Lsn(_) => ended_before(backups, plan, &target),
        RecoveryTarget::Name(name) => {
            let wanted = Wanted::Name(name.clone());
            let found = before_record(plan, instance, backups, wanted, go_on)?;
            found.map_err(|known| SessionError::NoRestorePoint {
                instance: instance.name.clone(),
                name: name.clone(),
                known,
            })
        }
        RecoveryTarget::Xid(xid) => {
            // PostgreSQL compares only 32 bits.
            let wanted = Wanted::Xid(*xid as u32);
            let all = backups.clone();
            let found = before_record(plan, instance, backups, wanted, go_on)?;
            // The end of a prepared transaction is never found.
            Ok(found.unwrap_or(all))
        }
    }
}

/// Returns the timeline that a recovery of the backup follows.
///
/// # Errors
/// If the archive cannot be listed.
pub fn timeline_of(
    plan: &Plan,
    archive: &WalArchive,
    backup: &Backup,
) -> Result<u32, SessionError> {
    Ok(match plan.recovery.timeline {
        TimelineChoice::Current => backup.timeline,
        TimelineChoice::Latest => archive.newest_timeline(backup.timeline)?,
        TimelineChoice::Number(number) => number,
    })
}

/// The histories that recoveries of backups follow, each read once.
struct Histories<'a> {
    plan: &'a Plan,
    archive: &'a WalArchive,
    by_backups_timeline: BTreeMap<u32, History>,
}

impl<'a> Histories<'a> {
    fn new(plan: &'a Plan, archive: &'a WalArchive) -> Self {
        Self {
            plan,
            archive,
            by_backups_timeline: BTreeMap::new(),
        }
    }

    fn of(&mut self, backup: &Backup) -> Result<&History, SessionError> {
        Ok(match self.by_backups_timeline.entry(backup.timeline) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                let timeline = timeline_of(self.plan, self.archive, backup)?;
                new.insert(self.archive.history(timeline)?)
            }
        })
    }
}

/// Returns the backups on the wanted timeline, or all of them if there are none.
fn on_timeline(
    plan: &Plan,
    instance: &Instance,
    backups: Vec<Backup>,
) -> Result<Vec<Backup>, SessionError> {
    if plan.recovery.timeline == TimelineChoice::Current {
        return Ok(backups);
    }
    let archive = WalArchive::open(instance)?;
    let mut histories = Histories::new(plan, &archive);
    let (mut on, mut off) = (Vec::new(), Vec::new());
    for backup in backups {
        match is_on(histories.of(&backup)?, &backup) {
            true => on.push(backup),
            false => off.push(backup),
        }
    }
    Ok(match on.is_empty() {
        true => off,
        false => on,
    })
}

fn is_on(history: &History, backup: &Backup) -> bool {
    // The backup's last byte is just before its stop LSN.
    let last = Lsn(backup.stop_lsn.0.saturating_sub(1));
    history.timeline_at(last) == backup.timeline
}

fn ended_before(
    backups: Vec<Backup>,
    plan: &Plan,
    target: &RecoveryTarget,
) -> Result<Vec<Backup>, SessionError> {
    let end = |backup: &Backup| backup.end_time.or(backup.recovery_time);
    let fits = |backup: &Backup| match target {
        RecoveryTarget::Time(time) => end(backup).is_some_and(|end| end <= *time),
        RecoveryTarget::Lsn(lsn) => backup.stop_lsn <= *lsn,
        _ => true,
    };
    let (fitting, others): (Vec<_>, Vec<_>) = backups.into_iter().partition(fits);
    if !fitting.is_empty() || others.is_empty() {
        return Ok(fitting);
    }
    let oldest = others.iter().filter_map(end).min();
    Err(SessionError::NoBackupBefore {
        instance: plan.instance.clone(),
        target: target.to_string(),
        oldest: oldest.map_or("?".to_owned(), |end| MomentText(end).to_string()),
    })
}

/// Returns the backups that stopped before the newest record that is looked for or, if
/// there is no such record, a description of the existing restore points.
fn before_record(
    plan: &Plan,
    instance: &Instance,
    mut backups: Vec<Backup>,
    wanted: Wanted,
    go_on: GoOn<'_>,
) -> Result<Result<Vec<Backup>, String>, SessionError> {
    let restorable = backups
        .iter()
        .filter(|backup| backup.status.is_restorable());
    let mut candidates: Vec<&Backup> = restorable.collect();
    candidates.sort_by_key(|backup| Reverse(backup.start_time));
    // Another command may fetch from another archive. If there is no choice between
    // backups, replay finds the record with less work.
    if plan.recovery.restore_command.is_some() || candidates.len() < 2 {
        return Ok(Ok(backups));
    }
    let archive = WalArchive::open(instance)?;
    let what = match &wanted {
        Wanted::Name(name) => format!("the restore point \"{name}\""),
        Wanted::Xid(xid) => format!("the end of transaction {xid}"),
    };
    tracing::info!("searching the WAL archive for {what}, from its newest segment backwards");
    let mut search = Search::new(&archive, wanted, go_on)?;
    let mut histories = Histories::new(plan, &archive);
    for backup in candidates {
        let history = histories.of(backup)?;
        let found = search.newest(history, backup.stop_lsn);
        if !go_on() {
            return Err(SessionError::Interrupted);
        }
        if let Some(lsn) = found {
            backups.retain(|backup| backup.stop_lsn <= lsn && is_on(history, backup));
            return Ok(Ok(backups));
        }
    }
    Ok(Err(Points::of(search.seen()).to_string()))
}

/// The prefix of the name of the restore point that pg_probackup creates in
/// each of its backups.
const OF_A_BACKUP: &str = "pg_probackup, backup_id ";

/// Restore points that people created, in words.
struct Points<'a>(Vec<&'a RestorePoint>);

impl<'a> Points<'a> {
    fn of(points: impl Iterator<Item = &'a RestorePoint>) -> Self {
        let of_people = |point: &&RestorePoint| !point.name.starts_with(OF_A_BACKUP);
        Self(points.filter(of_people).collect())
    }
}

impl fmt::Display for Points<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unnamed = self.0.len().saturating_sub(NAMED);
        let newest = self.0.iter().skip(unnamed);
        let named = newest.map(|point| match point.time.to_offset() {
            Some(time) => format!("\"{}\" ({})", point.name, MomentText(time)),
            None => format!("\"{}\"", point.name),
        });
        let named: Vec<String> = named.collect();
        match unnamed {
            _ if named.is_empty() => f.write_str("there are no restore points"),
            0 => write!(f, "there are {}", named.join(", ")),
            more => write!(
                f,
                "the newest are {}, and there are {more} older ones",
                named.join(", ")
            ),
        }
    }
}

/// Describes the restore points along a history, from a backup's stop LSN on.
///
/// # Errors
/// If the archive cannot be listed.
pub fn known_points(
    archive: &WalArchive,
    history: &History,
    from: Lsn,
    name: &str,
    go_on: GoOn<'_>,
) -> Result<String, SessionError> {
    let mut search = Search::new(archive, Wanted::Name(name.to_owned()), go_on)?;
    search.newest(history, from);
    let on_way = search.seen().filter(|point| point.lsn >= from);
    Ok(Points::of(on_way).to_string())
}
