//! What the overlay has done since the mount began, for `pbkfs status`.
//!
//! The numbers only grow, and every thread adds to them without waiting for
//! another; that they are counted from anew is the reader's affair.

use super::error::OverlayError;
use crate::image::{Counter, ImageError};

/// Counts since the mount began. Files that the kernel serves by itself
/// (passthrough) count when they are opened and synced; their reads and
/// writes do not come by here.
#[derive(Debug, Default)]
pub struct OverlayCounters {
    /// Reads that were answered.
    pub reads: Counter,
    /// Bytes that they gave.
    pub read_bytes: Counter,
    /// Writes that were taken.
    pub writes: Counter,
    /// Bytes that they brought.
    pub written_bytes: Counter,
    /// Opens that the kernel serves by itself from then on.
    pub passthrough_opens: Counter,
    /// Files of the backup that were copied into the diff whole.
    pub copy_ups: Counter,
    /// Bytes of these copies.
    pub copied_up_bytes: Counter,
    /// Requests to make a file durable.
    pub fsyncs: Counter,
    /// Transactions of the diff's metadata.
    pub commits: Counter,
    /// Requests that failed by a fault.
    pub errors: ErrorCounters,
    /// Writes among them that the kernel had gathered: who wrote has gone on,
    /// and hears of it by fsync only.
    pub lost_writes: Counter,
}

/// Faults by what was at fault.
#[derive(Debug, Default)]
pub struct ErrorCounters {
    /// A page of the backup is damaged.
    pub damaged_page: Counter,
    /// A file of the catalog cannot be read, or is not what it should be.
    pub catalog: Counter,
    /// The diff's file system is full.
    pub no_space: Counter,
    /// The diff failed otherwise.
    pub diff: Counter,
}

impl ErrorCounters {
    /// The counter for an error. Only for faults: an answer such as "no such
    /// file" is none.
    #[must_use]
    pub fn of(&self, error: &OverlayError) -> &Counter {
        let by_errno = |errno: Option<i32>| match errno {
            Some(nix::libc::ENOSPC | nix::libc::EDQUOT) => &self.no_space,
            _ => &self.diff,
        };
        match error {
            OverlayError::Lower(e) => match **e {
                ImageError::Page(_) => &self.damaged_page,
                _ => &self.catalog,
            },
            OverlayError::Io(e) => by_errno(e.raw_os_error()),
            OverlayError::Diff(e) => by_errno(e.os_error()),
            _ => &self.diff,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[test]
    fn faults_are_told_apart() {
        let counters = ErrorCounters::default();
        let full = || io::Error::from_raw_os_error(nix::libc::ENOSPC);
        let damaged = OverlayError::MissingBlock { ino: 1, block: 2 };
        let cases = [
            (OverlayError::Io(full()), &counters.no_space),
            (OverlayError::Io(io::Error::other("x")), &counters.diff),
            (damaged, &counters.diff),
            (ImageError::EmptyChain.into(), &counters.catalog),
        ];
        for (error, expected) in cases {
            assert!(std::ptr::eq(counters.of(&error), expected), "{error}");
        }
    }
}
