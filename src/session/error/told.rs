//! Parts of the error messages.

use std::fmt;
use std::path::Path;

use crate::session::outside::occupants::Occupant;

/// Where a recovery target is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Before the backup was consistent.
    Before,
    /// After the end of the archive, or of its transactions.
    After,
    /// Not found.
    Nowhere,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Before => "before what can be reached",
            Self::After => "after what can be reached",
            Self::Nowhere => "not in the WAL that was replayed",
        })
    }
}

/// Returns the rest of a sentence, if there is one.
pub(super) fn and(more: &Option<String>) -> String {
    more.as_ref()
        .map_or(String::new(), |more| format!("; {more}"))
}

pub(super) fn named(by: &[Occupant]) -> String {
    const NAMED: usize = 5;
    if by.is_empty() {
        // By processes of another user or in another container, or by a mount below it.
        return " by something that this user cannot see".to_owned();
    }
    let mut named: Vec<String> = by.iter().take(NAMED).map(ToString::to_string).collect();
    if by.len() > NAMED {
        named.push(format!("and {} more", by.len() - NAMED));
    }
    format!(" by {}", named.join(", "))
}

pub(super) fn pid_of(pid: Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" (pid {pid})"))
}

pub(super) fn profile_of(profile: Option<&Path>) -> String {
    profile.map_or_else(String::new, |path| format!(" {}", path.display()))
}
