//! Counters of the overlay's work since the mount, for `pbkfs status`.
//!
//! The numbers only increase, and threads add to them without waiting for each other. A
//! reader that wants differences has to compute them.

use super::error::OverlayError;
use crate::image::{Counter, ImageError};

/// Counts since the mount. Files that the kernel serves itself (passthrough) are
/// counted when opened and synced; their reads and writes do not pass through here.
#[derive(Debug, Default)]
pub struct OverlayCounters {
    /// Number of successful reads.
    pub reads: Counter,
    /// Number of bytes read.
    pub read_bytes: Counter,
    /// Number of successful writes.
    pub writes: Counter,
    /// Number of bytes written.
    pub written_bytes: Counter,
    /// Number of opens after which the kernel serves the file itself.
    pub passthrough_opens: Counter,
    /// Number of files of the backup that were copied into the diff whole.
    pub copy_ups: Counter,
    /// Number of bytes in these copies.
    pub copied_up_bytes: Counter,
    /// Number of requests to make a file durable.
    pub fsyncs: Counter,
    /// Number of transactions of the diff's metadata.
    pub commits: Counter,
    /// Requests that failed with a fault.
    pub errors: ErrorCounters,
    /// Number of failed writes among them that the kernel had cached. The writer has
    /// continued, and learns of the failure only by fsync.
    pub lost_writes: Counter,
}

/// Faults by cause.
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
    /// Returns the counter for an error. Only for faults: a result such as "no such
    /// file" is not one.
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
