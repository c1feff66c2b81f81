//! What is passed to each step of a session's setup.

use std::cell::{Ref, RefCell};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::locks::HeldLocks;
use super::place::HeldPlace;
use super::place::state::State;
use super::ready::Ready;
use super::undo::Undo;
use super::{SessionError, Signals};
use crate::image::Image;
use crate::overlay::Overlay;
use crate::profile::Plan;

/// The session to start.
pub struct Up<'a> {
    /// The checked profile.
    pub plan: &'a Plan,
    /// Whether the mount is read-only; there is no diff then.
    pub read_only: bool,
    /// The profile's path, for `status`.
    pub profile: Option<&'a Path>,
    /// The signals that end it.
    pub signals: &'a Signals,
    /// Whether it runs in the background. A failure after it was ready is then kept for
    /// `status`, because nobody reads its output.
    pub detached: bool,
}

impl<'a> Up<'a> {
    /// Returns the session of a one-shot job.
    #[must_use]
    pub fn of_job(plan: &'a Plan, profile: Option<&'a Path>, signals: &'a Signals) -> Self {
        Self {
            plan,
            read_only: false,
            profile,
            signals,
            detached: false,
        }
    }
}

/// A session while it is being set up and while it runs.
pub struct Context<'a> {
    /// What was asked for.
    pub up: &'a Up<'a>,
    /// The checked profile.
    pub plan: &'a Plan,
    /// The signals that end it.
    pub signals: &'a Signals,
    /// Its progress.
    pub progress: Progress,
    /// The undo steps of what was set up.
    pub undo: Undo,
    /// What is mounted, from when it is opened until everything is undone.
    pub overlay: Option<Arc<Overlay<Image>>>,
    /// The read locks on the chain, if it is locked.
    pub locks: Option<HeldLocks>,
}

impl<'a> Context<'a> {
    /// Creates a session of which only the directory is set up.
    pub fn new(up: &'a Up<'a>, place: HeldPlace, target: &Path) -> Self {
        Self {
            up,
            plan: up.plan,
            signals: up.signals,
            progress: Progress {
                place,
                state: RefCell::new(first_state(up, target)),
            },
            undo: Undo::default(),
            overlay: None,
            locks: None,
        }
    }

    /// Ends the setup if a signal has asked for that.
    ///
    /// # Errors
    /// Returns [`SessionError::Interrupted`] if one has.
    pub fn stop_if_asked(&self) -> Result<(), SessionError> {
        match self.signals.end_asked() {
            true => Err(SessionError::Interrupted),
            false => Ok(()),
        }
    }

    /// Checks that everything the server has written is stored. The server
    /// learns of a full disk when it syncs, at the next checkpoint; if it does
    /// not sync, it never does.
    ///
    /// # Errors
    /// Returns [`SessionError::LostWrites`] if any write was lost.
    pub fn check_writes(&self) -> Result<(), SessionError> {
        let state = self.progress.state();
        let overlay = self.overlay.as_deref();
        let lost = overlay.is_some_and(Overlay::has_lost_writes) && state.with_server;
        match &state.diff_dir {
            Some(dir) if lost => Err(SessionError::LostWrites {
                dir: dir.clone(),
                log: self.progress.place().log(),
            }),
            _ => Ok(()),
        }
    }
}

fn first_state(up: &Up<'_>, target: &Path) -> State {
    let plan = up.plan;
    let mut state = State::begin(target);
    // Make it absolute, so that it is valid in any directory.
    state.profile = up
        .profile
        .map(|path| std::path::absolute(path).unwrap_or(path.to_owned()));
    state.catalog = plan.catalog.name();
    state.instance.clone_from(&plan.instance);
    state.diff_dir = plan.diff_dir.clone().filter(|_| !up.read_only);
    state.throw_away = plan.diff_dir.is_none() && !up.read_only;
    state.with_server = plan.postgres.launch;
    state
}

/// The progress of a session, recorded for others at each change.
pub struct Progress {
    place: HeldPlace,
    state: RefCell<State>,
}

impl Progress {
    /// Changes the state and records it.
    pub fn change(&self, change: impl FnOnce(&mut State)) -> Result<(), SessionError> {
        let mut state = self.state.borrow_mut();
        change(&mut state);
        self.place.write_state(&state)
    }

    /// Returns the mount point, canonical.
    pub fn target(&self) -> PathBuf {
        self.state().target.clone()
    }

    /// The session's directory.
    pub fn place(&self) -> &HeldPlace {
        &self.place
    }

    /// Returns what a user sees of the session once it is ready.
    pub fn summary(&self) -> Ready {
        Ready::of(&self.state())
    }

    /// Returns the whole state.
    pub fn state(&self) -> Ref<'_, State> {
        self.state.borrow()
    }
}
