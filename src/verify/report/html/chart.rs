//! The chart of the measured recovery times.

use std::fmt::Write as _;

use super::words::{duration, escaped, moment};
use crate::verify::history::Entry;
use crate::verify::verdict::Verdict;

/// Maximum number of runs in the chart.
const CHARTED: usize = 60;

/// Draws the measured recovery times as bars, the oldest on the left.
pub fn recovery_times(text: &mut String, history: &[&Entry]) {
    const WIDTH: f64 = 900.0;
    const HEIGHT: f64 = 220.0;
    const LEFT: f64 = 60.0;
    const TOP: f64 = 15.0;
    let shown = &history[history.len().saturating_sub(CHARTED)..];
    let timed: Vec<(&Entry, f64)> = shown
        .iter()
        .map(|entry| (*entry, entry.recovery_seconds.unwrap_or(0.0)))
        .collect();
    let most = timed
        .iter()
        .map(|(_, seconds)| *seconds)
        .fold(0.0, f64::max);
    if most <= 0.0 {
        return;
    }
    let _ = write!(
        text,
        "<h2>Recovery time</h2>\n<p class=\"sub\">From the mount to the first answer, for each \
         verified backup, the newest on the right.</p>\n<svg viewBox=\"0 0 {WIDTH} {}\" \
         role=\"img\" aria-label=\"Recovery time of each verification\">\n",
        HEIGHT + 40.0
    );
    for part in [0.0, 0.5, 1.0] {
        let y = TOP + (HEIGHT - TOP) * (1.0 - part);
        let _ = writeln!(
            text,
            "<line x1=\"{LEFT}\" x2=\"{WIDTH}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#dde3ea\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\" font-size=\"12\" fill=\"#5b6675\">\
             {}</text>",
            LEFT - 6.0,
            y + 4.0,
            duration(most * part)
        );
    }
    #[expect(clippy::cast_precision_loss, reason = "a few dozen bars")]
    let step = (WIDTH - LEFT) / timed.len() as f64;
    let mut x = LEFT;
    for (entry, seconds) in &timed {
        let height = (HEIGHT - TOP) * seconds / most;
        let _ = writeln!(
            text,
            "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{height:.1}\" \
             fill=\"{}\"><title>{} {}: {}, {}</title></rect>",
            x + step * 0.15,
            HEIGHT - height,
            (step * 0.7).min(40.0),
            colour(entry.verdict),
            escaped(&entry.backup),
            moment(&entry.started),
            entry.verdict.as_str(),
            duration(*seconds)
        );
        x += step;
    }
    for (entry, x, anchor) in timed
        .first()
        .map(|(entry, _)| (entry, LEFT, "start"))
        .into_iter()
        .chain(timed.last().map(|(entry, _)| (entry, WIDTH, "end")))
    {
        let _ = writeln!(
            text,
            "<text x=\"{x}\" y=\"{:.1}\" text-anchor=\"{anchor}\" font-size=\"12\" \
             fill=\"#5b6675\">{}</text>",
            HEIGHT + 20.0,
            moment(&entry.started)
        );
    }
    text.push_str("</svg>\n");
}

fn colour(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Proved => "#3c9a5f",
        Verdict::Bad => "#c23b3b",
        Verdict::PagesRight | Verdict::CouldNotTell => "#d9a52b",
    }
}
