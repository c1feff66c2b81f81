//! The one table of a mount's counters: their keys in JSON, their names for Prometheus,
//! and where each number comes from.

use std::collections::BTreeMap;

use crate::image::Image;
use crate::overlay::Overlay;

/// The numbers by [`Metric::key`]. A session of another version of pbkfs
/// may count other things.
pub type Counts = BTreeMap<String, u64>;

/// How a number behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    /// It only increases, until it is reset.
    Counter,
    /// It has its current value.
    Gauge,
}

/// One metric.
pub struct Metric {
    /// Its key in JSON.
    pub key: &'static str,
    /// Its name for Prometheus, without the prefix. Several metrics may share one; they
    /// are then listed together.
    pub family: &'static str,
    /// What distinguishes it in its family: a label and its value.
    pub label: Option<(&'static str, &'static str)>,
    /// How it behaves.
    pub kind: MetricKind,
    /// Its description, as a sentence.
    pub help: &'static str,
    read: fn(&Overlay<Image>) -> Option<u64>,
}

macro_rules! metrics {
    ($($kind:ident $key:literal = $family:literal $([$label:literal = $value:literal])?, $help:literal, $read:expr;)*) => {
        &[$(Metric {
            key: $key,
            family: $family,
            label: metrics!(@label $($label, $value)?),
            kind: MetricKind::$kind,
            help: $help,
            read: $read,
        }),*]
    };
    (@label) => { None };
    (@label $label:literal, $value:literal) => { Some(($label, $value)) };
}

/// All metrics, grouped by family.
pub const METRICS: &[Metric] = metrics! {
    Counter "reads" = "reads_total", "Reads that pbkfs answered.",
        |o| Some(o.counters().reads.get());
    Counter "read_bytes" = "read_bytes_total", "Bytes that these reads returned.",
        |o| Some(o.counters().read_bytes.get());
    Counter "pages_raw" = "pages_decoded_total" ["codec" = "none"], "Pages of the backup that were decoded.",
        |o| Some(o.lower().counters().raw_pages.get());
    Counter "pages_zlib" = "pages_decoded_total" ["codec" = "zlib"], "Pages of the backup that were decoded.",
        |o| Some(o.lower().counters().zlib_pages.get());
    Counter "pages_pglz" = "pages_decoded_total" ["codec" = "pglz"], "Pages of the backup that were decoded.",
        |o| Some(o.lower().counters().pglz_pages.get());
    Counter "pages_lz4" = "pages_decoded_total" ["codec" = "lz4"], "Pages of the backup that were decoded.",
        |o| Some(o.lower().counters().lz4_pages.get());
    Counter "pages_zstd" = "pages_decoded_total" ["codec" = "zstd"], "Pages of the backup that were decoded.",
        |o| Some(o.lower().counters().zstd_pages.get());
    Counter "index_cache_hits" = "index_cache_hits_total", "Page indexes found in the cache.",
        |o| Some(o.lower().counters().index_hits.get());
    Counter "index_cache_misses" = "index_cache_misses_total", "Page indexes that had to be built.",
        |o| Some(o.lower().counters().index_misses.get());
    Counter "passthrough_opens" = "passthrough_opens_total", "Opens of files that the kernel serves by itself.",
        |o| Some(o.counters().passthrough_opens.get());
    Counter "copy_ups" = "copy_ups_total", "Files of the backup that were copied into the diff whole.",
        |o| Some(o.counters().copy_ups.get());
    Counter "copied_up_bytes" = "copied_up_bytes_total", "Bytes copied that way.",
        |o| Some(o.counters().copied_up_bytes.get());
    Counter "writes" = "writes_total", "Writes that pbkfs accepted.",
        |o| Some(o.counters().writes.get());
    Counter "written_bytes" = "written_bytes_total", "Bytes that these writes contained.",
        |o| Some(o.counters().written_bytes.get());
    Counter "fsyncs" = "fsyncs_total", "Requests to make a file durable.",
        |o| Some(o.counters().fsyncs.get());
    Counter "commits" = "commits_total", "Transactions of the diff's metadata.",
        |o| Some(o.counters().commits.get());
    Counter "errors_damaged_page" = "errors_total" ["kind" = "damaged_page"], "Requests that failed because of a fault.",
        |o| Some(o.counters().errors.damaged_page.get());
    Counter "errors_catalog" = "errors_total" ["kind" = "catalog"], "Requests that failed because of a fault.",
        |o| Some(o.counters().errors.catalog.get());
    Counter "errors_no_space" = "errors_total" ["kind" = "no_space"], "Requests that failed because of a fault.",
        |o| Some(o.counters().errors.no_space.get());
    Counter "errors_diff" = "errors_total" ["kind" = "diff"], "Requests that failed because of a fault.",
        |o| Some(o.counters().errors.diff.get());
    Gauge "diff_blocks" = "diff_blocks", "8 KiB blocks of the backup's files that the diff replaces.",
        |o| o.diff_blocks().ok();
    Gauge "unchanged_copy_bytes" = "unchanged_copy_bytes", "Bytes of copies in the diff that are identical to the backup.",
        |o| Some(o.pristine_bytes());
};

/// Returns the current numbers. One that cannot be determined is left out.
pub fn read(overlay: &Overlay<Image>) -> Counts {
    let read = |metric: &Metric| Some((metric.key.to_owned(), (metric.read)(overlay)?));
    METRICS.iter().filter_map(read).collect()
}

/// Returns what was counted since `base`; gauges keep their current values.
pub fn since(base: &Counts, mut now: Counts) -> Counts {
    let counters = METRICS.iter().filter(|m| m.kind == MetricKind::Counter);
    for metric in counters {
        if let (Some(now), Some(base)) = (now.get_mut(metric.key), base.get(metric.key)) {
            *now = now.saturating_sub(*base);
        }
    }
    now
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_follow_the_conventions() {
        let keys: BTreeSet<_> = METRICS.iter().map(|m| m.key).collect();
        assert_eq!(keys.len(), METRICS.len(), "a key stands there twice");
        for metric in METRICS {
            let total = metric.family.ends_with("_total");
            assert_eq!(total, metric.kind == MetricKind::Counter, "{}", metric.key);
            assert!(metric.help.ends_with('.'), "{}", metric.key);
        }
        let mut families: Vec<_> = METRICS.iter().map(|m| m.family).collect();
        families.dedup();
        let distinct: BTreeSet<_> = families.iter().collect();
        assert_eq!(distinct.len(), families.len(), "a family is torn apart");
    }

    #[test]
    fn a_reset_takes_counters_back_and_leaves_gauges() {
        let counts = |reads, blocks| -> Counts {
            [("reads", reads), ("diff_blocks", blocks), ("newer", 1)]
                .map(|(key, value)| (key.to_owned(), value))
                .into()
        };
        assert_eq!(since(&counts(5, 7), counts(8, 9)), counts(3, 9));
        assert_eq!(since(&Counts::new(), counts(8, 9)), counts(8, 9));
    }
}
