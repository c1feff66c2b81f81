//! What a session is for: the part between its set-up and its undoing.
//!
//! `up` and `mount` wait there for a signal; a one-shot job does its work
//! there and returns. The set-up and the undoing are the same for both.

use std::cell::Ref;
use std::path::PathBuf;
use std::time::Duration;

use crate::server::{Replay, Server};
use crate::session::SessionError;
use crate::session::context::Context;
use crate::session::outside::metrics::{self, Counts};
use crate::session::place::Place;
use crate::session::ready::Ready;
use crate::session::steps::mount::SharedMount;
use crate::session::steps::resolve::Resolved;
use crate::session::steps::server;

/// How often a session looks whether everything still runs.
pub const WATCH: Duration = Duration::from_millis(50);

/// Whether a session goes on once its backups are locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// Mount, and start the server if there is to be one.
    Mount,
    /// That was all; undo.
    End,
}

/// What a job cannot do without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// The backup's chain, locked.
    Chain,
    /// A mount of it, with a server or without.
    Mount,
}

/// What a session does.
pub trait Job {
    /// What it needs.
    fn needs(&self) -> Needs {
        Needs::Mount
    }

    /// Whether it looks at the backup itself once that is locked: what would
    /// keep a server from being started is told only after that, then.
    fn checks_backup(&self) -> bool {
        false
    }

    /// The chain is resolved and locked; nothing is mounted yet.
    ///
    /// # Errors
    /// Whatever is to end the session.
    fn locked(&mut self, resolved: &Resolved) -> Result<Then, SessionError> {
        let _ = resolved;
        Ok(Then::Mount)
    }

    /// The clone is ready. When this returns, the session is undone.
    ///
    /// # Errors
    /// Whatever is to be the session's error.
    fn ready(&mut self, live: &Live<'_>) -> Result<(), SessionError>;

    /// The mount is about to be undone, whatever came of it.
    fn ending(&mut self, account: &Account) {
        let _ = account;
    }
}

/// What a mount has done by the time it ends.
#[derive(Debug, Clone, Default)]
pub struct Account {
    /// What it counted, faults among that.
    pub counts: Counts,
    /// Bytes that the backup gave, to whatever asked.
    pub backup_bytes: u64,
    /// Bytes that its diff takes on disk.
    pub diff_bytes: u64,
}

/// What runs in a session that is ready.
pub(super) struct Running {
    pub mount: SharedMount,
    pub server: Option<server::Running>,
}

/// A session that is ready, seen by its job.
pub struct Live<'a> {
    pub(super) context: &'a Context<'a>,
    pub(super) running: &'a Running,
}

impl Live<'_> {
    /// What a user gets to see of it.
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

    /// How far the server had replayed when it was ready.
    #[must_use]
    pub fn replayed(&self) -> Option<&Replay> {
        self.running
            .server
            .as_ref()
            .map(|running| &running.replayed)
    }

    /// What its mount has counted, faults among that.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let overlay = self.context.overlay.as_deref();
        overlay.map(metrics::read).unwrap_or_default()
    }

    /// Whether it goes on: `false` once it was asked to end, or its mount
    /// alone was taken away in an orderly manner.
    ///
    /// # Errors
    /// The server died, or lost its files.
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

    /// Whether everything that the server has written is there. It hears of a
    /// full disk when it syncs, at the next checkpoint or, where it does not
    /// sync, never.
    ///
    /// # Errors
    /// [`SessionError::LostWrites`].
    pub fn check_writes(&self) -> Result<(), SessionError> {
        self.context.check_writes()
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// Those of [`Live::goes_on`].
    pub fn wait(&self) -> Result<(), SessionError> {
        while self.goes_on()? {
            std::thread::sleep(WATCH);
        }
        Ok(())
    }

    /// The mount is gone, and not by this process. A mount alone may be ended
    /// so, as any other file system is; that is how `pbkfs unmount` does it,
    /// since only the kernel can tell for sure that nobody is in it. A server
    /// has lost its files by it.
    fn unmounted(&self) -> Result<bool, SessionError> {
        let target = self.target();
        if self.running.server.is_some() {
            return Err(SessionError::MountGone { target });
        }
        tracing::info!("{} was unmounted: ending the session", target.display());
        Ok(false)
    }
}
