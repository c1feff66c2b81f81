//! The server: starting it, as often as it takes until its recovery ends at its target,
//! and stopping it. What only the WAL reveals is passed on to the next start.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::launch::Launch;
use super::layers::Layers;
use super::needs::ServerNeeds;
use super::settle::Settled;
use crate::image::Image;
use crate::overlay::Overlay;
use crate::server::{
    Enclosure, Goal, Limits, Outcome, Replay, Server, ServerConfig, ServerError, Setting, StopMode,
};
use crate::session::context::Context;
use crate::session::place::state::process_start;
use crate::session::recovery::meter::Meter;
use crate::session::recovery::{Recovery, limits, recovered, tablespace, wal_service};
use crate::session::{SessionError, fence};

/// A running server, shared by the code that watches it and the code that stops it.
pub type SharedServer = Rc<RefCell<Server>>;

/// A server that answers.
pub struct Running {
    /// The server.
    pub server: SharedServer,
    /// How far it had replayed when it first answered.
    pub replayed: Replay,
}

/// Starts the server on the mounted target, and waits until it answers. Returns `None`
/// if recovery was all that it had to do and it has shut itself down. The calling
/// thread must live as long as the process.
///
/// # Errors
/// If the server does not start, or does not reach its target.
pub fn start(
    context: &mut Context<'_>,
    needs: &ServerNeeds,
    layers: &Layers,
    settled: &Settled<'_>,
    passthrough: bool,
) -> Result<Option<Running>, SessionError> {
    wal_service::serve_session(context, needs)?;
    needs.level.log();
    let level = needs.level.to_string();
    context.progress.change(|state| state.fence = Some(level))?;
    let limits = of_host(context, needs)?;
    let target = context.progress.target();
    let launch = Launch {
        plan: context.plan,
        needs,
        layers,
        settled,
        mounted: &target,
        place: context.progress.place(),
        passthrough,
        limits,
    };
    let config = launch.config()?;
    let mut start = Start {
        context,
        settled,
        overlay: &layers.overlay,
        last: None,
    };
    let outcome = start.recover(&config);
    let last = start.last;
    let Some(replayed) = ended(context, layers, settled, outcome)? else {
        tracing::info!("the server has recovered and shut down, as recovery.action says");
        return Ok(None);
    };
    let Some(server) = last else {
        return Ok(None);
    };
    context.progress.change(|state| {
        let server = server.borrow();
        state.conninfo = Some(server.conninfo());
        state.port = Some(server.config().port);
    })?;
    Ok(Some(Running { server, replayed }))
}

/// Returns the server's limits. Their control group, if there is one, is recorded
/// and removed at the end.
fn of_host(context: &mut Context<'_>, needs: &ServerNeeds) -> Result<Limits, SessionError> {
    let place = context.progress.place();
    let limits = fence::limits(context.plan, &needs.level, place)?;
    if let Some(cgroup) = limits.cgroup.clone() {
        let made = Some(cgroup.clone());
        context.progress.change(|state| state.cgroup = made)?;
        let remove = move || fence::remove_cgroup(&cgroup);
        context.undo.push("the control group", remove);
    }
    Ok(limits)
}

/// Evaluates the outcome of the start: returns how far the server has replayed, or
/// `None` if it has shut down.
fn ended(
    context: &Context<'_>,
    layers: &Layers,
    settled: &Settled<'_>,
    outcome: Result<Outcome, SessionError>,
) -> Result<Option<Replay>, SessionError> {
    let clone = &settled.clone;
    match (outcome, settled.recovery) {
        (Err(SessionError::Server(ServerError::Interrupted)), _) => Err(SessionError::Interrupted),
        (Err(SessionError::Server(error)), Some(recovery)) => {
            Err(recovery.explain(error, &|| !context.signals.end_asked()))
        }
        (Err(error), _) => Err(error),
        (Ok(Outcome::ShutDown), _) => Ok(None),
        (Ok(Outcome::Ready(replay)), Some(recovery)) => {
            let wal_dir = layers.wal_dir.as_ref().map(|wal| &wal.dir);
            recovered::check_end(clone, wal_dir, recovery)?;
            recovered::reached(clone, recovery, &replay)?;
            if recovery.goal() == Goal::Paused && !replay.in_recovery {
                tracing::warn!(
                    "PostgreSQL was promoted at the target, although recovery.action is \
                     \"pause\": it did not accept connections there yet"
                );
            }
            Ok(Some(replay))
        }
        (Ok(Outcome::Ready(replay)), None) => {
            recovered::started(clone)?;
            Ok(Some(replay))
        }
    }
}

/// The starts of a server, and the server that was started last.
struct Start<'a, 'c> {
    context: &'a mut Context<'c>,
    settled: &'a Settled<'a>,
    overlay: &'a Arc<Overlay<Image>>,
    last: Option<SharedServer>,
}

impl Start<'_, '_> {
    /// Starts servers until one reaches its goal, or until none ever will.
    fn recover(&mut self, config: &ServerConfig) -> Result<Outcome, SessionError> {
        let signals = self.context.signals;
        let interrupted = || signals.end_asked();
        let clone = &self.settled.clone;
        let user = &self.context.plan.postgres.settings;
        let mut settings = config.settings.clone();
        limits::tell_overruled(user, &settings);
        tablespace::with_places(config.enclosure.clone(), &interrupted, |enclosure| {
            let control = || clone.control_file();
            limits::with_demanded(&mut settings, user, control, &interrupted, |settings| {
                self.run(config, enclosure.clone(), settings)
            })
        })
    }

    /// Starts a server and waits for it. One that pauses before its target is stopped.
    fn run(
        &mut self,
        config: &ServerConfig,
        enclosure: Option<Enclosure>,
        settings: &[Setting],
    ) -> Result<Outcome, SessionError> {
        let server = Server::start(ServerConfig {
            enclosure,
            settings: settings.to_vec(),
            ..config.clone()
        })?;
        let server = self.started(server)?;
        let recovery = self.settled.recovery;
        let signals = self.context.signals;
        let interrupted = || signals.end_asked();
        let postgres = &self.context.plan.postgres;
        let mut server = server.borrow_mut();
        let mut meter = Meter::new(recovery.map_or(String::new(), |r| r.target.to_string()));
        let waited = server.wait_for(
            recovery.map_or(Goal::Answer, Recovery::goal),
            postgres.start_timeout.0,
            &interrupted,
            &mut |replay| meter.show(replay),
        );
        if let Err(ServerError::Paused { .. }) = &waited {
            server.stop(StopMode::Fast, postgres.stop_timeout.0, &interrupted)?;
        }
        Ok(waited?)
    }

    /// Registers the server's shutdown, and records which process it is. From now on,
    /// any process that has to finish our work can find it: recovery may take long, and
    /// we may be killed meanwhile.
    fn started(&mut self, server: Server) -> Result<SharedServer, SessionError> {
        let pid = server.pid();
        let server = Rc::new(RefCell::new(server));
        self.last = Some(server.clone());
        stop_at_the_end(self.context, server.clone(), self.overlay.clone());
        self.context.progress.change(|state| {
            state.server_pid = Some(pid);
            state.server_start = process_start(pid);
        })?;
        Ok(server)
    }
}

/// Registers the server's shutdown. Dropping the last reference to the overlay unlocks
/// the diff. The server is stopped before that, because the mount, which holds the
/// overlay, is undone after it. If the server cannot be stopped, the diff stays locked.
fn stop_at_the_end(context: &mut Context<'_>, server: SharedServer, overlay: Arc<Overlay<Image>>) {
    let signals = context.signals.clone();
    let patience = context.plan.postgres.stop_timeout.0;
    context.undo.push("the server", move || {
        // What it would flush has gaps, which recovery fills.
        let hurry = || signals.hurry() || overlay.has_lost_writes();
        let stopped = stop(&server, patience, &hurry);
        stopped.inspect_err(|_| std::mem::forget(overlay))
    });
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
