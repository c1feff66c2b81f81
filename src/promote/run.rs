//! The order of a promotion.

use std::path::{Path, PathBuf};
use std::time::Instant;

use super::cut_over::{CutOver, start_command};
use super::left::{Earlier, settle};
use super::live::{Live, Then};
use super::wanted::{Promote, Promoted};
use crate::diff::{Binding, DiffError, Promotion};
use crate::materialize::Staging;
use crate::profile::Passthrough;
use crate::session::{self, Destination, PromoteError, SessionError, Up, job_plan};

/// The version of [`Promoted`] as a document.
const VERSION: u32 = 1;

impl Promote<'_> {
    /// Promotes the clone, whether it runs or is down.
    ///
    /// # Errors
    /// If there is no clone, or if it cannot be promoted; if the backup or the diff
    /// fails. Until the directory is complete, the clone is as it was, though it may be
    /// down.
    pub fn run(&self) -> Result<Promoted, SessionError> {
        let begun = Instant::now();
        let dir = self.kept_diff()?;
        if let Earlier::Complete(promotion) = settle(dir)? {
            return self.of_earlier(dir, promotion);
        }
        if let Some(to) = &self.to {
            // Before a clone is stopped for it.
            Staging::check_free(to)?;
            self.tell_cost(dir, to);
        }
        let destination = match Live::find(self)? {
            Some(live) => match live.hydrate()? {
                Then::CutOver(destination) => destination,
                Then::Done(to) => return Ok(self.by_another(dir, to)),
            },
            None => self.of_clone_that_is_down(dir)?,
        };
        let cutting = Instant::now();
        session::down(&self.plan.target, self.plan.postgres.stop_timeout.0)?;
        let mut done = Promoted {
            version: VERSION,
            diff: dir.to_owned(),
            ..Promoted::default()
        };
        self.cut_over(&destination, &mut done)?;
        done.cut_over_seconds = cutting.elapsed().as_secs_f64();
        done.seconds = begun.elapsed().as_secs_f64();
        Ok(done)
    }

    /// Undoes what an interrupted cut-over has left, so that the clone can be used again.
    ///
    /// # Errors
    /// If the clone was promoted, if its diff is in use, or if something cannot be
    /// removed.
    pub fn abandon(&self) -> Result<(), SessionError> {
        let dir = self.kept_diff()?;
        match settle(dir)? {
            Earlier::None => Ok(()),
            Earlier::Complete(promotion) => self.of_earlier(dir, promotion).map(drop),
        }
    }

    fn kept_diff(&self) -> Result<&Path, SessionError> {
        let dir = self.plan.diff_dir.as_deref();
        dir.ok_or_else(|| PromoteError::NotKept.into())
    }

    /// Reports a promotion that was complete before, unless another directory is wanted.
    fn of_earlier(&self, dir: &Path, promotion: Promotion) -> Result<Promoted, SessionError> {
        match &self.to {
            Some(to) if *to == promotion.to => Ok(self.by_another(dir, promotion.to)),
            _ => Err(DiffError::Promoted {
                path: dir.to_owned(),
                to: promotion.to,
            }
            .into()),
        }
    }

    /// Reports what another process has done.
    fn by_another(&self, dir: &Path, to: PathBuf) -> Promoted {
        Promoted {
            version: VERSION,
            diff: dir.to_owned(),
            start: start_command(&to),
            directory: to,
            ..Promoted::default()
        }
    }

    fn of_clone_that_is_down(&self, dir: &Path) -> Result<Destination, SessionError> {
        if Binding::read(dir)?.is_none() {
            return Err(PromoteError::NoClone {
                dir: dir.to_owned(),
            }
            .into());
        }
        let Some(to) = self.to.clone() else {
            return Err(SessionError::usage(
                "the clone is down; name the data directory to create with --to DIR",
            ));
        };
        Ok(Destination {
            to,
            tablespaces: self.tablespaces.clone(),
        })
    }

    /// Says what it costs if the files cannot be linked.
    fn tell_cost(&self, dir: &Path, to: &Path) {
        let device = |path: &Path| {
            let dir = crate::untrusted::Dir::open(path).ok()?;
            Some(dir.stat_self().ok()?.id.0)
        };
        let parent = to.parent().unwrap_or(Path::new("/"));
        if let (Some(diff), Some(parent)) = (device(dir), device(parent))
            && diff != parent
        {
            tracing::warn!(
                "{} is on another file system than the diff, so all of it is copied while the \
                 server is down; choose a directory beside {} for a cut-over of a second",
                to.display(),
                dir.display()
            );
        }
    }

    fn cut_over(&self, destination: &Destination, done: &mut Promoted) -> Result<(), SessionError> {
        let (mut plan, held) = job_plan(self.plan, "promote")?;
        plan.diff_dir.clone_from(&self.plan.diff_dir);
        plan.postgres.launch = false;
        // The files are to be whole in the diff, which the kernel alone could not see to.
        plan.fuse.passthrough = Passthrough::Off;
        let mut job = CutOver {
            plan: self.plan,
            destination,
            signals: self.signals,
            jobs: self.jobs,
            done,
        };
        Up::of_job(&plan, self.profile, self.signals).run(Some(held), &mut job)
    }
}
