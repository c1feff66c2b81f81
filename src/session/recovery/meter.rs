//! The progress of a recovery, for anyone waiting for it: one line that changes on a
//! terminal, or otherwise a line in the log every few seconds.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use crate::escape;
use crate::pg::Lsn;
use crate::server::Replay;

/// The interval between lines in the log.
const LOG_EVERY: Duration = Duration::from_secs(5);

/// The progress display of one recovery.
pub struct Meter {
    target: String,
    terminal: bool,
    shown: bool,
    begun: Option<(Instant, Lsn)>,
    logged: Instant,
}

impl Meter {
    /// Creates a display for a recovery to `target`.
    #[must_use]
    pub fn new(target: String) -> Self {
        Self {
            target,
            terminal: io::stderr().is_terminal(),
            shown: false,
            begun: None,
            logged: Instant::now(),
        }
    }

    /// Shows how far the recovery is.
    pub fn show(&mut self, replay: &Replay) {
        let Some(lsn) = replay.lsn else { return };
        let (begun, first) = *self.begun.get_or_insert((Instant::now(), lsn));
        if !self.terminal && self.logged.elapsed() < LOG_EVERY {
            return;
        }
        let line = format!(
            "replayed to {lsn}{}, {}; target: {}",
            replay
                .time
                .as_ref()
                .map_or(String::new(), |time| format!(" ({time})")),
            rate(lsn.0.saturating_sub(first.0), begun.elapsed()),
            self.target
        );
        if self.terminal {
            // It does no harm if the line cannot be shown.
            let _ = write!(io::stderr(), "\r\x1b[K{}", escape::line(&line));
            self.shown = true;
        } else {
            tracing::info!("{line}");
            self.logged = Instant::now();
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        if self.shown {
            let _ = writeln!(io::stderr());
        }
    }
}

fn rate(bytes: u64, elapsed: Duration) -> String {
    #[expect(clippy::cast_precision_loss, reason = "one decimal is shown")]
    let megabytes = bytes as f64 / f64::from(1 << 20);
    format!("{:.1} MiB/s", megabytes / elapsed.as_secs_f64().max(0.001))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_per_second() {
        assert_eq!(rate(10 << 20, Duration::from_secs(4)), "2.5 MiB/s");
        assert_eq!(rate(0, Duration::ZERO), "0.0 MiB/s");
    }
}
