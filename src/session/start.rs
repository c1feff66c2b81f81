//! Starting the server, as often as it takes until its recovery is where it was told to
//! end: what only the WAL knows of is given to the next start.

use super::meter::Meter;
use super::postgres::{Preparation, SharedServer, Start, Started};
use super::recovery::Recovery;
use super::{SessionError, limits, recovered, tablespace};
use crate::server::{
    Enclosure, Goal, Outcome, Server, ServerConfig, ServerError, Setting, StopMode,
};

/// Told of each server that is started, and gives it back to be shared.
type Tell<'t> = &'t mut dyn FnMut(Server) -> Result<SharedServer, SessionError>;

impl Preparation {
    /// Starts the server on the mounted target and waits until it answers, or
    /// has done in recovery what it was to do. The calling thread must live as
    /// long as the process.
    pub fn start(&self, start: Start<'_>, started: Tell<'_>) -> Result<Started, SessionError> {
        let (clone, recovery) = (&start.settled.clone, start.settled.recovery);
        let config = self.config(&start)?;
        match (start.recover(&config, started), recovery) {
            (Err(SessionError::Server(ServerError::Interrupted)), _) => {
                Err(SessionError::Interrupted)
            }
            (Err(SessionError::Server(error)), Some(recovery)) => {
                Err(recovery.explain(error, &|| !start.signals.end_asked()))
            }
            (Err(error), _) => Err(error),
            (Ok(Outcome::ShutDown), _) => Ok(Started::ShutDown),
            (Ok(Outcome::Ready(replay)), Some(recovery)) => {
                let wal_dir = self.wal_dir.as_ref().map(|wal| &wal.dir);
                recovered::check_end(clone, wal_dir, recovery)?;
                recovered::reached(clone, recovery, &replay)?;
                if recovery.goal() == Goal::Paused && !replay.in_recovery {
                    tracing::warn!(
                        "PostgreSQL was promoted at the target, though recovery.action is \
                         \"pause\": nobody could have connected there yet"
                    );
                }
                Ok(Started::Running(replay))
            }
            (Ok(Outcome::Ready(replay)), None) => {
                recovered::started(clone)?;
                Ok(Started::Running(replay))
            }
        }
    }
}

impl Start<'_> {
    /// Starts servers until one reaches its goal, or none will.
    fn recover(&self, config: &ServerConfig, started: Tell<'_>) -> Result<Outcome, SessionError> {
        let interrupted = || self.signals.end_asked();
        let (clone, user) = (&self.settled.clone, &self.plan.postgres.settings);
        let mut settings = config.settings.clone();
        limits::tell_overruled(user, &settings);
        tablespace::with_places(config.enclosure.clone(), &interrupted, |enclosure| {
            let control = || clone.control_file();
            limits::with_demanded(&mut settings, user, control, &interrupted, |settings| {
                self.run(config, enclosure.clone(), settings, started)
            })
        })
    }

    /// Starts one, and waits for it. One that pauses before its target is stopped.
    fn run(
        &self,
        config: &ServerConfig,
        enclosure: Option<Enclosure>,
        settings: &[Setting],
        started: Tell<'_>,
    ) -> Result<Outcome, SessionError> {
        let recovery = self.settled.recovery;
        let interrupted = || self.signals.end_asked();
        let server = started(Server::start(ServerConfig {
            enclosure,
            settings: settings.to_vec(),
            ..config.clone()
        })?)?;
        let mut server = server.borrow_mut();
        let mut meter = Meter::new(recovery.map_or(String::new(), |r| r.target.to_string()));
        let waited = server.wait_for(
            recovery.map_or(Goal::Answer, Recovery::goal),
            self.plan.postgres.start_timeout.0,
            &interrupted,
            &mut |replay| meter.show(replay),
        );
        if let Err(ServerError::Paused { .. }) = &waited {
            let patience = self.plan.postgres.stop_timeout.0;
            server.stop(StopMode::Fast, patience, &interrupted)?;
        }
        Ok(waited?)
    }
}
