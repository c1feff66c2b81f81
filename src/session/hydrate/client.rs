//! The hydration of a running clone, as other processes see it.

use std::io;
use std::path::Path;
use std::time::Duration;

use super::report::{Destination, Hydration};
use crate::session::outside::control::{Request, ask};
use crate::session::place::Place;

/// How long an owner may take to look through its tree before it starts.
const STARTING: Duration = Duration::from_secs(60);

/// How long it may take to tell how far it is.
const TELLING: Duration = Duration::from_secs(10);

/// Lets the session on `target` bring all of its backup into the diff, at that many
/// bytes per second if given, for a data directory at that destination. One that is
/// under way goes on.
///
/// # Errors
/// If the session does not answer, or refuses.
pub fn hydrate(
    target: &Path,
    rate: Option<u64>,
    destination: Option<&Destination>,
) -> io::Result<Hydration> {
    let destination = destination.cloned();
    let request = Request::Hydrate { rate, destination };
    ask(&Place::of(target), &request, STARTING)
}

/// Returns how far the hydration on `target` is; `None` if there never was one.
///
/// # Errors
/// If the session does not answer.
pub fn hydration(target: &Path) -> io::Result<Option<Hydration>> {
    ask(&Place::of(target), &Request::Hydration, TELLING)
}

/// Stops the hydration on `target`.
///
/// # Errors
/// If the session does not answer.
pub fn stop_hydration(target: &Path) -> io::Result<Option<Hydration>> {
    ask(&Place::of(target), &Request::StopHydration, TELLING)
}
