//! What each step of a session's set-up gets.

use std::cell::{Ref, RefCell};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::place::HeldPlace;
use super::place::state::State;
use super::ready::Ready;
use super::undo::Undo;
use super::{SessionError, Signals};
use crate::image::Image;
use crate::overlay::Overlay;
use crate::profile::Plan;

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

/// A session while it is set up and runs.
pub struct Context<'a> {
    /// What it is to be.
    pub up: &'a Up<'a>,
    /// The checked profile.
    pub plan: &'a Plan,
    /// The signals that end it.
    pub signals: &'a Signals,
    /// How far it is.
    pub progress: Progress,
    /// The undoing of what was set up.
    pub undo: Undo,
    /// What is mounted, from when it was opened until all is undone.
    pub overlay: Option<Arc<Overlay<Image>>>,
}

impl<'a> Context<'a> {
    /// A session of which nothing is set up but its directory.
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
        }
    }

    /// Ends the set-up where a signal has asked for it.
    ///
    /// # Errors
    /// [`SessionError::Interrupted`].
    pub fn stop_if_asked(&self) -> Result<(), SessionError> {
        match self.signals.end_asked() {
            true => Err(SessionError::Interrupted),
            false => Ok(()),
        }
    }

    /// Whether everything that the server has written is there. It hears of a
    /// full disk when it syncs, at the next checkpoint or, where it does not
    /// sync, never.
    ///
    /// # Errors
    /// [`SessionError::LostWrites`].
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
    // So that it can be named from any directory.
    state.profile = up
        .profile
        .map(|path| std::path::absolute(path).unwrap_or(path.to_owned()));
    state.catalog.clone_from(&plan.catalog);
    state.instance.clone_from(&plan.instance);
    state.diff_dir = plan.diff_dir.clone().filter(|_| !up.read_only);
    state.throw_away = plan.diff_dir.is_none() && !up.read_only;
    state.with_server = plan.postgres.launch;
    state
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
        self.place.write_state(&state)
    }

    /// The mount point, canonical.
    pub fn target(&self) -> PathBuf {
        self.state().target.clone()
    }

    /// The session's directory.
    pub fn place(&self) -> &HeldPlace {
        &self.place
    }

    /// What a user gets to see of it once it is ready.
    pub fn summary(&self) -> Ready {
        Ready::of(&self.state())
    }

    /// All of it.
    pub fn state(&self) -> Ref<'_, State> {
        self.state.borrow()
    }
}
