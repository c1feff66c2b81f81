//! Panics of the metadata store, caught where the store is used.
//!
//! redb trusts its file in places, so a file that is damaged, or was crafted, can make
//! it panic. That is an error like any other: it must neither end pbkfs nor print
//! anything other than the error.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    static CONTAINED: Cell<bool> = const { Cell::new(false) };
}

/// Whether a panic in this thread would now be converted to an error. The panic hook
/// then prints nothing.
#[must_use]
pub fn panic_is_contained() -> bool {
    CONTAINED.get()
}

/// The message for a contained panic. The panic's own text is about redb's code and not
/// about the file; the hook logs it at DEBUG.
const TOLD: &str = "it holds something that no program writes there";

/// Runs `work`; if it panics, returns a reason for people. Nothing that `work` had
/// access to may be used after a panic.
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
        // The library's own text goes to the log.
        assert_eq!(inside, Ok((Err(TOLD.to_owned()), true)));
        assert!(!panic_is_contained());
    }
}
