//! The order of set-up, and its reverse.

use std::cell::{Ref, RefCell};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::clone::{Clone, Settled};
use super::fence::{self, FenceLevel};
use super::job::{Account, Job, Live, Needs, Then, check_writes};
use super::locking::lock_chain;
use super::mounting::{self, SharedMount};
use super::place::{HeldPlace, Place, canonical};
use super::postgres::{Preparation, SharedServer, Start, Started};
use super::ready::Ready;
use super::resolve::{Resolved, resolve};
use super::state::{Phase, State, process_start};
use super::undo::Undo;
use super::{SessionError, Signals, down, layers, metrics, orphans, status, target, wal_service};
use crate::causes::sentence;
use crate::image::Image;
use crate::overlay::Overlay;
use crate::profile::Plan;
use crate::server::{Limits, Replay, Server, StopMode};

/// What a session is to be.
pub struct Up<'a> {
    /// The checked profile.
    pub plan: &'a Plan,
    /// Whether the mount takes no writes; there is no diff then.
    pub read_only: bool,
    /// The profile's path, for `status`.
    pub profile: Option<&'a Path>,
    /// The signals that end it.
    pub signals: &'a Signals,
    /// Whether it runs in the background: a failure after it was ready is
    /// kept for `status` then, as nobody reads its output.
    pub detached: bool,
}

/// How far a session is, written down for others at each change.
pub struct Progress {
    place: HeldPlace,
    state: RefCell<State>,
}

impl Progress {
    /// Changes the state and writes it down.
    pub fn change(&self, change: impl FnOnce(&mut State)) -> Result<(), SessionError> {
        let mut state = self.state.borrow_mut();
        change(&mut state);
        state.write(&self.place)
    }

    /// The mount point, canonical.
    pub fn target(&self) -> PathBuf {
        self.state().target.clone()
    }

    /// The session's directory.
    pub fn place(&self) -> &HeldPlace {
        &self.place
    }

    /// What there is to tell when it is ready.
    pub fn told(&self) -> Ready {
        Ready::of(&self.state())
    }

    /// All of it.
    pub fn state(&self) -> Ref<'_, State> {
        self.state.borrow()
    }
}

/// What supervision watches.
#[derive(Default)]
pub struct Running {
    pub(super) mount: Option<SharedMount>,
    pub(super) server: Option<SharedServer>,
    /// How far the server had replayed when it was ready.
    pub(super) replayed: Option<Replay>,
    pub(super) overlay: Option<Arc<Overlay<Image>>>,
    /// Whether the work is done already, and nothing is left to wait for.
    done: bool,
}

impl Up<'_> {
    /// Sets everything up, lets the job do its work, and undoes everything;
    /// whatever fails, what was set up is undone. `place` is the target's, if it is
    /// held already. To be called from the main thread: the server is tied to the
    /// thread that starts it.
    ///
    /// # Errors
    /// What kept the session from being set up or ended it, or could not be undone.
    pub fn run(&self, place: Option<HeldPlace>, job: &mut dyn Job) -> Result<(), SessionError> {
        let target = canonical(&self.plan.target);
        let place = place.map_or_else(|| Place::of(&target).hold(&target), Ok)?;
        // Before this session's own state takes the place of what a dead one
        // left: if this fails, that stays known, and can be tried again.
        down::finish_left(&place, &target)?;
        let progress = Progress {
            place,
            state: RefCell::new(self.first_state(&target)),
        };
        let mut undo = Undo::default();
        let mut running = Running::default();
        let outcome = self
            .set_up(&progress, &mut undo, &mut running, job)
            .and_then(|()| self.serve(&progress, &running, job));
        // That is why the server died, if it did.
        let outcome = check_writes(&progress, &running).and(outcome);
        if let Some(overlay) = running.overlay.take() {
            job.ending(&Account {
                counts: metrics::read(&overlay),
                backup_bytes: overlay.lower().counters().bytes.get(),
                diff_bytes: status::diff_bytes(&progress.state()).unwrap_or_default(),
            });
        }
        let was_ready = progress.state().phase == Phase::Ready;
        if let Err(error) = progress.change(|state| state.phase = Phase::Stopping) {
            // Only `status` would have shown it.
            tracing::debug!("{error}");
        }
        let undone = undo.run();
        let result = outcome.and(undone);
        match &result {
            Err(error) if self.detached && was_ready => progress.change(|state| {
                state.phase = Phase::Failed;
                state.error = Some(error.to_string());
            })?,
            _ => progress.place.remove()?,
        }
        result
    }

    fn first_state(&self, target: &Path) -> State {
        let plan = self.plan;
        let mut state = State::begin(target);
        // So that it can be named from any directory.
        state.profile = self
            .profile
            .map(|path| std::path::absolute(path).unwrap_or(path.to_owned()));
        state.catalog.clone_from(&plan.catalog);
        state.instance.clone_from(&plan.instance);
        state.diff_dir = plan.diff_dir.clone().filter(|_| !self.read_only);
        state.throw_away = plan.diff_dir.is_none() && !self.read_only;
        state.with_server = plan.postgres.launch;
        state
    }

    fn set_up<'u>(
        &self,
        progress: &Progress,
        undo: &mut Undo<'u>,
        running: &mut Running,
        job: &mut dyn Job,
    ) -> Result<(), SessionError>
    where
        Self: 'u,
    {
        if job.needs() == Needs::Mount {
            target::check(&progress.target())?;
            target::check_safe(&self.plan.target, layers::owner(self.plan)?)?;
            orphans::remove_of(&progress.target());
        }
        let (resolved, prepared) = match self.find_and_lock(job, progress, undo) {
            // What was waited for was a merge, so there is another chain now.
            Err(error @ SessionError::BackupGone { .. }) => {
                tracing::warn!("looking for the backup again: {}", sentence(&error));
                self.find_and_lock(job, progress, undo)
            }
            found => found,
        }?;
        progress.change(|state| {
            let ids = resolved.chain.ids();
            state.backup = resolved.chain.target().id.to_string();
            tracing::Span::current().record("backup", &state.backup);
            state.chain = ids.iter().map(ToString::to_string).collect();
        })?;
        self.stop_if_asked()?;
        if job.locked(&resolved)? == Then::End {
            running.done = true;
            return Ok(());
        }
        let mut preparation = prepared?;
        self.stop_if_asked()?;
        let overlay = layers::open(self, &resolved, preparation.as_mut(), progress, undo)?;
        running.overlay = Some(overlay.clone());
        self.stop_if_asked()?;
        // Before the mount: what changes in here, the kernel would not know of.
        let settled = match &preparation {
            Some(prepared) => {
                let clone = Clone::new(self.plan, &overlay, prepared.run_as.as_ref());
                let wanted = prepared.recovery.as_ref();
                Some(Settled::new(self.plan, clone, wanted, &prepared.binaries)?)
            }
            None => None,
        };
        let mount = mounting::mount(self, overlay.clone(), progress, undo)?;
        running.mount = Some(mount);
        match (&preparation, &settled) {
            (Some(preparation), Some(settled)) => {
                self.start_server(preparation, settled, progress, undo, running)
            }
            _ => Ok(()),
        }
    }

    fn stop_if_asked(&self) -> Result<(), SessionError> {
        if self.signals.end_asked() {
            Err(SessionError::Interrupted)
        } else {
            Ok(())
        }
    }

    /// Finds the chain and locks it. What keeps a server from being started on
    /// it is told later where the job wants to look at the backup first.
    fn find_and_lock(
        &self,
        job: &dyn Job,
        progress: &Progress,
        undo: &mut Undo<'_>,
    ) -> Result<(Resolved, Result<Option<Preparation>, SessionError>), SessionError> {
        let resolved = resolve(self.plan, &|| !self.signals.end_asked())?;
        let prepare = || Preparation::new(self.plan, &resolved);
        let prepared = self.plan.postgres.launch.then(prepare).transpose();
        let prepared = match prepared {
            Err(error) if !job.checks_backup() => return Err(error),
            prepared => prepared,
        };
        lock_chain(self, &resolved, progress, undo)?;
        Ok((resolved, prepared))
    }

    fn start_server<'u>(
        &self,
        preparation: &Preparation,
        settled: &Settled<'_>,
        progress: &Progress,
        undo: &mut Undo<'u>,
        running: &mut Running,
    ) -> Result<(), SessionError>
    where
        Self: 'u,
    {
        wal_service::serve_session(preparation, progress, undo)?;
        preparation.level.tell();
        progress.change(|state| state.fence = Some(preparation.level.to_string()))?;
        let limits = self.limits(&preparation.level, progress, undo)?;
        let mut started = |server: Server| {
            let pid = server.pid();
            let server: SharedServer = Rc::new(RefCell::new(server));
            running.server = Some(server.clone());
            self.stop_at_the_end(server.clone(), running.overlay.clone(), undo);
            // Known from now on to whoever has to finish our work: recovery
            // may take long, and we may be killed meanwhile.
            progress.change(|state| {
                state.server_pid = Some(pid);
                state.server_start = process_start(pid);
            })?;
            Ok(server)
        };
        let mount = running.mount.as_ref();
        let target = progress.target();
        let start = Start {
            plan: self.plan,
            mounted: &target,
            place: progress.place(),
            settled,
            passthrough: mount.is_some_and(|mount| mount.borrow().passes_through()),
            limits,
            signals: self.signals,
        };
        let outcome = preparation.start(start, &mut started)?;
        match outcome {
            Started::Running(replayed) => running.replayed = Some(replayed),
            Started::ShutDown => {
                tracing::info!("the server has recovered and shut down, as recovery.action says");
                running.done = true;
                return Ok(());
            }
        }
        let Some(server) = &running.server else {
            return Ok(());
        };
        let server = server.borrow();
        progress.change(|state| {
            state.conninfo = Some(server.conninfo());
            state.port = Some(server.config().port);
        })
    }

    /// Whoever drops the overlay unlocks the diff. The server is stopped before
    /// that, as the mount, which has the overlay, is undone after it. If it cannot
    /// be stopped, the diff stays locked.
    fn stop_at_the_end<'u>(
        &self,
        server: SharedServer,
        overlay: Option<Arc<Overlay<Image>>>,
        undo: &mut Undo<'u>,
    ) where
        Self: 'u,
    {
        let (signals, patience) = (self.signals.clone(), self.plan.postgres.stop_timeout.0);
        undo.push("the server", move || {
            // What it would flush has gaps; recovery fills them.
            let lost = || overlay.as_ref().is_some_and(|o| o.has_lost_writes());
            let stopped = stop(&server, patience, &|| signals.hurry() || lost());
            stopped.inspect_err(|_| std::mem::forget(overlay))
        });
    }

    /// The server's limits, with the control group that they may take.
    fn limits(
        &self,
        level: &FenceLevel,
        progress: &Progress,
        undo: &mut Undo<'_>,
    ) -> Result<Limits, SessionError> {
        let limits = fence::limits(self.plan, level, progress.place())?;
        if let Some(cgroup) = limits.cgroup.clone() {
            progress.change(|state| state.cgroup = Some(cgroup.clone()))?;
            undo.push("the control group", move || fence::remove_cgroup(&cgroup));
        }
        Ok(limits)
    }

    /// Lets the job do its work, unless there is none left.
    fn serve(
        &self,
        progress: &Progress,
        running: &Running,
        job: &mut dyn Job,
    ) -> Result<(), SessionError> {
        self.stop_if_asked()?;
        if running.done {
            return Ok(());
        }
        progress.change(|state| state.phase = Phase::Ready)?;
        job.ready(&Live {
            progress,
            running,
            signals: self.signals,
        })
    }
}

fn stop(
    server: &SharedServer,
    patience: Duration,
    hurry: &dyn Fn() -> bool,
) -> Result<(), SessionError> {
    let mode = if hurry() {
        StopMode::Immediate
    } else {
        StopMode::Fast
    };
    let mut server = server.borrow_mut();
    if server.try_wait()?.is_some() {
        return Ok(());
    }
    let stopped = server.stop(mode, patience, hurry)?;
    if stopped.is_clean() {
        tracing::info!("PostgreSQL was stopped");
    } else {
        tracing::warn!(
            "PostgreSQL did not stop cleanly ({}); it will recover at the next start",
            stopped.status
        );
    }
    Ok(())
}
