//! Proves that a backup restores: every page of it straight from the catalog,
//! then a throw-away clone that recovers and answers, then whatever else the
//! profile asks for.
//!
//! ```text
//! pages       every page and stored file, in parallel, without a mount
//! checks      queries, pg_amcheck, pg_dump and commands against the clone
//! verdict     what each failure says: bad, or could not tell
//! report      the one document, and its form for people
//! prometheus  its form for node_exporter
//! html        its form for an auditor, with the history
//! history     what was verified when
//! ping        a URL that is told
//! ```

mod checks;
mod history;
mod html;
mod pages;
mod ping;
mod prometheus;
mod report;
mod verdict;

use std::path::Path;
use std::time::Instant;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

pub use history::History;
pub use html::html;
pub use ping::ping;
pub use prometheus::prometheus;
pub use report::{BackupReport, Check, Document, Entry, Place, Skipped, VERSION, human};
pub use verdict::{Verdict, of_image, of_session, of_text};

use crate::catalog::{Backup, Instance};
use crate::causes::sentence;
use crate::chain::{BackupSelector, Chain};
use crate::image::{Image, ImageError, ImageOptions};
use crate::pg::relation::RelationFile;
use crate::profile::{Action, BackupChoice, Plan, VerifyChoice};
use crate::session::{Account, Job, Live, Resolved, SessionError, Signals, Then, Up, all_backups};
use checks::Checks;

/// Bad places for which the other backups are looked through.
const COMPARED: usize = 20;

/// What a run is done with.
pub struct Verify<'a> {
    /// The checked profile.
    pub plan: &'a Plan,
    /// Its path.
    pub profile: Option<&'a Path>,
    /// The signals that break it off.
    pub signals: &'a Signals,
    /// Told what is being done, with how many bytes of how many are read.
    pub progress: &'a dyn Fn(&str, u64, u64),
}

impl Verify<'_> {
    /// The name by which reports call the profile.
    #[must_use]
    pub fn name(&self) -> String {
        let stem = self.profile.and_then(Path::file_stem);
        stem.map_or_else(
            || self.plan.instance.clone(),
            |stem| stem.to_string_lossy().into_owned(),
        )
    }

    /// Verifies what the plan says, one backup after the other.
    ///
    /// # Errors
    /// There is nothing to look at, or it was asked for wrongly. What becomes
    /// of a backup is in the document.
    pub fn run(&self) -> Result<(Document, Option<History>), SessionError> {
        let begun = Instant::now();
        let started = now();
        let (instance, backups) = all_backups(self.plan)?;
        let mut history = self.history(&instance);
        let (chosen, skipped) = self.choose(&instance, &backups, history.as_ref())?;
        let mut reports = Vec::new();
        for backup in chosen {
            let report = self.one(backup, &backups)?;
            if let Some(history) = &mut history
                && let Err(error) = history.add(Entry::of(&self.name(), &report))
            {
                let file = history.file().display();
                tracing::error!("the history {file} cannot be written: {error}");
            }
            reports.push(report);
            if self.signals.end_asked() {
                break;
            }
        }
        let worst = reports.iter().map(BackupReport::verdict).max();
        let document = Document {
            version: VERSION,
            pbkfs: env!("CARGO_PKG_VERSION"),
            profile: self.name(),
            catalog: self.plan.catalog.display().to_string(),
            instance: self.plan.instance.clone(),
            started,
            seconds: begun.elapsed().as_secs_f64(),
            verdict: worst.unwrap_or(Verdict::CouldNotTell),
            backups: reports,
            skipped,
        };
        Ok((document, history))
    }

    /// The history; without one, everything else goes on.
    fn history(&self, instance: &Instance) -> Option<History> {
        match History::read(self.plan, instance) {
            Ok(history) => Some(history),
            Err(error) => {
                tracing::error!("the history of verifications cannot be read: {error}");
                None
            }
        }
    }

    fn choose(
        &self,
        instance: &Instance,
        backups: &[Backup],
        history: Option<&History>,
    ) -> Result<(Vec<BackupChoice>, Vec<Skipped>), SessionError> {
        let one = |choice: &BackupChoice| Ok((vec![choice.clone()], Vec::new()));
        let wanted = match &self.plan.verify.backup {
            None => return one(&self.plan.backup),
            Some(VerifyChoice::One(choice)) => return one(choice),
            Some(wanted) => wanted,
        };
        let mut usable = Vec::new();
        let mut skipped = Vec::new();
        for backup in backups {
            let id = BackupSelector::Id(backup.id.clone());
            match Chain::resolve(&instance.name, backups, &id) {
                Ok(chain) => usable.push((backup, joined(&chain))),
                Err(error) => skipped.push(Skipped {
                    backup: backup.id.to_string(),
                    reason: sentence(&error),
                }),
            }
        }
        if usable.is_empty() {
            // Says what there is, and why none of it can be restored.
            Chain::resolve(&instance.name, backups, &BackupSelector::Latest)?;
        }
        usable.sort_by_key(|(backup, _)| backup.start_time);
        let id = |backup: &Backup| BackupChoice::Id(backup.id.to_string());
        if *wanted == VerifyChoice::All {
            return Ok((
                usable.iter().map(|(backup, _)| id(backup)).collect(),
                skipped,
            ));
        }
        let oldest = match history {
            Some(history) => history.oldest_unverified(usable.into_iter()),
            None => usable.first().map(|(backup, _)| *backup),
        };
        Ok((oldest.map(id).into_iter().collect(), Vec::new()))
    }

    fn one(&self, backup: BackupChoice, all: &[Backup]) -> Result<BackupReport, SessionError> {
        let begun = Instant::now();
        let signals = self.signals.until(begun + self.plan.verify.timeout);
        let plan = self.plan_for(backup);
        let mut job = VerifyJob {
            verify: self,
            plan: &plan,
            signals: &signals,
            all,
            report: BackupReport {
                started: now(),
                ..BackupReport::default()
            },
            account: Account::default(),
            since: begun,
            is_up: false,
        };
        let outcome = Up {
            plan: &plan,
            read_only: false,
            throw_away: true,
            profile: self.profile,
            signals: &signals,
            detached: false,
        }
        .run(&mut job);
        if let Err(error) = outcome {
            job.failed(error)?;
        } else if job.is_up {
            let seconds = job.since.elapsed().as_secs_f64();
            job.report.spend("stop", seconds);
        }
        let mut report = job.report;
        report.seconds = begun.elapsed().as_secs_f64();
        report.verdict = Some(report.verdict());
        Ok(report)
    }

    /// The plan of the clone for one backup: it has to become writable, and
    /// nothing may outlast the time that there is.
    fn plan_for(&self, backup: BackupChoice) -> Plan {
        let mut plan = self.plan.clone();
        plan.backup = backup;
        plan.recovery.action = Action::Promote;
        plan.postgres.launch = plan.verify.start;
        plan
    }
}

/// The work on one backup.
struct VerifyJob<'a> {
    verify: &'a Verify<'a>,
    plan: &'a Plan,
    signals: &'a Signals,
    all: &'a [Backup],
    report: BackupReport,
    account: Account,
    /// When the current part began.
    since: Instant,
    /// Whether the server answered.
    is_up: bool,
}

impl Job for VerifyJob<'_> {
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
        self.report
            .recovered_time
            .clone_from(&self.report.backup_end);
        if self.plan.verify.pages {
            self.pages(&resolved.chain)?;
        }
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
        if let Some(replay) = live.replayed() {
            self.report.replayed_lsn = replay.lsn.map(|lsn| lsn.to_string());
            if let Some(time) = &replay.time {
                self.report.recovered_time = Some(time.clone());
            }
        }
        let progress = self.verify.progress;
        let done = Checks {
            plan: &self.plan.verify,
            live,
            report: &mut self.report,
            tell: &|what| progress(what, 0, 0),
        }
        .run();
        self.since = Instant::now();
        done
    }

    fn ending(&mut self, account: &Account) {
        self.report.diff_bytes = account.diff_bytes;
        self.account = account.clone();
    }
}

impl VerifyJob<'_> {
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
                let limit = self.plan.verify.check_timeout.map(|limit| begun + limit);
                pages::check(&image, self.plan.fuse.threads.get(), &mut |read, total| {
                    (self.verify.progress)("pages", read, total);
                    !self.signals.end_asked() && limit.is_none_or(|limit| Instant::now() < limit)
                })
            }
            Err(error) => pages::Pages {
                damages: 1,
                damage: vec![error],
                complete: true,
                ..pages::Pages::default()
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
            None if !found.complete => Some("broken off before the end".to_owned()),
            None => None,
        };
        self.check("pages", verdict, seconds, error);
        self.report.damage = found.damage.iter().map(place).collect();
        let backup = chain.target();
        for (error, place) in found
            .damage
            .iter()
            .zip(&mut self.report.damage)
            .take(COMPARED)
        {
            if of_image(error) == Verdict::Bad && !self.signals.end_asked() {
                place.good_in = Some(pages::good_in(error, self.all, backup));
            }
        }
        match self.signals.end_asked() {
            true => Err(SessionError::Interrupted),
            false => Ok(()),
        }
    }

    /// Writes down what ended the session. What says nothing about a backup,
    /// because none was found to look at, is left to the caller.
    fn failed(&mut self, error: SessionError) -> Result<(), SessionError> {
        let verdict = match of_session(&error, &self.account.counts) {
            Some(verdict) => verdict,
            None if self.report.checks.is_empty() => return Err(error),
            None => Verdict::CouldNotTell,
        };
        let seconds = self.since.elapsed().as_secs_f64();
        let limit = self.plan.verify.timeout.as_secs();
        let (verdict, mut said) = match error {
            SessionError::Interrupted if self.signals.is_late() => (
                Verdict::CouldNotTell,
                format!("it did not end within verify.timeout, {limit} s"),
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

/// A bad place, as the report has it.
fn place(error: &ImageError) -> Place {
    let path = error.path();
    let relation = path.and_then(RelationFile::parse);
    let page = match error {
        ImageError::Page(page) => Some(page),
        _ => None,
    };
    Place {
        path: path.map(|path| path.display().to_string()),
        relfilenode: relation.map(|relation| relation.relfilenode),
        database: relation.map(|relation| relation.database),
        relation: None,
        block: page.map(|page| page.block.0),
        offset: page.map(|page| page.offset),
        backup: error.backup().map(ToString::to_string),
        message: sentence(error),
        good_in: None,
    }
}

fn joined(chain: &Chain) -> String {
    let ids: Vec<String> = chain.ids().iter().map(ToString::to_string).collect();
    ids.join(" ")
}

fn now() -> String {
    rfc3339(OffsetDateTime::now_utc())
}

fn rfc3339(time: OffsetDateTime) -> String {
    time.format(&Rfc3339).unwrap_or_default()
}
