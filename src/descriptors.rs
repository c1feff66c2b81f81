//! How many files may be open at once, and what pbkfs makes of it.
//!
//! Whoever has a file of the clone open, it is pbkfs that holds the diff's file,
//! and the catalog's below. So the descriptors that are kept are bounded by what
//! the system permits: a file whose descriptor was closed is opened again.

use std::io;
use std::sync::OnceLock;
use std::thread::available_parallelism;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// With fewer, files are opened and closed over and over, and PostgreSQL has
/// fewer than it would like, too.
pub const ENOUGH: u64 = 1024;

/// Descriptors for all else: the log, sockets, directories, the store.
const OTHERS: usize = 64;

/// What each request thread needs for itself: its channel to the kernel, and
/// what it opens for a moment.
const OF_A_THREAD: usize = 3;

/// The fewest that are kept for files, whatever the limit.
const LEAST: usize = 24;

/// The limit that this process was started with.
static GIVEN: OnceLock<Rlimit> = OnceLock::new();

/// Raises this process's soft limit to the hard one, and gives that; `None` for
/// no limit. The usual soft limit of 1024 is small for a database.
///
/// # Errors
/// The system's own.
pub fn raise() -> io::Result<Option<u64>> {
    let given = *GIVEN.get_or_init(|| getrlimit(Resource::Nofile));
    let raised = Rlimit {
        current: given.maximum,
        maximum: given.maximum,
    };
    setrlimit(Resource::Nofile, raised)?;
    Ok(given.maximum)
}

/// What a child has to call between its fork and its exec, so that it gets the
/// limit that was given to this process: PostgreSQL takes what it may have. One
/// system call, which neither allocates nor locks.
pub fn give_back() -> impl Fn() -> io::Result<()> + Send + Sync + 'static {
    let given = GIVEN.get().copied();
    move || match given {
        Some(given) => Ok(setrlimit(Resource::Nofile, given)?),
        None => Ok(()),
    }
}

/// How many descriptors may be kept for files, all in all.
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
