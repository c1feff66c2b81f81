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
//! report      the one document, and its form for people
//! prometheus  its form for node_exporter
//! html        its form for an auditor, with the history
//! history     what was verified when
//! ping        a URL that is told
//! ```

mod checks;
mod history;
mod html;
mod job;
mod pages;
mod ping;
mod prometheus;
mod report;
mod restore;
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
pub use restore::{LossReport, restore_losses};
pub use verdict::{Verdict, of_image, of_session, of_text};

use crate::catalog::{Backup, Instance};
use crate::causes::sentence;
use crate::chain::{BackupSelector, Chain};
use crate::profile::{Action, BackupChoice, Plan, VerifyChoice};
use crate::session::{SessionError, Signals, Up, all_backups};
use job::VerifyJob;

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
                let file = history.file();
                let file = file.display();
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
        let mut job = VerifyJob::new(self, &plan, &signals, all);
        let outcome = Up {
            plan: &plan,
            read_only: false,
            profile: self.profile,
            signals: &signals,
            detached: false,
        }
        .run(&mut job);
        job.finish(outcome)
    }

    /// The plan of the clone for one backup: it has to become writable, and
    /// nothing may outlast the time that there is.
    fn plan_for(&self, backup: BackupChoice) -> Plan {
        let mut plan = self.plan.clone();
        plan.throw_away();
        plan.backup = backup;
        plan.recovery.action = Action::Promote;
        plan.postgres.launch = plan.verify.start;
        plan
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
