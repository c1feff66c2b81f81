//! Hydrating a clone that runs. Its session does the work; this asks for it and waits.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::wanted::Promote;
use crate::diff::{DiffLock, Promotion};
use crate::session::{self, Condition, Destination, HydrationState, PromoteError, SessionError};

/// How often the session is asked how far it is.
const POLL: Duration = Duration::from_millis(200);

/// How long nobody may use the diff of a clone that was stopped, before nobody is taken
/// to be cutting over: finding the backup again takes a moment.
const QUIET: Duration = Duration::from_secs(10);

/// The clone of a promotion, as long as its session runs.
pub struct Live<'a> {
    promote: &'a Promote<'a>,
}

/// What follows when a clone is hydrated.
pub enum Then {
    /// The cut-over, by this process.
    CutOver(Destination),
    /// Nothing: another process has done the cut-over.
    Done(PathBuf),
}

impl<'a> Live<'a> {
    /// Returns the clone of the profile if its session runs.
    ///
    /// # Errors
    /// If the session's state cannot be read; if it is another user's, or is not ready.
    pub fn find(promote: &'a Promote<'a>) -> Result<Option<Self>, SessionError> {
        let live = Self { promote };
        let Some(session) = session::session_of(live.target())? else {
            return Ok(None);
        };
        if let Some(user) = session.user {
            let why = format!("it is user {user}'s; run pbkfs promote as that user");
            return Err(live.refused(why));
        }
        match session.condition {
            // Nothing of it works any more. What it has left is cleared away later.
            over if over.is_over() => Ok(None),
            Condition::Starting | Condition::Stopping => Err(live.refused(format!(
                "it is {}; try again in a moment",
                session.condition.word()
            ))),
            _ if session.state.diff_dir != promote.plan.diff_dir => {
                Err(live.refused("it was started with another diff_dir than the profile has now"))
            }
            _ => Ok(Some(live)),
        }
    }

    /// Lets the session bring the backup into the diff, and waits until it has, and until
    /// the cut-over is wanted.
    ///
    /// # Errors
    /// If the clone cannot be promoted, or ends; if the backup or the diff fails; if a
    /// signal arrives. The clone goes on then.
    pub fn hydrate(&self) -> Result<Then, SessionError> {
        let promote = self.promote;
        let wanted = promote.to.as_ref().map(|to| Destination {
            to: to.clone(),
            tablespaces: promote.tablespaces.clone(),
        });
        let begun = session::hydrate(self.target(), promote.rate, wanted.as_ref());
        let mut now = begun.map_err(|error| self.refused(error.to_string()))?;
        let mut is_told = false;
        loop {
            (promote.progress)(&now);
            match now.state {
                HydrationState::Complete if promote.at_once => {
                    return Ok(Then::CutOver(now.destination));
                }
                HydrationState::Complete if !is_told => {
                    is_told = true;
                    (promote.say)(
                        "all of the backup is in the diff, and the clone goes on; \
                         pbkfs promote --finish cuts over, Ctrl-C leaves it as it is",
                    );
                }
                HydrationState::Failed => {
                    let reason = now.error.unwrap_or_default();
                    return Err(PromoteError::Hydration { reason }.into());
                }
                HydrationState::Stopped => return Err(PromoteError::Stopped.into()),
                HydrationState::Running | HydrationState::Complete => {}
            }
            if promote.signals.end_asked() {
                // A clone that is hydrated loses nothing by this.
                let _ = session::stop_hydration(self.target());
                return Err(PromoteError::Stopped.into());
            }
            thread::sleep(POLL);
            now = match session::hydration(self.target()) {
                Ok(Some(now)) => now,
                _ => return self.ended(),
            };
        }
    }

    /// Finds out how a session ended that no longer answers: another process may have
    /// finished the promotion.
    fn ended(&self) -> Result<Then, SessionError> {
        let Some(dir) = self.promote.plan.diff_dir.as_deref() else {
            return Err(self.gone());
        };
        let mut last_use = Instant::now();
        while last_use.elapsed() < QUIET {
            if let Some(Promotion {
                to, complete: true, ..
            }) = Promotion::read(dir)?
            {
                return Ok(Then::Done(to));
            }
            let session = session::session_of(self.target())?;
            let is_ending = session.is_some_and(|session| !session.condition.is_over());
            if is_ending || DiffLock::holder(dir)?.is_some() {
                last_use = Instant::now();
            }
            if self.promote.signals.end_asked() {
                return Err(PromoteError::Stopped.into());
            }
            thread::sleep(POLL);
        }
        Err(self.gone())
    }

    fn target(&self) -> &Path {
        &self.promote.plan.target
    }

    fn gone(&self) -> SessionError {
        let target = self.target().to_owned();
        PromoteError::Gone { target }.into()
    }

    fn refused(&self, reason: impl Into<String>) -> SessionError {
        PromoteError::Refused {
            target: self.target().to_owned(),
            reason: reason.into(),
        }
        .into()
    }
}
