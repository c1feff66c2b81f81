//! Verifies one backup after the other.

use std::time::Instant;

use super::Verify;
use super::backup_report::BackupReport;
use super::history::standing::{Listed, Standing};
use super::history::{Entry, History};
use super::job::VerifyJob;
use super::report::{Document, Skipped, VERSION};
use super::verdict::{Verdict, of_chain, of_session};
use crate::catalog::{Backup, BackupRef, Instance};
use crate::causes::sentence;
use crate::chain::{Chain, ChainError};
use crate::clock::{now, rfc3339};
use crate::profile::{Action, KnownBadPolicy, VerifyChoice};
use crate::session::{Counts, SessionError, Up, all_backups, job_plan};

/// The state of a run.
struct Run {
    begun: Instant,
    started: String,
    /// All backups of the instance.
    backups: Vec<Listed>,
    history: Option<History>,
    reports: Vec<BackupReport>,
    skipped: Vec<Skipped>,
    /// The error that ended it.
    error: Option<SessionError>,
}

impl Verify<'_> {
    /// Verifies the backups that the plan names, one after the other.
    ///
    /// # Errors
    /// If it was asked for wrongly. Any other error that kept it from checking a
    /// backup, and the result for each backup, is in the document.
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
            let id = BackupRef::Id(backup.id.clone());
            let chain = Chain::resolve(&instance.name, &backups, &id);
            chain.map(|chain| joined(&chain))
        };
        let chains: Vec<_> = backups.iter().map(|b| (b, resolve(b))).collect();
        run.backups = chains.iter().map(listed).collect();
        // Without a history, the run continues.
        run.history = History::read(self.plan, &instance)
            .inspect_err(|e| tracing::error!("the verification history cannot be read: {e}"))
            .ok();
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
                // Nobody has named this backup.
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
                    "the history {} cannot be written: {error}; set verify.state_dir to a \
                     directory of this user, because only the history records that a backup is \
                     bad",
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
            catalog: self.plan.catalog.to_string(),
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

    fn choose(
        &self,
        instance: &Instance,
        chains: Vec<(&Backup, Result<String, ChainError>)>,
        history: Option<&History>,
    ) -> Result<(Vec<BackupRef>, Vec<Skipped>), SessionError> {
        let one = |choice: &BackupRef| Ok((vec![choice.clone()], Vec::new()));
        let wanted = match &self.plan.verify.backup {
            None => return one(&self.plan.backup),
            Some(VerifyChoice::One(choice)) => return one(choice),
            Some(wanted) => wanted,
        };
        if chains.iter().all(|(_, chain)| chain.is_err()) {
            // The error says which backups there are, and why none of them can be
            // restored.
            let backups: Vec<Backup> = chains.iter().map(|(backup, _)| (*backup).clone()).collect();
            Chain::resolve(&instance.name, &backups, &BackupRef::Latest)?;
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
        let id = |backup: &Backup| BackupRef::Id(backup.id.clone());
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

    fn one(&self, backup: BackupRef, all: &[Backup]) -> Result<BackupReport, SessionError> {
        let begun = Instant::now();
        let signals = self.signals.until(begun + self.plan.verify.timeout.0);
        let (mut plan, held) = job_plan(self.plan, "verify")?;
        plan.backup = backup;
        // The clone has to become writable.
        plan.recovery.action = Action::Promote;
        plan.postgres.launch = plan.verify.start;
        let mut job = VerifyJob::new(self, &plan, &signals, all);
        let outcome = Up::of_job(&plan, self.profile, &signals).run(Some(held), &mut job);
        job.finish(outcome)
    }
}

/// Returns what is known about a backup from the catalog alone.
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
