//! Waiting for a starting server, through its recovery if it has one.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use super::at_target::{PAUSED, SHUT_DOWN};
use super::ready::{self, Probe, Replay, SelfReport};
use super::{DATABASE, POLL, Server, StopMode, TAIL_LINES};
use crate::pg::Lsn;
use crate::server::error::{ServerError, missing_locale};

/// Pause between two queries about the recovery.
const ASK: Duration = Duration::from_millis(200);

/// First pause between two attempts to connect. Each attempt leaves a line in the
/// server's log, so the pauses increase.
const FIRST_PAUSE: Duration = Duration::from_millis(20);

/// The longest pause for a server that only has to start.
const LONGEST_START: Duration = Duration::from_millis(250);

/// The longest pause for one that replays an archive.
const LONGEST_RECOVERY: Duration = Duration::from_secs(2);

/// The state to wait for in a starting server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// It answers a query.
    Answer,
    /// It has finished its recovery.
    Promoted,
    /// Its recovery is paused at the target.
    Paused,
    /// It shut itself down at the target.
    ShutDown,
}

/// How the goal was reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The server answers.
    Ready(Replay),
    /// The server has shut down, as requested.
    ShutDown,
}

impl Server {
    /// Waits until the server has reached `goal`, and checks that it has the data
    /// directory and the archive mode that it was started with. The `timeout`
    /// restarts whenever recovery makes progress, which is reported to `progress`.
    ///
    /// # Errors
    /// If the server exited, refuses pbkfs, does not answer or make progress in time,
    /// or is not fenced, or if `interrupted` returns true. A server that is not
    /// fenced is stopped; any other is left as it is, for the caller to stop.
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

    /// Judges the server's exit, if it has exited: the goal is reached, or it is an
    /// error.
    fn ended(&mut self, goal: Goal) -> Result<Option<Outcome>, ServerError> {
        match self.try_wait()? {
            None => Ok(None),
            // A server that a signal shut down also exits with success.
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

    /// Returns whether a server that answers has reached the goal. This is decided
    /// nowhere else.
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
            // If nobody could connect yet at the target, PostgreSQL promotes instead
            // of pausing.
            Goal::Promoted | Goal::Paused => Ok(!replay.in_recovery),
            Goal::ShutDown => Ok(false),
        }
    }

    fn check_fence(&mut self, answer: &SelfReport) -> Result<(), ServerError> {
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

/// How much longer to wait. Before a recovering server accepts connections, its
/// progress shows in the files that come and go in its WAL directory, or in the lines
/// of its log. The data directory is not accessed: it may be a mount that this very
/// process serves (see [`ready`]).
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
