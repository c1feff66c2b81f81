//! Counts of what an image has done, for metrics and tests.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::catalog::CompressAlg;

/// A number that only increases.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Returns the current value.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Increases the count.
    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }
}

/// Counts since the image was opened.
#[derive(Debug, Default)]
pub struct ImageCounters {
    /// Calls of `read_at`.
    pub reads: Counter,
    /// Bytes returned by those calls.
    pub bytes: Counter,
    /// Failed reads and failed lookups of a length.
    pub errors: Counter,
    /// Page indexes found in the cache.
    pub index_hits: Counter,
    /// Page indexes that had to be built.
    pub index_misses: Counter,
    /// Pages stored raw.
    pub raw_pages: Counter,
    /// Pages decoded from zlib.
    pub zlib_pages: Counter,
    /// Pages decoded from pglz.
    pub pglz_pages: Counter,
    /// Pages decoded from lz4.
    pub lz4_pages: Counter,
    /// Pages decoded from zstd.
    pub zstd_pages: Counter,
}

impl ImageCounters {
    /// Returns the counter of pages stored with this algorithm.
    #[must_use]
    pub fn pages(&self, alg: CompressAlg) -> &Counter {
        match alg {
            CompressAlg::None => &self.raw_pages,
            CompressAlg::Zlib => &self.zlib_pages,
            CompressAlg::Pglz => &self.pglz_pages,
            CompressAlg::Lz4 => &self.lz4_pages,
            CompressAlg::Zstd => &self.zstd_pages,
        }
    }
}
