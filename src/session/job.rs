//! The purpose of a session: the work between its setup and its undoing.
//!
//! `up` and `mount` wait there for a signal; a one-shot job does its work there and
//! returns. Setup and undoing are the same for both.

use std::cell::Ref;
use std::path::PathBuf;
use std::time::Duration;

use crate::image::Image;
use crate::overlay::Overlay;
use crate::server::{Replay, Server};
use crate::session::SessionError;
use crate::session::context::Context;
use crate::session::outside::metrics::{self, Counts};
use crate::session::place::Place;
use crate::session::ready::Ready;
use crate::session::steps::mount::SharedMount;
use crate::session::steps::resolve::Resolved;
use crate::session::steps::server;

/// How often a session checks that everything is still running.
pub const WATCH: Duration = Duration::from_millis(50);

/// What a session does once its backups are locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// Mount, and start the server if there is to be one.
    Mount,
    /// Undo; there is nothing more to do.
    End,
}

/// What a job requires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// The backup's chain, locked.
    Chain,
    /// A mount of the chain, with or without a server.
    Mount,
}

/// The work of a session.
pub trait Job {
    /// Returns what the job requires.
    fn needs(&self) -> Needs {
        Needs::Mount
    }

    /// Returns whether the job itself checks the backup once that is locked.
    /// If so, whatever would keep a server from being started is reported
    /// only after that check.
    fn checks_backup(&self) -> bool {
        false
    }

    /// Called once the chain is resolved and locked; nothing is mounted yet.
    ///
    /// # Errors
    /// Any error ends the session.
    fn locked(&mut self, resolved: &Resolved) -> Result<Then, SessionError> {
        let _ = resolved;
        Ok(Then::Mount)
    }

    /// Called once the image and its diff are open; nothing is mounted yet.
    ///
    /// # Errors
    /// Any error ends the session.
    fn opened(
        &mut self,
        resolved: &Resolved,
        overlay: &Overlay<Image>,
    ) -> Result<Then, SessionError> {
        let _ = (resolved, overlay);
        Ok(Then::Mount)
    }

    /// Called once the clone is ready. The session is undone when this returns.
    ///
    /// # Errors
    /// Any error becomes the session's error.
    fn ready(&mut self, live: &Live<'_>) -> Result<(), SessionError>;

    /// Called when the mount is about to be undone, whatever the outcome.
    fn ending(&mut self, account: &Account) {
        let _ = account;
    }
}

/// What a mount has done by the time it ends.
#[derive(Debug, Clone, Default)]
pub struct Account {
    /// Its counters, including those of faults.
    pub counts: Counts,
    /// Number of bytes read from the backup, for whatever purpose.
    pub backup_bytes: u64,
    /// The diff's size on disk in bytes.
    pub diff_bytes: u64,
}

/// What runs in a session that is ready.
pub(super) struct Running {
    pub mount: SharedMount,
    pub server: Option<server::Running>,
}

/// A ready session, as seen by its job.
pub struct Live<'a> {
    pub(super) context: &'a Context<'a>,
    pub(super) running: &'a Running,
}

impl Live<'_> {
    /// Returns what a user sees of it.
    #[must_use]
    pub fn summary(&self) -> Ready {
        self.context.progress.summary()
    }

    /// Its directory.
    #[must_use]
    pub fn place(&self) -> &Place {
        self.context.progress.place()
    }

    /// Its mount point.
    #[must_use]
    pub fn target(&self) -> PathBuf {
        self.context.progress.target()
    }

    /// Its server, if it has one.
    #[must_use]
    pub fn server(&self) -> Option<Ref<'_, Server>> {
        let running = self.running.server.as_ref();
        running.map(|running| running.server.borrow())
    }

    /// Returns how far the server had replayed when it was ready.
    #[must_use]
    pub fn replayed(&self) -> Option<&Replay> {
        self.running
            .server
            .as_ref()
            .map(|running| &running.replayed)
    }

    /// Returns the counters of its mount, including those of faults.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let overlay = self.context.overlay.as_deref();
        overlay.map(metrics::read).unwrap_or_default()
    }

    /// Returns whether the session continues: `false` once it was asked to end, or once
    /// its mount, without a server on it, was unmounted in an orderly manner.
    ///
    /// # Errors
    /// If the server has died or has lost files or writes.
    pub fn goes_on(&self) -> Result<bool, SessionError> {
        if self.context.signals.end_asked() {
            return Ok(false);
        }
        self.check_writes()?;
        if let Some(running) = &self.running.server {
            let mut server = running.server.borrow_mut();
            if let Some(status) = server.try_wait()? {
                return Err(SessionError::ServerDied {
                    status,
                    log: server.log_tail(20),
                });
            }
        }
        if !self.running.mount.borrow().is_serving() {
            return self.unmounted();
        }
        Ok(true)
    }

    /// Checks that everything the server has written is stored. The server
    /// learns of a full disk when it syncs, at the next checkpoint; if it does
    /// not sync, it never does.
    ///
    /// # Errors
    /// Returns [`SessionError::LostWrites`] if any write was lost.
    pub fn check_writes(&self) -> Result<(), SessionError> {
        self.context.check_writes()
    }

    /// Waits until the session should end.
    ///
    /// # Errors
    /// If [`Live::goes_on`] fails.
    pub fn wait(&self) -> Result<(), SessionError> {
        while self.goes_on()? {
            std::thread::sleep(WATCH);
        }
        Ok(())
    }

    /// Handles a mount that was unmounted, but not by this process. A mount without
    /// a server may be ended that way, like any other file system; `pbkfs unmount`
    /// does so because only the kernel can tell reliably that nobody is in it. A
    /// server has lost its files.
    fn unmounted(&self) -> Result<bool, SessionError> {
        let target = self.target();
        if self.running.server.is_some() {
            return Err(SessionError::MountGone { target });
        }
        tracing::info!("{} was unmounted: ending the session", target.display());
        Ok(false)
    }
}
