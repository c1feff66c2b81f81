//! The order of a session's set-up, and its reverse.

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
        let mut context = Context::new(self, place, &target);
        let outcome = match set_up(&mut context, job) {
            Ok(Some(running)) => serve(&context, &running, job),
            Ok(None) => context.stop_if_asked(),
            Err(error) => Err(error),
        };
        // That is why the server died, if it did.
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
            // Only `status` would have shown it.
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

/// The steps. Each registers its undoing with the context. `None` if the work is done
/// already: at the locked chain, or by a server that has recovered and shut down.
fn set_up(context: &mut Context<'_>, job: &mut dyn Job) -> Result<Option<Running>, SessionError> {
    let plan = context.plan;
    if job.needs() == Needs::Mount {
        let target = context.progress.target();
        target::check(&target)?;
        target::check_safe(&plan.target, target::owner(plan)?)?;
        orphans::remove_of(&target);
    }
    let (resolved, needs) = match find_and_lock(context, job) {
        // What was waited for was a merge, so there is another chain now.
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
    let settle = |needs| Settled::new(plan, needs, &layers.overlay);
    let settled = needs.as_ref().map(settle).transpose()?;
    let mount = mount::mount(context, &layers.overlay)?;
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

/// Finds the chain, and what a server on it needs, if there is to be one, and locks the
/// chain. What keeps a server from being started is told later where the job wants to
/// look at the backup first.
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
