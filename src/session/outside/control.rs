//! The session's control socket, `control.sock` in its directory. Through it, other
//! processes ask its owner what only the owner knows.
//!
//! One line of JSON each way, then the connection ends:
//!
//! ```text
//! > "stats"            what was counted since the last reset, as an object
//! > "stats-reset"      the same, and counting restarts
//! > "changes"          what the clone changed, as an array
//! > {"hydrate": {..}}  starts bringing the backup into the diff
//! > "stop-hydration"   stops that
//! > "hydration"        how far that is; null if it was never started
//! < {"ok": ...}   or   {"error": "..."}
//! ```
//! Only the owner's user and root are answered. Clients are served one at a
//! time. Each has little time to ask and to listen, so that none can keep the
//! others waiting for long.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::unistd::geteuid;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::metrics::{self, Counts};
use crate::image::Image;
use crate::overlay::Overlay;
use crate::session::hydrate::{Destination, Hydrator};
use crate::session::place::Place;
use crate::session::place::socket::{
    self, ANSWER_TIME, Answer, MAX_REQUEST, REQUEST_TIME, Service, encode, read_line, write_all,
};

/// Maximum size in bytes of an answer that a client accepts.
const MAX_ANSWER: u64 = 1 << 30;

/// A request to a session's owner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// What was counted since the last reset.
    Stats,
    /// The same, and counting restarts.
    StatsReset,
    /// What the clone changed.
    Changes,
    /// Starts bringing the backup into the diff.
    Hydrate {
        /// Limit in bytes per second.
        rate: Option<u64>,
        /// The data directory that it is for.
        destination: Option<Destination>,
    },
    /// Stops that.
    StopHydration,
    /// How far that is.
    Hydration,
}

/// The serving side, in a thread of its own.
pub struct Control(Service);

impl Control {
    /// Serves the socket of `place` with what `overlay` knows. A session works without
    /// it, so a failure is only logged.
    pub fn start(
        place: &Place,
        overlay: Arc<Overlay<Image>>,
        hydrator: Arc<Hydrator>,
    ) -> Option<Self> {
        let mut base = Counts::new();
        let answer = move |request| answer(&overlay, &hydrator, &mut base, request);
        match Self::serve(&place.control_socket(), answer) {
            Ok(control) => Some(control),
            Err(error) => {
                let socket = place.control_socket();
                tracing::warn!(
                    "status will show no counters, because {} cannot be served: {error}",
                    socket.display()
                );
                None
            }
        }
    }

    fn serve(
        socket: &Path,
        mut answer: impl FnMut(Request) -> Vec<u8> + Send + 'static,
    ) -> io::Result<Self> {
        let attend = move |client: &UnixStream| {
            socket::check_peer(client, &[geteuid()])?;
            attend(client, &mut answer)
        };
        Ok(Self(Service::start(socket, "control", attend)?))
    }

    /// Stops serving. The socket file is left to the session's cleanup.
    pub fn stop(self) {
        self.0.stop();
    }
}

fn attend(client: &UnixStream, answer: &mut impl FnMut(Request) -> Vec<u8>) -> io::Result<()> {
    let text = read_line(client, MAX_REQUEST, Instant::now() + REQUEST_TIME)?;
    let text = match serde_json::from_slice(&text) {
        Ok(request) => answer(request),
        Err(error) => encode::<(), _>(Err(format!("no such request ({error})"))),
    };
    write_all(client, &text, Instant::now() + ANSWER_TIME)
}

fn answer(
    overlay: &Overlay<Image>,
    hydrator: &Hydrator,
    base: &mut Counts,
    request: Request,
) -> Vec<u8> {
    match request {
        Request::Stats => encode::<_, String>(Ok(metrics::since(base, metrics::read(overlay)))),
        Request::StatsReset => {
            let now = metrics::read(overlay);
            let counted = metrics::since(base, now.clone());
            *base = now;
            encode::<_, String>(Ok(counted))
        }
        Request::Changes => encode(overlay.changes().map_err(|e| e.to_string())),
        Request::Hydrate { rate, destination } => encode(hydrator.start(rate, destination)),
        Request::StopHydration => {
            hydrator.stop();
            encode::<_, String>(Ok(hydrator.report()))
        }
        Request::Hydration => encode::<_, String>(Ok(hydrator.report())),
    }
}

/// Asks the owner of a session.
///
/// # Errors
/// If the owner is not there, does not answer within `patience`, or answers with an error.
pub fn ask<T: DeserializeOwned>(
    place: &Place,
    request: &Request,
    patience: Duration,
) -> io::Result<T> {
    let deadline = Instant::now() + patience;
    let owner = UnixStream::connect(place.control_socket())?;
    let mut text = serde_json::to_vec(request)?;
    text.push(b'\n');
    write_all(&owner, &text, deadline)?;
    let text = read_line(&owner, MAX_ANSWER, deadline)?;
    match serde_json::from_slice(&text)? {
        Answer::<T>::Ok(value) => Ok(value),
        Answer::Error(error) => Err(io::Error::other(error)),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::{Read, Write};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn served(dir: &tempfile::TempDir) -> (std::path::PathBuf, Control) {
        let socket = dir.path().join("control.sock");
        let mut asked = 0;
        let answer = move |request| {
            asked += 1;
            match request {
                Request::Changes => encode::<_, String>(Ok(vec!["x"; 1 << 20])),
                _ => encode::<_, String>(Ok(asked)),
            }
        };
        let control = Control::serve(&socket, answer).unwrap();
        (socket, control)
    }

    fn say(socket: &Path, text: &[u8]) -> String {
        let mut client = UnixStream::connect(socket).unwrap();
        client.write_all(text).unwrap();
        let mut answer = String::new();
        let _ = client.read_to_string(&mut answer);
        answer
    }

    #[test]
    fn requests_are_answered_and_nonsense_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (socket, control) = served(&dir);
        let mode = fs::metadata(&socket).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(say(&socket, b"\"stats\"\n"), "{\"ok\":1}\n");
        assert!(say(&socket, b"\"fire\"\n").starts_with("{\"error\":"));
        assert!(say(&socket, b"\xff\xfe\n").starts_with("{\"error\":"));
        assert_eq!(say(&socket, b"\"stats-reset\"\n"), "{\"ok\":2}\n");
        control.stop();
        assert!(UnixStream::connect(&socket).is_err());
    }

    #[test]
    fn bad_clients_do_not_keep_others_waiting() {
        let dir = tempfile::tempdir().unwrap();
        let (socket, control) = served(&dir);
        let begun = Instant::now();
        let _silent = UnixStream::connect(&socket).unwrap();
        let endless = vec![b'x'; 64 * 1024];
        let mut flood = UnixStream::connect(&socket).unwrap();
        let _ = flood.write_all(&endless);
        drop(UnixStream::connect(&socket).unwrap());
        assert_eq!(say(&socket, b"\"stats\"\n"), "{\"ok\":1}\n");
        assert!(begun.elapsed() < REQUEST_TIME * 4, "{:?}", begun.elapsed());

        // A client that asks for much and does not listen.
        let mut deaf = UnixStream::connect(&socket).unwrap();
        deaf.write_all(b"\"changes\"\n").unwrap();
        assert_eq!(say(&socket, b"\"stats\"\n"), "{\"ok\":3}\n");
        let begun = Instant::now();
        control.stop();
        assert!(begun.elapsed() < ANSWER_TIME);
    }
}
