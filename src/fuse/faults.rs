//! Rate limit for failed requests in the log. Each fault is logged when it first
//! occurs, and then no more often than anybody can read. PostgreSQL rereads a bad page
//! again and again, and a log that fills a disk would turn one fault into two.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Number of faults that are remembered as seen; any more count as seen, too.
const MAX_SEEN: usize = 1000;

/// Number of lines per [`WINDOW`] about faults seen before.
const MAX_REPEATED: u32 = 10;

/// See [`MAX_REPEATED`].
const WINDOW: Duration = Duration::from_secs(60);

/// What to do about a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Log it, after a line with the number of suppressed faults, if there are any.
    Log {
        /// Number of faults that were not logged.
        suppressed: u64,
    },
    /// Do not log it.
    Suppress,
}

/// Decides which faults are logged.
#[derive(Debug)]
pub struct FaultLimit {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    seen: HashSet<(u64, String)>,
    since: Instant,
    repeated: u32,
    suppressed: u64,
}

impl FaultLimit {
    /// Creates a limit that has seen no faults.
    pub fn new(now: Instant) -> Self {
        let state = State {
            seen: HashSet::new(),
            since: now,
            repeated: 0,
            suppressed: 0,
        };
        Self {
            state: Mutex::new(state),
        }
    }

    /// Decides whether to log a fault on an inode.
    pub fn judge(&self, ino: u64, message: &str, now: Instant) -> Verdict {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if now.duration_since(state.since) >= WINDOW {
            state.since = now;
            state.repeated = 0;
        }
        let first = state.seen.len() < MAX_SEEN && state.seen.insert((ino, message.to_owned()));
        if !first {
            if state.repeated >= MAX_REPEATED {
                state.suppressed += 1;
                return Verdict::Suppress;
            }
            state.repeated += 1;
        }
        let suppressed = std::mem::take(&mut state.suppressed);
        Verdict::Log { suppressed }
    }

    /// Returns the number of suppressed faults not reported so far.
    pub fn untold(&self) -> u64 {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut state.suppressed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: Verdict = Verdict::Log { suppressed: 0 };

    #[test]
    fn new_faults_are_logged_and_old_ones_now_and_then() {
        let begun = Instant::now();
        let limit = FaultLimit::new(begun);
        assert_eq!(limit.judge(1, "block 1", begun), LOG);
        for _ in 0..MAX_REPEATED {
            assert_eq!(limit.judge(1, "block 1", begun), LOG);
        }
        for _ in 0..5 {
            assert_eq!(limit.judge(1, "block 1", begun), Verdict::Suppress);
        }
        let told = Verdict::Log { suppressed: 5 };
        assert_eq!(limit.judge(1, "block 2", begun), told, "a new one is told");
        assert_eq!(limit.judge(2, "block 2", begun), LOG, "of another file too");
        assert_eq!(limit.judge(1, "block 1", begun), Verdict::Suppress);
        let told = Verdict::Log { suppressed: 1 };
        assert_eq!(limit.judge(1, "block 1", begun + WINDOW), told);
        assert_eq!(limit.untold(), 0);
    }

    #[test]
    fn a_flood_of_different_faults_ends_too() {
        let begun = Instant::now();
        let limit = FaultLimit::new(begun);
        let is_logged = |n: &u32| limit.judge(1, &n.to_string(), begun) != Verdict::Suppress;
        let logged = (0..10_000).filter(is_logged).count();
        assert_eq!(logged, MAX_SEEN + MAX_REPEATED as usize);
        assert_eq!(limit.untold(), 10_000 - logged as u64);
    }
}
