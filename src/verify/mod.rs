//! Proves that a backup restores: every page of it straight from the catalog,
//! then a throw-away clone that recovers and answers, then whatever else the
//! profile asks for.
//!
//! ```text
//! pages       every page and stored file, in parallel, without a mount
//! job         what is done about one backup, and when
//! checks      queries, pg_amcheck, pg_dump and commands against the clone
//! restore     what pg_probackup's own restore would lose
//! verdict     what each failure says: bad, or could not tell
//! findings    the same as a table for people
//! report      the one document, and its form for people
//! prometheus  its form for node_exporter
//! html        its form for an auditor, with the history
//! history     what was verified when
//! standing    what is known of each backup by that
//! ping        a URL that is told
//! ```

mod checks;
mod findings;
mod history;
mod html;
mod job;
mod pages;
mod ping;
mod prometheus;
mod report;
mod restore;
mod standing;
mod verdict;

use std::path::{Path, PathBuf};
use std::time::Instant;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

pub use checks::CollationReport;
pub use findings::{FINDINGS, Finding, consequence};
pub use history::{Entry, History, ProfileId};
pub use html::html;
pub use ping::ping;
pub use prometheus::prometheus;
pub use report::{BackupReport, Check, Document, Place, Skipped, VERSION, human};
pub use restore::{LossReport, restore_losses};
pub use standing::{KnownBad, Listed, Standing};
pub use verdict::{Verdict, of_image, of_session, of_text};

use crate::catalog::{Backup, Instance};
use crate::causes::sentence;
use crate::chain::{BackupSelector, Chain, ChainError};
use crate::profile::{Action, BackupChoice, KnownBadPolicy, Plan, VerifyChoice};
use crate::session::{Counts, SessionError, Signals, Up, all_backups, job_place};
use job::VerifyJob;
use verdict::of_chain;

/// What a run is done with.
pub struct Verify<'a> {
    /// The checked profile.
    pub plan: &'a Plan,
    /// Its path.
    pub profile: Option<&'a Path>,
    /// Whether only the pages are looked at, whatever else the profile asks for.
    pub partial: bool,
    /// The signals that break it off.
    pub signals: &'a Signals,
    /// Told what is being done, with how many bytes of how many are read.
    pub progress: &'a dyn Fn(&str, u64, u64),
}

/// What there is of a run.
struct Run {
    begun: Instant,
    started: String,
    /// All backups of the instance.
    backups: Vec<Listed>,
    history: Option<History>,
    reports: Vec<BackupReport>,
    skipped: Vec<Skipped>,
    /// What ended it.
    error: Option<SessionError>,
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

    /// The profile, as the history knows it. What is no file, as a pipe is, has another
    /// path each time.
    fn id(&self) -> ProfileId {
        let path = self.profile.and_then(|path| path.canonicalize().ok());
        ProfileId {
            name: self.name(),
            path: path.filter(|path| path.is_file()),
        }
    }

    /// Verifies what the plan says, one backup after the other.
    ///
    /// # Errors
    /// It was asked for wrongly. Whatever else kept it from looking at a backup,
    /// and what becomes of a backup, is in the document.
    pub fn run(&self) -> Result<(Document, Option<History>), SessionError> {
        let mut run = Run {
            begun: Instant::now(),
            started: now(),
            backups: Vec::new(),
            history: None,
            reports: Vec::new(),
            skipped: Vec::new(),
            error: None,
        };
        match self.go(&mut run) {
            Err(error) if of_session(&error, &Counts::new()).is_none() => return Err(error),
            Err(error) => run.error = Some(error),
            Ok(()) => {}
        }
        Ok(self.document(run))
    }

    fn go(&self, run: &mut Run) -> Result<(), SessionError> {
        let (instance, backups) = all_backups(self.plan)?;
        let resolve = |backup: &Backup| {
            let id = BackupSelector::Id(backup.id.clone());
            let chain = Chain::resolve(&instance.name, &backups, &id);
            chain.map(|chain| joined(&chain))
        };
        let chains: Vec<_> = backups.iter().map(|b| (b, resolve(b))).collect();
        run.backups = chains.iter().map(listed).collect();
        run.history = self.history(&instance);
        let (chosen, skipped) = self.choose(&instance, chains, run.history.as_ref())?;
        run.skipped = skipped;
        let is_choice = matches!(
            self.plan.verify.backup,
            Some(VerifyChoice::All | VerifyChoice::OldestUnverified)
        );
        let mut chosen = chosen.into_iter().peekable();
        while let Some(backup) = chosen.next() {
            let id = backup.to_string();
            let report = match self.one(backup, &backups) {
                // Nobody has named it.
                Err(error @ SessionError::Chain(ChainError::NoSuchBackup { .. })) if is_choice => {
                    run.skipped.push(Skipped {
                        backup: id,
                        reason: sentence(&error),
                    });
                    continue;
                }
                report => report?,
            };
            if let Some(history) = &mut run.history
                && let Err(error) = history.add(Entry::of(&self.id(), &report))
            {
                tracing::warn!(
                    "the history {} cannot be written: {error}; let verify.state_dir name a \
                     directory of this user, as a bad backup is known to be bad by it",
                    history.file().display()
                );
            }
            run.reports.push(report);
            if self.signals.end_asked() && chosen.peek().is_some() {
                return Err(SessionError::Interrupted);
            }
        }
        Ok(())
    }

    fn document(&self, run: Run) -> (Document, Option<History>) {
        let of_error = run.error.as_ref();
        let of_error = of_error.and_then(|error| of_session(error, &Counts::new()));
        let verdicts = run.reports.iter().map(BackupReport::verdict);
        let verdict = verdicts.chain(of_error).max();
        let verdict = verdict.unwrap_or(Verdict::CouldNotTell);
        let standing = match &run.history {
            Some(history) => Standing::of(&history.entries, &run.backups),
            None => {
                let reports = run.reports.iter();
                let entries: Vec<Entry> = reports.map(|r| Entry::of(&self.id(), r)).collect();
                Standing::of(&entries, &run.backups)
            }
        };
        let others_are_bad = self.plan.verify.known_bad == KnownBadPolicy::Fail
            && standing.not_of(&run.reports).next().is_some();
        let decisive = match others_are_bad {
            true => verdict.max(Verdict::Bad),
            false => verdict,
        };
        let document = Document {
            version: VERSION,
            pbkfs: env!("CARGO_PKG_VERSION"),
            profile: self.name(),
            by: self.id(),
            catalog: self.plan.catalog.display().to_string(),
            instance: self.plan.instance.clone(),
            started: run.started,
            seconds: run.begun.elapsed().as_secs_f64(),
            verdict,
            exit_code: decisive.exit_code(),
            error: run.error.as_ref().map(|error| sentence(error)),
            backups: run.reports,
            skipped: run.skipped,
            standing,
        };
        (document, run.history)
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
        chains: Vec<(&Backup, Result<String, ChainError>)>,
        history: Option<&History>,
    ) -> Result<(Vec<BackupChoice>, Vec<Skipped>), SessionError> {
        let one = |choice: &BackupChoice| Ok((vec![choice.clone()], Vec::new()));
        let wanted = match &self.plan.verify.backup {
            None => return one(&self.plan.backup),
            Some(VerifyChoice::One(choice)) => return one(choice),
            Some(wanted) => wanted,
        };
        if chains.iter().all(|(_, chain)| chain.is_err()) {
            // Says what there is, and why none of it can be restored.
            let backups: Vec<Backup> = chains.iter().map(|(backup, _)| (*backup).clone()).collect();
            Chain::resolve(&instance.name, &backups, &BackupSelector::Latest)?;
        }
        let mut usable = Vec::new();
        let mut broken = Vec::new();
        let mut skipped = Vec::new();
        for (backup, chain) in chains {
            match chain {
                Ok(chain) => usable.push((backup, chain)),
                Err(error) if of_chain(&error) == Some(Verdict::Bad) => broken.push(backup),
                Err(error) => skipped.push(Skipped {
                    backup: backup.id.to_string(),
                    reason: sentence(&error),
                }),
            }
        }
        usable.sort_by_key(|(backup, _)| backup.start_time);
        let id = |backup: &Backup| BackupChoice::Id(backup.id.to_string());
        if *wanted == VerifyChoice::All {
            let mut all: Vec<&Backup> = usable.iter().map(|(backup, _)| *backup).collect();
            all.extend(broken);
            all.sort_by_key(|backup| backup.start_time);
            return Ok((all.into_iter().map(id).collect(), skipped));
        }
        let oldest = match history {
            Some(history) => history.oldest_unverified(usable.into_iter()),
            None => usable.first().map(|(backup, _)| *backup),
        };
        Ok((oldest.map(id).into_iter().collect(), Vec::new()))
    }

    fn one(&self, backup: BackupChoice, all: &[Backup]) -> Result<BackupReport, SessionError> {
        let begun = Instant::now();
        let signals = self.signals.until(begun + self.plan.verify.timeout.0);
        let (point, held) = job_place(&self.plan.target, "verify")?;
        let plan = self.plan_for(backup, point);
        let mut job = VerifyJob::new(self, &plan, &signals, all);
        let outcome = Up {
            plan: &plan,
            read_only: false,
            profile: self.profile,
            signals: &signals,
            detached: false,
        }
        .run(Some(held), &mut job);
        job.finish(outcome)
    }

    /// The plan of the clone for one backup: it has to become writable, and
    /// nothing may outlast the time that there is.
    fn plan_for(&self, backup: BackupChoice, point: PathBuf) -> Plan {
        let mut plan = self.plan.clone();
        plan.throw_away(point);
        plan.backup = backup;
        plan.recovery.action = Action::Promote;
        plan.postgres.launch = plan.verify.start;
        plan
    }
}

/// What is known of a backup by the catalog alone.
fn listed((backup, chain): &(&Backup, Result<String, ChainError>)) -> Listed {
    let of_evidence = |error: &&ChainError| of_chain(error) == Some(Verdict::Bad);
    let broken = chain.as_ref().err().filter(of_evidence);
    Listed {
        id: backup.id.to_string(),
        begun: rfc3339(backup.start_time),
        chain: chain.as_ref().ok().cloned(),
        broken: broken.map(|error| sentence(error)),
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
