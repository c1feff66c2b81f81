//! Querying the clone's server while watching the session.

use std::time::Duration;

use super::wanted::Extract;
use crate::server::Server;
use crate::session::{Live, SessionError, WATCH};

/// Returns the clone's server.
pub fn server<'a>(live: &'a Live<'_>) -> Result<std::cell::Ref<'a, Server>, SessionError> {
    live.server().ok_or(SessionError::Interrupted)
}

/// Gives the session a moment to fail: a server that dies takes its clients with it,
/// and its own error says more than theirs.
pub fn settle(live: &Live<'_>) -> Result<(), SessionError> {
    for _ in 0..10 {
        live.goes_on()?;
        std::thread::sleep(WATCH);
    }
    Ok(())
}

/// Waits until `done` returns something, while the clone keeps running.
pub fn wait<T>(
    live: &Live<'_>,
    extract: &Extract<'_>,
    bytes: &dyn Fn() -> u64,
    mut done: impl FnMut() -> Result<Option<T>, SessionError>,
) -> Result<T, SessionError> {
    let mut pause = Duration::from_millis(2);
    loop {
        if let Some(found) = done()? {
            live.check_writes()?;
            return Ok(found);
        }
        if !live.goes_on()? {
            return Err(SessionError::Interrupted);
        }
        (extract.progress)("extracting", bytes());
        std::thread::sleep(pause);
        pause = (pause * 2).min(WATCH);
    }
}
