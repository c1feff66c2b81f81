//! What was asked of a remote catalog, and how long readers waited for it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The upper bounds of [`Waits`] are powers of two of microseconds: 2^0 to 2^31, which is
/// 36 minutes.
const BUCKETS: usize = 32;

/// Counts what a store has asked for since it was opened.
#[derive(Debug, Default)]
pub(super) struct Counters {
    requests: AtomicU64,
    bytes: AtomicU64,
    retries: AtomicU64,
    cached: AtomicU64,
    waits: Waits,
}

/// What a store has asked for since it was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Requests, including repeated ones.
    pub requests: u64,
    /// Bytes of content that they brought.
    pub bytes: u64,
    /// Requests that repeated one that had failed.
    pub retries: u64,
    /// Bytes of content that came from the cache on disk instead.
    pub cached: u64,
    /// Reads that waited for the network.
    pub waits: u64,
    /// The time that half of them waited for at most.
    pub wait_p50: Duration,
    /// The time that 99 of 100 waited for at most.
    pub wait_p99: Duration,
}

impl Counters {
    pub(super) fn requested(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn received(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn retried(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn found_on_disk(&self, bytes: usize) {
        self.cached.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn waited(&self, time: Duration) {
        self.waits.add(time);
    }

    pub(super) fn traffic(&self) -> Traffic {
        let waits = self.waits.read();
        Traffic {
            requests: self.requests.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            retries: self.retries.load(Ordering::Relaxed),
            cached: self.cached.load(Ordering::Relaxed),
            waits: waits.iter().sum(),
            wait_p50: quantile(&waits, 50),
            wait_p99: quantile(&waits, 99),
        }
    }
}

/// A histogram of times.
#[derive(Debug, Default)]
struct Waits([AtomicU64; BUCKETS]);

impl Waits {
    fn add(&self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let bits = u64::BITS - micros.saturating_sub(1).leading_zeros();
        let last = self.0.get(bits as usize).or(self.0.last());
        if let Some(bucket) = last {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn read(&self) -> [u64; BUCKETS] {
        self.0.each_ref().map(|count| count.load(Ordering::Relaxed))
    }
}

/// Returns the upper bound of the bucket that has the value which `percent` of all do not
/// exceed.
fn quantile(counts: &[u64; BUCKETS], percent: u64) -> Duration {
    let total: u64 = counts.iter().sum();
    let mut left = (total * percent).div_ceil(100);
    for (bits, &count) in (0u32..).zip(counts) {
        if left > 0 && count >= left {
            return Duration::from_micros(1 << bits);
        }
        left = left.saturating_sub(count);
    }
    Duration::ZERO
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_summed_up_by_powers_of_two() {
        let counters = Counters::default();
        assert_eq!(counters.traffic(), Traffic::default());
        for _ in 0..98 {
            counters.waited(Duration::from_micros(900));
        }
        counters.waited(Duration::from_millis(15));
        counters.waited(Duration::from_secs(180_000));
        let traffic = counters.traffic();
        assert_eq!(traffic.waits, 100);
        assert_eq!(traffic.wait_p50, Duration::from_micros(1024));
        assert_eq!(traffic.wait_p99, Duration::from_micros(16_384));
    }

    #[test]
    fn one_wait_is_every_quantile() {
        let counters = Counters::default();
        counters.waited(Duration::ZERO);
        assert_eq!(counters.traffic().wait_p50, Duration::from_micros(1));
        counters.waited(Duration::from_micros(1));
        assert_eq!(counters.traffic().wait_p99, Duration::from_micros(1));
    }
}
