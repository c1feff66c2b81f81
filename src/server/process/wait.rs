//! Waiting for a starting server, through its recovery if it has one.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use super::at_target::{PAUSED, SHUT_DOWN};
use super::ready::{self, Answer, Probe, Replay};
use super::{DATABASE, POLL, Server, StopMode, TAIL_LINES};
use crate::pg::Lsn;
use crate::server::error::{ServerError, missing_locale};

/// How long is waited between two queries about the recovery.
const ASK: Duration = Duration::from_millis(200);

/// How long is waited between two attempts to connect, at first. Each leaves a
/// line in the server's log, so the pauses get longer.
const FIRST_PAUSE: Duration = Duration::from_millis(20);

/// The longest pause for a server that only has to start.
const LONGEST_START: Duration = Duration::from_millis(250);

/// The longest pause for one that replays an archive.
const LONGEST_RECOVERY: Duration = Duration::from_secs(2);

/// What is awaited of a starting server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// That it answers a query.
    Answer,
    /// That it has ended its recovery.
    Promoted,
    /// That its recovery waits at the target.
    Paused,
    /// That it shut itself down at the target.
    ShutDown,
}

/// How the goal was reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The server answers.
    Ready(Replay),
    /// The server has ended, as it was told to.
    ShutDown,
}

impl Server {
    /// Waits until the server has reached `goal`, and checks that it has the
    /// data directory and the archive mode that it was started with. The
    /// `timeout` begins anew whenever its recovery gets on; `progress` is told
    /// how far that is.
    ///
    /// # Errors
    /// The server ended, refuses us, does not answer or get on in time, or is
    /// not fenced off (it is stopped then); `interrupted` said so. In all
    /// other cases it is left as it is, for the caller to stop.
    pub fn wait_for(
        &mut self,
        goal: Goal,
        timeout: Duration,
        interrupted: &dyn Fn() -> bool,
        progress: &mut dyn FnMut(&Replay),
    ) -> Result<Outcome, ServerError> {
        let config = self.config();
        let grows = config.wal_dir.as_ref().unwrap_or(&config.log_file);
        let mut patience = Patience::new(timeout, grows.clone());
        let mut probe: Option<Probe> = None;
        let mut ask_from = Instant::now();
        let mut pause = FIRST_PAUSE;
        let mut last = None;
        loop {
            if let Some(outcome) = self.ended(goal)? {
                return Ok(outcome);
            }
            if interrupted() {
                return Err(ServerError::Interrupted);
            }
            match probe.as_ref().map(Probe::poll) {
                Some(Some(Ok(answer))) => {
                    self.check_fence(&answer)?;
                    if self.is_reached(goal, &answer.replay)? {
                        for beaten in &answer.beaten {
                            tracing::warn!(
                                "ALTER ROLE or ALTER DATABASE overrides settings of the clone: {beaten}"
                            );
                        }
                        return Ok(Outcome::Ready(answer.replay));
                    }
                    progress(&answer.replay);
                    patience.replayed(answer.replay.lsn);
                    (probe, ask_from) = (None, Instant::now() + ASK);
                }
                Some(Some(Err(error))) if ready::is_final(&error) => {
                    if let Some(locale) = missing_locale(&error) {
                        let database = DATABASE.to_owned();
                        return Err(ServerError::MissingLocale { database, locale });
                    }
                    return Err(ServerError::Refused {
                        role: self.config().role.clone(),
                        source: error,
                        log: self.log_tail(TAIL_LINES),
                    });
                }
                Some(Some(Err(error))) => {
                    last = Some(crate::server::error::message(&error));
                    (probe, ask_from) = (None, Instant::now() + pause);
                    pause = longer(pause, goal);
                }
                Some(None) => {}
                None if Instant::now() >= ask_from => {
                    probe = Some(Probe::start(self.client_config(), self.options()));
                }
                None => {}
            }
            if patience.is_over(goal) {
                let log = self.log_tail(TAIL_LINES);
                return Err(ServerError::NotReady { timeout, last, log });
            }
            thread::sleep(POLL);
        }
    }

    /// What the server's end says, if it has ended: that the goal is reached, or an
    /// error.
    fn ended(&mut self, goal: Goal) -> Result<Option<Outcome>, ServerError> {
        match self.try_wait()? {
            None => Ok(None),
            // A signal ends it with success, too.
            Some(status)
                if goal == Goal::ShutDown && status.success() && self.has_said(SHUT_DOWN) =>
            {
                Ok(Some(Outcome::ShutDown))
            }
            Some(status) => {
                let log = self.log_tail(TAIL_LINES);
                Err(ServerError::Died { status, log })
            }
        }
    }

    fn options(&self) -> Vec<String> {
        let settings = self.config().settings.iter();
        settings.map(|setting| setting.name.clone()).collect()
    }

    /// Whether the goal is reached; the one place that decides it of a server that
    /// answers.
    fn is_reached(&self, goal: Goal, replay: &Replay) -> Result<bool, ServerError> {
        let is_at_target = || goal == Goal::Paused && self.has_said(PAUSED);
        match goal {
            Goal::Answer => Ok(true),
            Goal::Promoted | Goal::Paused | Goal::ShutDown if replay.paused => {
                match is_at_target() {
                    true => Ok(true),
                    false => Err(ServerError::Paused {
                        log: self.log_tail(TAIL_LINES),
                    }),
                }
            }
            // At a target where nobody could connect yet, PostgreSQL promotes.
            Goal::Promoted | Goal::Paused => Ok(!replay.in_recovery),
            Goal::ShutDown => Ok(false),
        }
    }

    fn check_fence(&mut self, answer: &Answer) -> Result<(), ServerError> {
        let found = PathBuf::from(&answer.data_directory);
        let wanted = &self.config().data_directory;
        let settings = self.config().settings.iter();
        let archive_mode = settings
            .rev()
            .find(|setting| setting.name == "archive_mode")
            .map_or("off", |setting| &setting.value);
        let is_same = |a: &Path, b: &Path| {
            a == b || matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
        };
        let error = if !is_same(&found, wanted) {
            ServerError::NotFenced {
                name: "data_directory",
                expected: wanted.display().to_string(),
                found: answer.data_directory.clone(),
            }
        } else if answer.archive_mode != archive_mode {
            ServerError::NotFenced {
                name: "archive_mode",
                expected: archive_mode.to_owned(),
                found: answer.archive_mode.clone(),
            }
        } else {
            return Ok(());
        };
        self.stop(StopMode::Immediate, Duration::from_secs(10), &|| false)?;
        Err(error)
    }
}

fn longer(pause: Duration, goal: Goal) -> Duration {
    let longest = match goal {
        Goal::Answer => LONGEST_START,
        Goal::Promoted | Goal::Paused | Goal::ShutDown => LONGEST_RECOVERY,
    };
    (pause * 3 / 2).min(longest)
}

/// How much longer is waited. Before a recovering server takes connections,
/// the files that come and go in its WAL directory show that it gets on, or the
/// lines of its log. The data directory is not looked into: it may be a mount
/// that this very process serves (see [`ready`]).
struct Patience {
    timeout: Duration,
    deadline: Instant,
    grows: PathBuf,
    changed: Option<SystemTime>,
    replayed: Option<Lsn>,
}

impl Patience {
    fn new(timeout: Duration, grows: PathBuf) -> Self {
        Self {
            timeout,
            deadline: Instant::now() + timeout,
            grows,
            changed: None,
            replayed: None,
        }
    }

    fn replayed(&mut self, lsn: Option<Lsn>) {
        if lsn > self.replayed {
            self.replayed = lsn;
            self.deadline = Instant::now() + self.timeout;
        }
    }

    fn is_over(&mut self, goal: Goal) -> bool {
        if Instant::now() < self.deadline {
            return false;
        }
        let changed = fs::metadata(&self.grows)
            .and_then(|meta| meta.modified())
            .ok();
        if goal == Goal::Answer || changed <= self.changed {
            return true;
        }
        self.changed = changed;
        self.deadline = Instant::now() + self.timeout;
        false
    }
}
