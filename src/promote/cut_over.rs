//! The cut-over: making a data directory out of the diff of a clone that is down.
//!
//! Its files are the diff's own files under second names, so the time does not depend on
//! their size. Until the directory has its name, nothing in the diff is changed but the
//! files' owners and modes, and the diff can be used again.

use std::path::Path;

use super::wanted::{Overridden, Promoted};
use crate::causes::sentence;
use crate::diff::{Diff, Promotion};
use crate::image::Image;
use crate::materialize::{Layout, PlacedTablespace, Source, Staging, Writer};
use crate::overlay::Overlay;
use crate::profile::Plan;
use crate::server::{Starter, major_of};
use crate::session::{
    self, Destination, HydrationProgress, HydrationRun, Job, Live, Needs, Pace, PromoteError,
    Resolved, SessionError, Signals, Then, files_owner,
};
use crate::untrusted::{Dir, identity};

/// The cut-over of a clone, as the job of a session that mounts nothing.
pub struct CutOver<'a> {
    /// The profile's plan.
    pub plan: &'a Plan,
    /// The data directory.
    pub destination: &'a Destination,
    /// The signals that interrupt it.
    pub signals: &'a Signals,
    /// Number of files worked on at a time.
    pub jobs: usize,
    /// The result.
    pub done: &'a mut Promoted,
}

impl Job for CutOver<'_> {
    fn needs(&self) -> Needs {
        Needs::Chain
    }

    fn opened(
        &mut self,
        resolved: &Resolved,
        overlay: &Overlay<Image>,
    ) -> Result<Then, SessionError> {
        self.hydrate_rest(overlay)?;
        let source = Source::open(overlay)?;
        let Destination { to, tablespaces } = self.destination;
        let layout = source.lay_out(to, tablespaces)?;
        self.done.backup = resolved.chain.target().id.to_string();
        self.done.overridden = overridden(self.plan, resolved, overlay)?;
        let staging = Staging::open(&layout, &self.done.backup, None)?;
        let Some(diff) = overlay.layer() else {
            return Err(PromoteError::NotKept.into());
        };
        let outcome = self.link(&source, &layout, staging, diff);
        outcome.map_err(|error| self.failed(&error))?;
        Ok(Then::End)
    }

    fn ready(&mut self, _: &Live<'_>) -> Result<(), SessionError> {
        Ok(())
    }
}

impl CutOver<'_> {
    /// Brings in what the diff still lacks.
    fn hydrate_rest(&self, overlay: &Overlay<Image>) -> Result<(), SessionError> {
        let progress = HydrationProgress::default();
        let signals = self.signals;
        let goes_on = || !signals.end_asked();
        let run = HydrationRun::new(overlay, &progress, &goes_on);
        let outcome = run.all(self.jobs, &Pace::unlimited);
        match outcome {
            Ok(true) => Ok(()),
            Ok(false) if self.signals.end_asked() => Err(SessionError::Interrupted),
            Ok(false) => Err(hydration("some files are still incomplete".to_owned())),
            Err(error) => Err(hydration(run.reason(&error))),
        }
    }

    fn link(
        &mut self,
        source: &Source<'_>,
        layout: &Layout,
        staging: Staging,
        diff: &Diff,
    ) -> Result<(), SessionError> {
        let to = layout.pgdata();
        let io = |error| SessionError::io("create", to, error);
        let staged = staging.root(0).map_err(io)?;
        let mut promotion = Promotion {
            to: to.to_owned(),
            inode: identity(staged).map_err(io)?.id.2,
            complete: false,
        };
        diff.record_promotion(Some(&promotion))?;
        let written = match self.write(source, layout, &staging) {
            Ok(written) => written,
            Err(error) => {
                staging.discard().map_err(io)?;
                diff.record_promotion(None)?;
                return Err(error);
            }
        };
        staging
            .finish(true)
            .map_err(|e| SessionError::io("rename", to, e))?;
        promotion.complete = true;
        diff.record_promotion(Some(&promotion))?;
        self.done.files = written.files;
        self.done.copied_files = written.files - written.linked;
        self.done.bytes = written.bytes;
        self.done.directory = to.to_owned();
        self.done.tablespaces = PlacedTablespace::of(layout);
        self.done.start = start_command(to);
        Ok(())
    }

    fn write(
        &self,
        source: &Source<'_>,
        layout: &Layout,
        staging: &Staging,
    ) -> Result<crate::materialize::Written, SessionError> {
        let root = nix::unistd::geteuid().is_root();
        let owner = root.then(|| files_owner(self.plan)).transpose()?;
        let writer = Writer {
            image: source.overlay.lower(),
            layout,
            staging,
            owner,
            clone: Some(source),
            edited: None,
            links: true,
        };
        writer.directories()?;
        let mut written = crate::materialize::Written::default();
        let goes_on = || !self.signals.end_asked();
        writer.own_files(self.jobs, &goes_on, &mut written)?;
        writer.open_roots()?;
        staging
            .sync()
            .map_err(|e| SessionError::io("sync", layout.pgdata(), e))?;
        Ok(written)
    }

    fn failed(&self, error: &SessionError) -> SessionError {
        PromoteError::CutOver {
            to: self.destination.to.clone(),
            reason: sentence(error),
        }
        .into()
    }
}

fn hydration(reason: String) -> SessionError {
    PromoteError::Hydration { reason }.into()
}

/// Returns the settings of the clone's own configuration that pbkfs had overridden.
fn overridden(
    plan: &Plan,
    resolved: &Resolved,
    overlay: &Overlay<Image>,
) -> Result<Vec<Overridden>, SessionError> {
    let found = session::overridden(plan, resolved, overlay)?;
    let found = found.into_iter();
    Ok(found
        .map(|(name, value)| Overridden { name, value })
        .collect())
}

/// Returns the command that starts a server on a data directory, for people.
pub fn start_command(to: &Path) -> Option<String> {
    Some(Starter::find(to, major_of(to)?)?.command(to))
}

/// Returns whether a directory is the one that a promotion has created.
pub fn is_in_place(promotion: &Promotion) -> bool {
    let Promotion { to, inode, .. } = promotion;
    let found = Dir::open(to).and_then(|dir| dir.stat_self());
    found.is_ok_and(|stat| stat.id.1 == *inode)
}
