//! The order in which a session is set up, and undone in reverse.

use super::SessionError;
use super::context::{Context, Up};
use super::job::{Account, Job, Live, Needs, Running, Then};
use super::locks::lock_chain;
use super::outside::{down, metrics, orphans, status};
use super::place::state::Phase;
use super::place::{HeldPlace, Place, canonical};
use super::steps::needs::ServerNeeds;
use super::steps::resolve::{Resolved, resolve};
use super::steps::settle::Settled;
use super::steps::{layers, mount, server, target};
use crate::causes::sentence;

impl Up<'_> {
    /// Sets everything up, lets the job do its work, and undoes everything. Whatever
    /// fails, everything that was set up is undone. `place` is the target's, if it is
    /// already held. Must be called from the main thread, because the server is tied to
    /// the thread that starts it.
    ///
    /// # Errors
    /// If the session cannot be set up, fails, or cannot be undone.
    pub fn run(&self, place: Option<HeldPlace>, job: &mut dyn Job) -> Result<(), SessionError> {
        let target = canonical(&self.plan.target);
        let place = place.map_or_else(|| Place::of(&target).hold(&target), Ok)?;
        // Do this before this session's state overwrites that of a dead one: if it
        // fails, the old state is kept, and the cleanup can be completed later.
        down::finish_left(&place, &target)?;
        let mut context = Context::new(self, place, &target);
        let outcome = match set_up(&mut context, job) {
            Ok(Some(running)) => serve(&context, &running, job),
            Ok(None) => context.stop_if_asked(),
            Err(error) => Err(error),
        };
        // Lost writes are the reason if the server died.
        let outcome = context.check_writes().and(outcome);
        let progress = &context.progress;
        if let Some(overlay) = context.overlay.take() {
            job.ending(&Account {
                counts: metrics::read(&overlay),
                backup_bytes: overlay.lower().counters().bytes.get(),
                diff_bytes: status::diff_bytes(&progress.state()).unwrap_or_default(),
            });
        }
        let was_ready = progress.state().phase == Phase::Ready;
        if let Err(error) = progress.change(|state| state.phase = Phase::Stopping) {
            // Only `status` would have shown that phase.
            tracing::debug!("{error}");
        }
        let undone = context.undo.run();
        let result = outcome.and(undone);
        match &result {
            Err(error) if self.detached && was_ready => progress.change(|state| {
                state.phase = Phase::Failed;
                state.error = Some(error.to_string());
            })?,
            _ => progress.place().remove()?,
        }
        result
    }
}

/// Runs the steps, each of which registers its undo with the context. Returns `None`
/// if the work is already done: on the locked chain, or by a server that has
/// recovered and shut down.
fn set_up(context: &mut Context<'_>, job: &mut dyn Job) -> Result<Option<Running>, SessionError> {
    let plan = context.plan;
    if job.needs() == Needs::Mount {
        let target = context.progress.target();
        target::check(&target)?;
        target::check_safe(&plan.target, target::owner(plan)?)?;
        orphans::remove_of(&target);
    }
    let (resolved, needs) = match find_and_lock(context, job) {
        // The wait was for a merge, so the chain has changed.
        Err(error @ SessionError::BackupGone { .. }) => {
            tracing::warn!("looking for the backup again: {}", sentence(&error));
            find_and_lock(context, job)
        }
        found => found,
    }?;
    context.stop_if_asked()?;
    if job.locked(&resolved)? == Then::End {
        return Ok(None);
    }
    let needs = needs?;
    context.stop_if_asked()?;
    let layers = layers::open(context, &resolved, needs.as_ref())?;
    context.stop_if_asked()?;
    if job.opened(&resolved, &layers.overlay)? == Then::End {
        return Ok(None);
    }
    let settle = |needs| Settled::new(plan, needs, &layers.overlay);
    let settled = needs.as_ref().map(settle).transpose()?;
    let mount = mount::mount(context, &resolved, &layers.overlay)?;
    let (Some(needs), Some(settled)) = (&needs, &settled) else {
        return Ok(Some(Running {
            mount,
            server: None,
        }));
    };
    let passthrough = mount.borrow().passes_through();
    let server = server::start(context, needs, &layers, settled, passthrough)?;
    Ok(server.map(|server| Running {
        mount,
        server: Some(server),
    }))
}

/// Finds the chain and what a server on it needs, if there is to be one, and locks the
/// chain. If the job checks the backup first, whatever keeps a server from being
/// started is reported only later.
fn find_and_lock(
    context: &mut Context<'_>,
    job: &dyn Job,
) -> Result<(Resolved, Result<Option<ServerNeeds>, SessionError>), SessionError> {
    let plan = context.plan;
    let resolved = resolve(plan, &|| !context.signals.end_asked())?;
    let find = || ServerNeeds::find(plan, &resolved);
    let needs = plan.postgres.launch.then(find).transpose();
    let needs = match needs {
        Err(error) if !job.checks_backup() => return Err(error),
        needs => needs,
    };
    lock_chain(context, &resolved)?;
    context.progress.change(|state| {
        let ids = resolved.chain.ids();
        state.backup = resolved.chain.target().id.to_string();
        tracing::Span::current().record("backup", &state.backup);
        state.chain = ids.iter().map(ToString::to_string).collect();
    })?;
    Ok((resolved, needs))
}

/// Lets the job do its work.
fn serve(context: &Context<'_>, running: &Running, job: &mut dyn Job) -> Result<(), SessionError> {
    context.stop_if_asked()?;
    context
        .progress
        .change(|state| state.phase = Phase::Ready)?;
    job.ready(&Live { context, running })
}
