//! The progress of a one-shot job: a bar on a terminal, and nothing elsewhere, so
//! that cron has nothing to mail.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::cli::output;
use crate::escape;

/// The display.
pub struct Progress {
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Creates a display on standard error, if that is a terminal and a display is
    /// `wanted`.
    pub fn new(wanted: bool) -> Self {
        let bar = (wanted && output::has_spectators()).then(|| {
            let bar = ProgressBar::new_spinner();
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        Self { bar }
    }

    /// Shows the current step, and how many bytes of the total are done; a `total` of
    /// 0 is unknown.
    pub fn show(&self, what: &str, done: u64, total: u64) {
        let Some(bar) = &self.bar else { return };
        let template = match (done, total) {
            (0, 0) => "{spinner} {msg}",
            (_, 0) => "{spinner} {msg}: {bytes}, {bytes_per_sec}",
            _ => "{spinner} {msg} [{bar:30}] {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        let what = escape::line(what);
        if bar.message() != what {
            bar.reset();
            bar.set_message(what.into_owned());
        }
        bar.set_length(total);
        bar.set_position(done);
    }

    /// Removes the display.
    pub fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
