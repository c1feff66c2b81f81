//! Write-ahead log formats: segment names, page headers, records, timeline histories.
//! Like the rest of [`pg`](super), nothing in here does I/O.

pub mod history;
pub mod page;
pub mod scan;
pub mod segment;
pub mod told;

pub use history::{History, HistoryEntry};
pub use segment::{SegmentId, SegmentSize};
