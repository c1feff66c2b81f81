//! What replaying the catalog's WAL archive takes: where it is to end, whether
//! the archive gets there, and PostgreSQL's settings for it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::unistd::geteuid;
use time::OffsetDateTime;

use super::SessionError;
use super::place::Place;
use super::resolve::Resolved;
use super::restore_command::{program, quote, text};
use crate::catalog::Backup;
use crate::catalog::wal::{Reach, WalArchive, WalEnd, WalFault};
use crate::pg::Lsn;
use crate::pg::control::ControlFile;
use crate::pg::wal::SegmentId;
use crate::profile::{Action, MomentText, Plan, RecoveryTarget, TimelineChoice};
use crate::server::{Goal, LogTail, OsUser, ServerError, become_child};

/// What our restore_command's complaints begin with, in the server's log.
const COMPLAINT: &str = "pbkfs wal-get: ";

/// A recovery that was asked for, or that the backup cannot do without.
#[derive(Debug)]
pub struct Recovery {
    /// Where it ends.
    pub target: RecoveryTarget,
    /// Whether the profile asked for that target.
    pub is_explicit: bool,
    inclusive: bool,
    timeline: TimelineChoice,
    action: Action,
    command: Option<String>,
    prefetch: u64,
    catalog: PathBuf,
    archive: WalArchive,
    backup: Backup,
    reach: Reach,
}

impl Recovery {
    /// The recovery that a plan means for its backup; `None` for a STREAM
    /// backup of which nothing more is wanted than itself.
    ///
    /// # Errors
    /// The archive cannot be read, or does not get to the target, as far as
    /// that can be seen from outside.
    pub fn plan(plan: &Plan, resolved: &Resolved) -> Result<Option<Self>, SessionError> {
        let backup = resolved.chain.target();
        let wanted = plan.recovery.target.clone();
        if wanted.is_none() && backup.stream {
            return Ok(None);
        }
        let archive = WalArchive::open(&resolved.instance)?;
        let timeline = match plan.recovery.timeline {
            TimelineChoice::Current => backup.timeline,
            TimelineChoice::Latest => archive.newest_timeline(backup.timeline)?,
            TimelineChoice::Number(number) => number,
        };
        let recovery = Self {
            is_explicit: wanted.is_some(),
            target: wanted.unwrap_or(RecoveryTarget::Immediate),
            inclusive: plan.recovery.inclusive,
            timeline: plan.recovery.timeline,
            action: plan.recovery.action,
            command: plan.recovery.restore_command.clone(),
            prefetch: plan.recovery.prefetch,
            catalog: plan.catalog.clone(),
            reach: reach_from(&archive, backup, timeline)?,
            archive,
            backup: backup.clone(),
        };
        // Another command may fetch from another archive.
        if recovery.command.is_none() {
            recovery.check_reach()?;
        }
        Ok(Some(recovery))
    }

    /// Refuses what is known not to work before anything is started.
    fn check_reach(&self) -> Result<(), SessionError> {
        let size = self.archive.segment_size();
        let stop = SegmentId::containing(self.backup.stop_lsn, self.backup.timeline, size);
        let last = self.reach.segments.map(|(_, last)| last.number);
        let is_enough = self.backup.stream || last.is_some_and(|last| last >= stop.number);
        let wants_more = self.target != RecoveryTarget::Immediate;
        let is_cut = wants_more && last.is_none() || self.target == RecoveryTarget::Latest;
        match self.reach.missing {
            Some(missing) if !is_enough || is_cut => return Err(self.lacks(missing)),
            None if !is_enough => {
                let after_last = self.reach.segments.map(|(_, last)| last.next());
                let start = SegmentId::containing(self.backup.start_lsn, stop.timeline, size);
                return Err(self.lacks(after_last.unwrap_or(start)));
            }
            _ => {}
        }
        let consistent = self.backup.recovery_time.or(self.backup.end_time);
        match &self.target {
            RecoveryTarget::Time(time) if consistent.is_some_and(|c| *time < c) => {
                Err(self.out_of_reach("before"))
            }
            RecoveryTarget::Lsn(lsn) if *lsn < self.backup.stop_lsn => {
                Err(self.out_of_reach("before"))
            }
            RecoveryTarget::Time(time) => {
                // PostgreSQL stops at the first transaction behind that time,
                // so one has to be there.
                let end = self.archive.end_of(&self.reach)?;
                match end.time.and_then(|last| last.to_offset()) {
                    Some(last) if *time < last || !self.inclusive && *time == last => Ok(()),
                    _ => Err(self.out_of_reach("after")),
                }
            }
            RecoveryTarget::Lsn(lsn) => match self.archive.end_of(&self.reach)?.lsn {
                Some(end) if *lsn < end => Ok(()),
                _ => Err(self.out_of_reach("after")),
            },
            _ => Ok(()),
        }
    }

    fn lacks(&self, segment: SegmentId) -> SessionError {
        SessionError::WalMissing {
            backup: self.backup.id.to_string(),
            target: self.target.to_string(),
            segment: self.archive.name(segment),
            holds: self.holds().to_string(),
        }
    }

    fn out_of_reach(&self, side: &'static str) -> SessionError {
        SessionError::OutOfReach {
            target: self.target.to_string(),
            side,
            holds: self.holds().to_string(),
        }
    }

    /// What can be reached, for people. Reads the archive's last segments; if
    /// that fails, leaves out what they would have told.
    #[must_use]
    pub fn holds(&self) -> Holds {
        Holds {
            backup: self.backup.id.to_string(),
            first_lsn: self.backup.stop_lsn,
            first_time: self.backup.recovery_time.or(self.backup.end_time),
            timeline: self.reach.history.timeline,
            end: self.archive.end_of(&self.reach).unwrap_or_default(),
            missing: self.reach.missing.map(|id| self.archive.name(id)),
        }
    }

    /// Where `latest` has to get to: the end of the archive, if it is known.
    #[must_use]
    pub fn expected_end(&self) -> Option<Lsn> {
        let is_ours = self.target == RecoveryTarget::Latest && self.command.is_none();
        is_ours
            .then(|| self.archive.end_of(&self.reach).unwrap_or_default().lsn)
            .flatten()
    }

    /// The name of the segment that holds `lsn`.
    #[must_use]
    pub fn segment_at(&self, lsn: Lsn) -> String {
        let timeline = self.reach.history.timeline_at(lsn);
        let id = SegmentId::containing(lsn, timeline, self.archive.segment_size());
        self.archive.name(id)
    }

    /// The target with all that decides about it, by which two recoveries are
    /// known to be the same.
    #[must_use]
    pub fn identity(&self) -> String {
        let inclusive = if self.inclusive { "" } else { ", exclusive" };
        format!("{}, timeline {}{inclusive}", self.target, self.timeline)
    }

    /// What is awaited of the server.
    #[must_use]
    pub fn goal(&self) -> Goal {
        match self.action {
            Action::Promote => Goal::Promoted,
            Action::Pause => Goal::Paused,
            Action::Shutdown => Goal::ShutDown,
        }
    }

    /// PostgreSQL's settings besides `restore_command`.
    #[must_use]
    pub fn settings(&self) -> Vec<(String, String)> {
        let (name, value) = match &self.target {
            RecoveryTarget::Immediate => ("recovery_target", "immediate".to_owned()),
            // To recover without a target is to recover everything.
            RecoveryTarget::Latest => ("recovery_target", String::new()),
            RecoveryTarget::Time(time) => ("recovery_target_time", MomentText(*time).to_string()),
            RecoveryTarget::Lsn(lsn) => ("recovery_target_lsn", lsn.to_string()),
            RecoveryTarget::Xid(xid) => ("recovery_target_xid", xid.to_string()),
            RecoveryTarget::Name(name) => ("recovery_target_name", name.clone()),
        };
        let inclusive = if self.inclusive { "on" } else { "off" };
        let timeline = self.timeline.to_string();
        [
            (name, value.as_str()),
            ("recovery_target_inclusive", inclusive),
            ("recovery_target_timeline", &timeline),
            ("recovery_target_action", self.action.as_str()),
            // Else nobody could ask how far it is, nor look at a paused one.
            ("hot_standby", "on"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec()
    }

    /// The command that fetches WAL: the profile's, or our own.
    ///
    /// # Errors
    /// This program's path or the catalog's is not known, or not UTF-8.
    pub fn command(&self, place: &Place) -> Result<String, SessionError> {
        if let Some(command) = &self.command {
            return Ok(command.clone());
        }
        let program = program()?;
        let (socket, prefetch_dir) = (place.wal_socket(), place.prefetch_dir());
        let bytes = self.prefetch.to_string();
        let catalog = text(&self.catalog)?;
        let mut words = vec![text(&program)?, "wal-get", "-B", catalog];
        let instance = self.instance()?;
        words.extend(["--instance", &instance]);
        // An ordinary user's server is that user, who reads the archive itself.
        if geteuid().is_root() {
            words.extend(["--session", text(&socket)?]);
        }
        if self.prefetch >= self.archive.segment_size().bytes() {
            words.extend(["--prefetch-dir", text(&prefetch_dir)?]);
            words.extend(["--prefetch-bytes", &bytes]);
        }
        let quoted: Vec<String> = words.into_iter().map(quote).collect();
        Ok(format!("{} %f %p", quoted.join(" ")))
    }

    /// The profile's own command.
    #[must_use]
    pub fn foreign_command(&self) -> Option<&str> {
        self.command.as_deref()
    }

    fn instance(&self) -> Result<String, SessionError> {
        let name = self.archive.dir().file_name().unwrap_or_default();
        Ok(text(Path::new(name))?.to_owned())
    }

    /// The archive, where our own command fetches from it.
    #[must_use]
    pub fn served_archive(&self) -> Option<&WalArchive> {
        self.command.is_none().then_some(&self.archive)
    }

    /// Sees whether the server's user can run this program. Without a `user`,
    /// that is who we are.
    ///
    /// # Errors
    /// [`SessionError::WalCommand`].
    pub fn check_command(&self, user: Option<&OsUser>) -> Result<(), SessionError> {
        let (Some(user), None) = (user, &self.command) else {
            return Ok(());
        };
        let program = program()?;
        let mut command = Command::new(&program);
        command
            .arg("--version")
            .current_dir("/")
            .stdin(Stdio::null());
        become_child(&mut command, Some(user.clone()));
        let reason = match command.output() {
            Ok(output) if output.status.success() => return Ok(()),
            Ok(output) => output.status.to_string(),
            Err(error) => error.to_string(),
        };
        Err(SessionError::WalCommand {
            user: user.name.clone(),
            program,
            reason,
        })
    }

    /// What a server that failed in recovery died of, where that can be told
    /// better than that it died.
    #[must_use]
    pub fn explain(&self, error: ServerError) -> SessionError {
        let ServerError::Died { status, log } = error else {
            return error.into();
        };
        let says = |what: &str| log.lines.iter().any(|line| line.contains(what));
        if let Some((fault, reason)) = complaint(&log) {
            return SessionError::RecoveryStopped { fault, reason, log };
        }
        if says("recovery ended before configured recovery target was reached") {
            return SessionError::OutOfReach {
                target: self.target.to_string(),
                side: "not in the WAL that was replayed",
                holds: self.holds().to_string(),
            };
        }
        if says("requested recovery stop point is before consistent recovery point") {
            return self.out_of_reach("before");
        }
        ServerError::Died { status, log }.into()
    }
}

/// What our restore_command said when it failed last: the fault, and its sentence.
fn complaint(log: &LogTail) -> Option<(WalFault, String)> {
    log.lines.iter().rev().find_map(|line| {
        let (fault, said) = line.split_once(COMPLAINT)?.1.split_once(": ")?;
        Some((fault.parse().ok()?, said.to_owned()))
    })
}

/// How far the archive gets from a backup on. A STREAM backup brings its WAL
/// with it, so the archive needs to begin only where that ends.
fn reach_from(archive: &WalArchive, backup: &Backup, timeline: u32) -> Result<Reach, SessionError> {
    if !backup.stream {
        return Ok(archive.reach(backup.start_lsn, timeline)?);
    }
    let with_last = archive.reach(backup.stop_lsn, timeline)?;
    if with_last.segments.is_some() {
        return Ok(with_last);
    }
    let size = archive.segment_size();
    let last = SegmentId::containing(backup.stop_lsn, timeline, size);
    Ok(archive.reach(last.end(size), timeline)?)
}

/// What recovery can reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holds {
    backup: String,
    first_lsn: Lsn,
    first_time: Option<OffsetDateTime>,
    timeline: u32,
    end: WalEnd,
    missing: Option<String>,
}

impl fmt::Display for Holds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = |time: Option<OffsetDateTime>| {
            time.map_or("an unknown time".to_owned(), |t| MomentText(t).to_string())
        };
        let last_lsn = self.end.lsn.unwrap_or(self.first_lsn).max(self.first_lsn);
        let last_time = self.end.time.and_then(|t| t.to_offset());
        write!(
            f,
            "from backup {} on, timeline {} can be recovered from {} ({}) to {last_lsn}",
            self.backup,
            self.timeline,
            self.first_lsn,
            time(self.first_time),
        )?;
        if let Some(last) = last_time {
            write!(f, " (the last transaction ended at {})", MomentText(last))?;
        }
        if let Some(missing) = &self.missing {
            write!(f, "; the archive goes on behind that, but lacks {missing}")?;
        }
        Ok(())
    }
}

/// The settings that recovery needs to be at least the primary's, with their
/// values there. Without them PostgreSQL would pause or refuse.
#[must_use]
pub fn limits(control: &ControlFile) -> [(&'static str, i32); 5] {
    [
        ("max_connections", control.max_connections),
        ("max_worker_processes", control.max_worker_processes),
        ("max_wal_senders", control.max_wal_senders),
        ("max_prepared_transactions", control.max_prepared_xacts),
        ("max_locks_per_transaction", control.max_locks_per_xact),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_complaint_in_the_log_is_the_reason() {
        let log = |lines: &[&str]| LogTail {
            path: PathBuf::new(),
            lines: lines.iter().map(|line| (*line).to_owned()).collect(),
        };
        let lines = [
            "LOG:  restored",
            "pbkfs wal-get: missing: A: gone",
            "pbkfs wal-get: damaged: B: bad: worse",
            "FATAL:  could not restore",
        ];
        let expected = (WalFault::Damaged, "B: bad: worse".to_owned());
        assert_eq!(complaint(&log(&lines)), Some(expected));
        // Words alone are no fault.
        let lines = ["FATAL:  other", "pbkfs wal-get: B: the WAL is damaged"];
        assert_eq!(complaint(&log(&lines)), None);
    }
}
