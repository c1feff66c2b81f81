//! SIGTERM, SIGINT and SIGHUP: the first signal asks for an orderly shutdown, the
//! second for an immediate one.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals as Incoming;

/// The number of termination signals received, and the session's deadline.
#[derive(Debug, Clone, Default)]
pub struct Signals {
    count: Arc<AtomicUsize>,
    deadline: Option<Instant>,
}

impl Signals {
    /// Handles the signals in place of their default actions.
    ///
    /// # Errors
    /// If the system refuses the handler or its thread.
    pub fn install() -> io::Result<Self> {
        let signals = Self::default();
        let count = signals.count.clone();
        let mut incoming = Incoming::new([SIGTERM, SIGINT, SIGHUP])?;
        thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || {
                for signal in incoming.forever() {
                    let before = count.fetch_add(1, Ordering::AcqRel);
                    let name = signal_hook::low_level::signal_name(signal).unwrap_or("signal");
                    match before {
                        0 => tracing::info!("{name}: ending the session"),
                        _ => tracing::warn!("{name} again: ending at once"),
                    }
                }
            })?;
        Ok(signals)
    }

    /// Returns the same signals, for a session that ends at `deadline` in any case.
    #[must_use]
    pub fn until(&self, deadline: Instant) -> Self {
        Self {
            count: self.count.clone(),
            deadline: Some(deadline),
        }
    }

    /// Returns whether the session should end.
    #[must_use]
    pub fn end_asked(&self) -> bool {
        self.count.load(Ordering::Acquire) > 0 || self.is_late()
    }

    /// Returns whether its deadline has passed.
    #[must_use]
    pub fn is_late(&self) -> bool {
        self.deadline
            .is_some_and(|deadline| Instant::now() >= deadline)
    }

    /// Returns whether the session should end at once.
    #[must_use]
    pub fn hurry(&self) -> bool {
        self.count.load(Ordering::Acquire) > 1
    }
}
