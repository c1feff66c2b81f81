//! Errors as sentences for people.

use std::error::Error;
use std::fmt::Write as _;

/// An error as one sentence: what happened, and each cause that does not
/// stand in it already.
#[must_use]
pub fn sentence(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let part = error.to_string();
        if !text.contains(&part) {
            let _ = write!(text, ": {part}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot read the list")]
    struct Silent(#[source] io::Error);

    #[derive(Debug, thiserror::Error)]
    #[error("cannot read the list: {0}")]
    struct Telling(#[source] io::Error);

    #[test]
    fn a_cause_is_told_once() {
        let inner = || io::Error::other("disk gone");
        let told = "cannot read the list: disk gone";
        assert_eq!(sentence(&Silent(inner())), told);
        assert_eq!(sentence(&Telling(inner())), told);
    }
}
