//! The limit on open files, and how pbkfs uses it.
//!
//! Whichever process has a file of the clone open, it is pbkfs that holds the diff's file
//! open, and the catalog's file beneath it. The number of descriptors kept open is
//! therefore bounded by the system's limit: a file whose descriptor was closed is
//! reopened.

use std::io;
use std::sync::OnceLock;
use std::thread::available_parallelism;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Below this, files are opened and closed over and over, and PostgreSQL has fewer
/// descriptors than it needs as well.
pub const ENOUGH: u64 = 1024;

/// Descriptors for everything else: the log, sockets, directories, the store.
const OTHERS: usize = 64;

/// Descriptors that each request thread needs for itself: its channel to the kernel, and
/// those it opens briefly.
const OF_A_THREAD: usize = 3;

/// The minimum number of descriptors kept for files, whatever the limit.
const LEAST: usize = 24;

/// The limit that this process was started with.
static GIVEN: OnceLock<Rlimit> = OnceLock::new();

/// Raises this process's soft limit to the hard limit, and returns that; `None` means no
/// limit. The usual soft limit of 1024 is low for a database.
///
/// # Errors
/// Returns the system's error.
pub fn raise() -> io::Result<Option<u64>> {
    let given = *GIVEN.get_or_init(|| getrlimit(Resource::Nofile));
    let raised = Rlimit {
        current: given.maximum,
        maximum: given.maximum,
    };
    setrlimit(Resource::Nofile, raised)?;
    Ok(given.maximum)
}

/// Returns what a child must call between fork and exec to restore the limit that this
/// process was started with: PostgreSQL uses as many descriptors as it may. It makes one
/// system call, and neither allocates nor locks.
pub fn give_back() -> impl Fn() -> io::Result<()> + Send + Sync + 'static {
    let given = GIVEN.get().copied();
    move || match given {
        Some(given) => Ok(setrlimit(Resource::Nofile, given)?),
        None => Ok(()),
    }
}

/// Returns how many descriptors may be kept for files in total.
#[must_use]
pub fn share() -> usize {
    let threads = available_parallelism().map_or(1, usize::from);
    share_of(getrlimit(Resource::Nofile).current, threads)
}

fn share_of(limit: Option<u64>, threads: usize) -> usize {
    let limit = limit.map_or(usize::MAX, |limit| {
        usize::try_from(limit).unwrap_or(usize::MAX)
    });
    let others = OTHERS.saturating_add(threads.saturating_mul(OF_A_THREAD));
    limit.saturating_sub(others).max(LEAST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_of_the_limit_is_for_files() {
        assert_eq!(share_of(Some(256), 2), 256 - 64 - 6);
        assert_eq!(share_of(Some(64), 64), LEAST);
        assert_eq!(share_of(None, 2), usize::MAX - 70);
    }
}
