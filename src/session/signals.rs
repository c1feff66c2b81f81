//! SIGTERM, SIGINT and SIGHUP: the first asks for an orderly end, the second
//! for a quick one.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals as Incoming;

/// How many signals to end have come.
#[derive(Debug, Clone, Default)]
pub struct Signals {
    count: Arc<AtomicUsize>,
    deadline: Option<Instant>,
}

impl Signals {
    /// Takes the signals over from their default actions.
    ///
    /// # Errors
    /// The system's own.
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

    /// The same signals, for a session that is to end at that moment anyway.
    #[must_use]
    pub fn until(&self, deadline: Instant) -> Self {
        Self {
            count: self.count.clone(),
            deadline: Some(deadline),
        }
    }

    /// Whether the session is to end.
    #[must_use]
    pub fn end_asked(&self) -> bool {
        self.count.load(Ordering::Acquire) > 0 || self.is_late()
    }

    /// Whether its time is over.
    #[must_use]
    pub fn is_late(&self) -> bool {
        self.deadline
            .is_some_and(|deadline| Instant::now() >= deadline)
    }

    /// Whether it is to end at once.
    #[must_use]
    pub fn hurry(&self) -> bool {
        self.count.load(Ordering::Acquire) > 1
    }
}
