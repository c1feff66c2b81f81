//! The work on one backup: its pages once it is locked, its checks once the clone
//! answers, and the verdict if the clone never does.

use std::time::Instant;

use super::backup_report::{BackupReport, Check, Damage};
use super::checks::Checks;
use super::verdict::{Verdict, of_image, of_session, of_wal};
use super::{Verify, good_copies, restore};
use crate::catalog::Backup;
use crate::catalog::wal::{OwnWal, OwnWalFinder};
use crate::causes::sentence;
use crate::chain::Chain;
use crate::clock::{now, rfc3339};
use crate::image::{CheckedFiles, Image, ImageError, ImageOptions};
use crate::pg::relation::RelationFile;
use crate::profile::Plan;
use crate::session::{Account, Job, Live, Needs, Resolved, SessionError, Signals, Then};

/// Number of bad places that are searched for in the other backups.
const COMPARED: usize = 20;

/// The work on one backup.
pub struct VerifyJob<'a> {
    verify: &'a Verify<'a>,
    plan: &'a Plan,
    signals: &'a Signals,
    all: &'a [Backup],
    report: BackupReport,
    account: Account,
    begun: Instant,
    /// When the current phase began.
    since: Instant,
    /// Whether the server answered.
    is_up: bool,
}

impl Job for VerifyJob<'_> {
    fn needs(&self) -> Needs {
        match self.plan.verify.start {
            true => Needs::Mount,
            false => Needs::Chain,
        }
    }

    fn checks_backup(&self) -> bool {
        true
    }

    fn locked(&mut self, resolved: &Resolved) -> Result<Then, SessionError> {
        let target = resolved.chain.target();
        let ids = resolved.chain.ids();
        let end = target.end_time.or(target.recovery_time);
        self.report.backup = target.id.to_string();
        self.report.mode = target.mode.to_string();
        self.report.chain = ids.iter().map(ToString::to_string).collect();
        self.report.backup_end = end.map(rfc3339);
        if self.plan.verify.pages {
            self.pages(&resolved.chain)?;
        }
        self.wal(resolved);
        self.restore(&resolved.chain);
        self.since = Instant::now();
        match self.plan.verify.start {
            true => {
                (self.verify.progress)("starting PostgreSQL", 0, 0);
                Ok(Then::Mount)
            }
            false => Ok(Then::End),
        }
    }

    fn ready(&mut self, live: &Live<'_>) -> Result<(), SessionError> {
        self.is_up = true;
        let seconds = self.since.elapsed().as_secs_f64();
        self.report.spend("start", seconds);
        self.check("start", Verdict::Proved, seconds, None);
        let replay = live.replayed();
        let lsn = replay.and_then(|replay| replay.lsn);
        let time = replay.and_then(|replay| replay.time.clone());
        self.report.replayed_lsn = lsn.map(|lsn| lsn.to_string());
        self.report.recovered_time = time.or_else(|| self.report.backup_end.clone());
        let progress = self.verify.progress;
        let tell = |what: &str| progress(what, 0, 0);
        let done = Checks::new(&self.plan.verify, live, &mut self.report, &tell).run();
        self.since = Instant::now();
        done
    }

    fn ending(&mut self, account: &Account) {
        self.report.diff_bytes = account.diff_bytes;
        self.account = account.clone();
    }
}

impl<'a> VerifyJob<'a> {
    /// Creates the job; `all` are the instance's backups.
    pub fn new(
        verify: &'a Verify<'a>,
        plan: &'a Plan,
        signals: &'a Signals,
        all: &'a [Backup],
    ) -> Self {
        let now_on = Instant::now();
        Self {
            verify,
            plan,
            signals,
            all,
            report: BackupReport {
                // Replaced by the id as soon as it is known.
                backup: plan.backup.to_string(),
                started: now(),
                partial: verify.partial,
                ..BackupReport::default()
            },
            account: Account::default(),
            begun: now_on,
            since: now_on,
            is_up: false,
        }
    }

    /// Returns the report, given the outcome of the session.
    pub fn finish(
        mut self,
        outcome: Result<(), SessionError>,
    ) -> Result<BackupReport, SessionError> {
        match outcome {
            Err(error) => self.failed(error)?,
            Ok(()) if self.is_up => {
                let seconds = self.since.elapsed().as_secs_f64();
                self.report.spend("stop", seconds);
            }
            Ok(()) => {}
        }
        let mut report = self.report;
        report.seconds = self.begun.elapsed().as_secs_f64();
        report.verdict = Some(report.verdict());
        Ok(report)
    }

    fn check(&mut self, kind: &'static str, verdict: Verdict, seconds: f64, error: Option<String>) {
        self.report.checks.push(Check {
            kind,
            name: String::new(),
            verdict,
            seconds,
            error,
        });
    }

    fn pages(&mut self, chain: &Chain) -> Result<(), SessionError> {
        let begun = Instant::now();
        let options = ImageOptions {
            verify_checksums: true,
            ..ImageOptions::default()
        };
        let found = match Image::open(chain, &options) {
            Ok(image) => {
                let limit = self.plan.verify.check_timeout.map(|limit| begun + limit.0);
                let threads = self.plan.fuse.threads().get().max(image.parallel());
                image.check_all(threads, &mut |read, total| {
                    (self.verify.progress)("pages", read, total);
                    !self.signals.end_asked() && limit.is_none_or(|limit| Instant::now() < limit)
                })
            }
            Err(error) => CheckedFiles {
                damages: 1,
                damage: vec![error],
                complete: true,
                ..CheckedFiles::default()
            },
        };
        let seconds = begun.elapsed().as_secs_f64();
        self.report.spend("pages", seconds);
        self.report.pages = found.checked.pages;
        self.report.files = found.files;
        self.report.image_bytes = found.checked.image_bytes;
        self.report.read_bytes = found.checked.stored_bytes;
        self.report.damages = found.damages;
        let worst = found.damage.iter().map(of_image).max();
        let verdict = match (worst, found.complete) {
            (Some(Verdict::Bad), _) | (_, true) => worst.unwrap_or(Verdict::Proved),
            (_, false) => Verdict::CouldNotTell,
        };
        let error = match found.damage.first() {
            Some(first) => Some(sentence(first)),
            None if !found.complete => Some("stopped before the end".to_owned()),
            None => None,
        };
        self.check("pages", verdict, seconds, error);
        self.report.damage = found.damage.iter().map(place).collect();
        self.compare(&found.damage, chain.target());
        match self.signals.end_asked() {
            true => Err(SessionError::Interrupted),
            false => Ok(()),
        }
    }

    /// Searches other backups for intact copies of the first bad places.
    fn compare(&mut self, damage: &[ImageError], target: &Backup) {
        let is_bad = |(_, error): &(usize, &ImageError)| of_image(error) == Verdict::Bad;
        let bad = damage.iter().enumerate().filter(is_bad).take(COMPARED);
        let (places, bad): (Vec<usize>, Vec<&ImageError>) = bad.unzip();
        let goes_on = || !self.signals.end_asked();
        let good = good_copies::find(&bad, self.all, target, &goes_on);
        if self.signals.end_asked() {
            return;
        }
        for (place, good) in places.into_iter().zip(good) {
            if let Some(place) = self.report.damage.get_mut(place) {
                place.good_in = Some(good);
            }
        }
    }

    /// Checks the WAL that the backup itself needs, from its start to its stop.
    fn wal(&mut self, resolved: &Resolved) {
        let begun = Instant::now();
        let found = OwnWalFinder::new(&resolved.instance).read(resolved.chain.target());
        let (verdict, error) = match found {
            Ok(own) if own.is_bad() => (Verdict::Bad, Some(own.to_string())),
            // Without the backup's stop, the WAL that it needs is unknown here; the
            // server will find out.
            Ok(OwnWal::Unrecorded) => return,
            Ok(_) => (Verdict::Proved, None),
            Err(error) => (of_wal(&error), Some(sentence(&error))),
        };
        self.check("wal", verdict, begun.elapsed().as_secs_f64(), error);
    }

    /// Checks what pg_probackup's own restore would lose.
    fn restore(&mut self, chain: &Chain) {
        let begun = Instant::now();
        let (losses, check) = restore::look(chain, self.plan.verify.restore);
        if let Some((verdict, error)) = check {
            self.check("restore", verdict, begun.elapsed().as_secs_f64(), error);
        }
        self.report.restore_losses = losses;
    }

    /// Records what ended the session. An error that says nothing about a backup,
    /// because none was found to be checked, is returned to the caller.
    fn failed(&mut self, error: SessionError) -> Result<(), SessionError> {
        let verdict = match of_session(&error, &self.account.counts) {
            Some(verdict) => verdict,
            None if self.report.checks.is_empty() => return Err(error),
            None => Verdict::CouldNotTell,
        };
        let seconds = self.since.elapsed().as_secs_f64();
        let limit = self.plan.verify.timeout.0.as_secs();
        let (verdict, mut said) = match error {
            SessionError::Interrupted if self.signals.is_late() => (
                Verdict::CouldNotTell,
                format!("it did not finish within verify.timeout, {limit} s"),
            ),
            error => {
                let mut said = sentence(&error);
                for line in error.log().iter().flat_map(|log| &log.lines) {
                    said = format!("{said}\n{line}");
                }
                (verdict, said)
            }
        };
        let kind = match self.is_up {
            true => "session",
            false => "start",
        };
        if !self.is_up && self.plan.verify.start && self.account.counts.is_empty() {
            said = format!("not started: {said}");
        }
        self.report.spend(kind, seconds);
        if self.report.backup.is_empty() {
            self.report.backup = self.plan.backup.to_string();
        }
        self.check(kind, verdict, seconds, Some(said));
        Ok(())
    }
}

/// Converts a bad place for the report.
fn place(error: &ImageError) -> Damage {
    let path = error.path();
    let relation = path.and_then(RelationFile::parse);
    let page = match error {
        ImageError::Page(page) => Some(page),
        _ => None,
    };
    Damage {
        path: path.map(|path| path.display().to_string()),
        relfilenode: relation.map(|relation| relation.relfilenode),
        database: relation.map(|relation| relation.database),
        block: page.map(|page| page.block.0),
        offset: page.map(|page| page.offset),
        backup: error.backup().map(ToString::to_string),
        message: sentence(error),
        ..Damage::default()
    }
}
