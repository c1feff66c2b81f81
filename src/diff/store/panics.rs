//! Panics of the metadata store, held where the store is used.
//!
//! redb trusts its file in places, and a file that is damaged, or was made on
//! purpose, can make it panic. That is an error like others: it must neither
//! end pbkfs nor print anything but that error.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    static CONTAINED: Cell<bool> = const { Cell::new(false) };
}

/// Whether a panic of this thread at this moment becomes an error: a hook then
/// has nothing to print.
#[must_use]
pub fn panic_is_contained() -> bool {
    CONTAINED.get()
}

/// What a contained panic is told as. Its own words are the library's, about its
/// code and not about the file; the hook has them in the log, at DEBUG.
const TOLD: &str = "it holds what no program has written there";

/// Does `work`; if it panics, gives a reason for people. What the work had hold
/// of is not to be used then.
pub(super) fn contain<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    let outer = CONTAINED.replace(true);
    let done = catch_unwind(AssertUnwindSafe(work));
    CONTAINED.set(outer);
    done.map_err(|_| TOLD.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_and_says_so_meanwhile() {
        assert!(!panic_is_contained());
        assert_eq!(contain(|| 5), Ok(5));
        let inside = contain(|| {
            let inner: Result<(), _> = contain(|| unreachable!("number {}\nmore", 7));
            (inner, panic_is_contained())
        });
        // The library's own words are for the log.
        assert_eq!(inside, Ok((Err(TOLD.to_owned()), true)));
        assert!(!panic_is_contained());
    }
}
