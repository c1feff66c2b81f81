//! How fast a hydration goes: at a rate, or stepping back while the clone itself works.

use std::thread;
use std::time::{Duration, Instant};

/// How long it rests after a step during which the clone worked, as a multiple of the
/// step.
const STEP_BACK: u32 = 2;

/// The longest that it rests at once, so that it can be stopped.
const LONGEST: Duration = Duration::from_millis(200);

/// The pace of a hydration.
pub struct Pace<'a> {
    /// The limit in bytes per second; `None` for stepping back.
    rate: Option<u64>,
    begun: Instant,
    bytes: u64,
    /// A number that changes whenever the clone reads or writes.
    activity: Option<&'a dyn Fn() -> u64>,
    last: u64,
    step: Instant,
}

impl<'a> Pace<'a> {
    /// Returns the pace beside a clone that works.
    pub fn beside(activity: &'a dyn Fn() -> u64, rate: Option<u64>) -> Self {
        Self {
            rate,
            activity: Some(activity),
            last: activity(),
            ..Self::unlimited()
        }
    }

    /// Returns the pace of nobody to step back for.
    pub fn unlimited() -> Self {
        Self {
            rate: None,
            begun: Instant::now(),
            bytes: 0,
            activity: None,
            last: 0,
            step: Instant::now(),
        }
    }

    /// Called after each step: rests as long as the pace wants.
    pub fn after(&mut self, bytes: u64) {
        let took = self.step.elapsed();
        self.bytes += bytes;
        let now = self.activity.map_or(0, |activity| activity());
        let rest = match self.rate {
            Some(rate) => {
                let due = Duration::from_secs_f64(self.bytes as f64 / rate.max(1) as f64);
                due.saturating_sub(self.begun.elapsed())
            }
            None if now != self.last => took * STEP_BACK,
            None => Duration::ZERO,
        };
        self.last = now;
        if !rest.is_zero() {
            thread::sleep(rest.min(LONGEST));
        }
        self.step = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn it_keeps_to_a_rate() {
        let mut pace = Pace::beside(&|| 0, Some(1000));
        let begun = Instant::now();
        for _ in 0..10 {
            pace.after(5);
        }
        assert!(begun.elapsed() >= Duration::from_millis(50));
    }

    #[test]
    fn it_steps_back_only_while_the_clone_works() {
        let worked = Cell::new(0);
        let activity = || worked.get();
        let mut pace = Pace::beside(&activity, None);
        let mut rested = |works: bool| {
            worked.set(worked.get() + u64::from(works));
            thread::sleep(Duration::from_millis(10));
            let begun = Instant::now();
            pace.after(1);
            begun.elapsed()
        };
        assert!(rested(true) >= Duration::from_millis(10) * STEP_BACK);
        assert!(rested(false) < Duration::from_millis(10));
    }
}
