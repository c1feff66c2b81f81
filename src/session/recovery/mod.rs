//! What replaying the catalog's WAL archive requires: where it should end, whether the
//! archive reaches that point, and PostgreSQL's settings for it.

pub mod choice;
mod explain;
mod holds;
pub mod limits;
pub mod meter;
pub mod recovered;
pub mod restore_command;
pub mod tablespace;
pub mod wal_service;

use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use self::choice::timeline_of;
use self::restore_command::{ours, program, text};
use crate::catalog::Backup;
use crate::catalog::Location;
use crate::catalog::wal::{Reach, WalArchive};
use crate::pg::Lsn;
use crate::pg::wal::SegmentId;
use crate::profile::{Action, MomentText, Plan, RecoveryTarget, TimelineChoice};
use crate::program::run;
use crate::server::{Goal, OsUser, become_child};
use crate::session::place::Place;
use crate::session::source;
use crate::session::steps::resolve::Resolved;
use crate::session::{SessionError, Side};
use holds::Holds;

/// Time limit for this program to print its version when the server's user runs it.
const TRIAL: Duration = Duration::from_secs(10);

/// A recovery that was asked for, or that the backup requires.
#[derive(Debug)]
pub struct Recovery {
    /// Its target.
    pub target: RecoveryTarget,
    /// Whether the profile asked for that target.
    pub is_explicit: bool,
    inclusive: bool,
    timeline: TimelineChoice,
    action: Action,
    command: Option<String>,
    prefetch: u64,
    catalog: Location,
    archive: WalArchive,
    backup: Backup,
    reach: Reach,
    /// The record to stop after, if there is no later transaction from which PostgreSQL
    /// would learn that the target time has passed.
    last_ended: Option<Lsn>,
}

impl Recovery {
    /// Returns the recovery that a plan calls for; `None` for a STREAM backup if
    /// nothing beyond the backup itself is wanted.
    ///
    /// # Errors
    /// If the archive cannot be read, or does not reach the target, as far as that can
    /// be seen from outside.
    pub fn plan(plan: &Plan, resolved: &Resolved) -> Result<Option<Self>, SessionError> {
        let backup = resolved.chain.target();
        let wanted = plan.recovery.target();
        if wanted.is_none() && backup.stream {
            return Ok(None);
        }
        let archive = WalArchive::open(&resolved.instance)?;
        let timeline = timeline_of(plan, &archive, backup)?;
        let mut recovery = Self {
            is_explicit: wanted.is_some(),
            target: wanted.unwrap_or(RecoveryTarget::Immediate),
            inclusive: plan.recovery.inclusive,
            timeline: plan.recovery.timeline,
            action: plan.recovery.action,
            command: plan.recovery.restore_command.clone(),
            prefetch: plan.recovery.prefetch.0,
            catalog: plan.catalog.clone(),
            reach: reach_from(&archive, backup, timeline)?,
            archive,
            backup: backup.clone(),
            last_ended: None,
        };
        // Another command may fetch from another archive.
        if recovery.command.is_none() {
            recovery.check_segments()?;
            recovery.last_ended = recovery.check_target()?;
        }
        Ok(Some(recovery))
    }

    /// Refuses an archive that is known to lack what is needed.
    fn check_segments(&self) -> Result<(), SessionError> {
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
        Ok(())
    }

    /// Refuses a target that is known to be out of reach. Returns the record to stop
    /// after, if that is the archive's last transaction.
    fn check_target(&self) -> Result<Option<Lsn>, SessionError> {
        let consistent = self.backup.recovery_time.or(self.backup.end_time);
        match &self.target {
            RecoveryTarget::Time(time) if consistent.is_some_and(|c| *time < c) => {
                Err(self.out_of_reach(Side::Before))
            }
            RecoveryTarget::Lsn(lsn) if *lsn < self.backup.stop_lsn => {
                Err(self.out_of_reach(Side::Before))
            }
            RecoveryTarget::Time(time) => {
                // PostgreSQL stops at the first transaction after that time, so
                // there has to be one.
                let end = self.archive.end_of(&self.reach)?;
                match end.time.and_then(|last| last.to_offset()) {
                    Some(last) if *time < last || !self.inclusive && *time == last => Ok(None),
                    Some(last) if *time == last => {
                        let ended = end.last_ended.map(|ended| ended.lsn);
                        Ok(ended.filter(|ended| Some(*ended) < end.lsn))
                    }
                    _ => Err(self.out_of_reach(Side::After)),
                }
            }
            RecoveryTarget::Lsn(lsn) => match self.archive.end_of(&self.reach)?.lsn {
                Some(end) if *lsn < end => Ok(None),
                _ => Err(self.out_of_reach(Side::After)),
            },
            _ => Ok(None),
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

    fn out_of_reach(&self, side: Side) -> SessionError {
        let holds = self.holds();
        let advice = match (&self.target, side) {
            (RecoveryTarget::Time(time), Side::After | Side::Nowhere) => holds.instead(*time),
            _ => None,
        };
        SessionError::OutOfReach {
            target: self.target.to_string(),
            side,
            holds: holds.to_string(),
            advice,
        }
    }

    /// Describes what can be reached. Reads the archive's last segments; if that fails,
    /// leaves out what they would have shown.
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

    /// Returns where `latest` has to end: at the end of the archive, if that is known.
    #[must_use]
    pub fn expected_end(&self) -> Option<Lsn> {
        let is_ours = self.target == RecoveryTarget::Latest && self.command.is_none();
        is_ours
            .then(|| self.archive.end_of(&self.reach).unwrap_or_default().lsn)
            .flatten()
    }

    /// Returns the name of the segment that contains `lsn`.
    #[must_use]
    pub fn segment_at(&self, lsn: Lsn) -> String {
        let timeline = self.reach.history.timeline_at(lsn);
        let id = SegmentId::containing(lsn, timeline, self.archive.segment_size());
        self.archive.name(id)
    }

    /// Returns the target with everything that determines it; two recoveries are the
    /// same if they agree in this.
    #[must_use]
    pub fn identity(&self) -> String {
        let inclusive = if self.inclusive { "" } else { ", exclusive" };
        format!("{}, timeline {}{inclusive}", self.target, self.timeline)
    }

    /// Returns what to wait for the server to do.
    #[must_use]
    pub fn goal(&self) -> Goal {
        match self.action {
            Action::Promote => Goal::Promoted,
            Action::Pause => Goal::Paused,
            Action::Shutdown => Goal::ShutDown,
        }
    }

    /// Returns PostgreSQL's settings, except for `restore_command`.
    #[must_use]
    pub fn settings(&self) -> Vec<(String, String)> {
        let (name, value) = match &self.target {
            RecoveryTarget::Immediate => ("recovery_target", "immediate".to_owned()),
            // Without a target, PostgreSQL recovers everything.
            RecoveryTarget::Latest => ("recovery_target", String::new()),
            RecoveryTarget::Time(time) => match self.last_ended {
                Some(lsn) => ("recovery_target_lsn", lsn.to_string()),
                None => ("recovery_target_time", MomentText(*time).to_string()),
            },
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
            // Otherwise nobody could query the progress, or look at a paused server.
            ("hot_standby", "on"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec()
    }

    /// Returns the command that fetches WAL: the profile's, or our own.
    ///
    /// # Errors
    /// If this program's path or the catalog's is not known, or is not UTF-8.
    pub fn command(&self, place: &Place) -> Result<String, SessionError> {
        if let Some(command) = &self.command {
            return Ok(command.clone());
        }
        let (socket, prefetch_dir) = (place.wal_socket(), place.prefetch_dir());
        let bytes = self.prefetch.to_string();
        let mut options = Vec::new();
        // An unprivileged user's server runs as that user, and reads the archive itself, if
        // it is on this host: it has no network.
        if source::serves_archive(&self.catalog) {
            options.extend(["--session", text(&socket)?]);
        }
        if self.prefetch >= self.archive.segment_size().bytes() {
            options.extend(["--prefetch-dir", text(&prefetch_dir)?]);
            options.extend(["--prefetch-bytes", &bytes]);
        }
        ours(&self.catalog, &self.instance()?, &options)
    }

    /// Returns the profile's own command.
    #[must_use]
    pub fn foreign_command(&self) -> Option<&str> {
        self.command.as_deref()
    }

    fn instance(&self) -> Result<String, SessionError> {
        let name = self.archive.dir().file_name().unwrap_or_default();
        Ok(text(Path::new(name))?.to_owned())
    }

    /// Returns the archive if our own command fetches from it.
    #[must_use]
    pub fn served_archive(&self) -> Option<&WalArchive> {
        self.command.is_none().then_some(&self.archive)
    }

    /// Checks that the server's user can run this program. If `user` is
    /// `None`, that is our own.
    ///
    /// # Errors
    /// Returns [`SessionError::WalCommand`] if it cannot.
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
        let reason = match run(&mut command, Instant::now() + TRIAL, 0) {
            Ok(ended) if ended.status.success() => return Ok(()),
            Ok(ended) => ended.status.to_string(),
            Err(error) => io::Error::from(error).to_string(),
        };
        Err(SessionError::WalCommand {
            user: user.name.clone(),
            program,
            reason,
        })
    }
}

/// Returns how far the archive reaches from a backup. A STREAM backup comes with its
/// own WAL, so the archive need only begin where that ends.
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
