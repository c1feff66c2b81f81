//! The session's control socket, `control.sock` in its directory: how other
//! processes ask its owner what only the owner knows.
//!
//! One line of JSON each way, then the connection ends:
//!
//! ```text
//! > "stats"            what was counted since the last reset, as an object
//! > "stats-reset"      the same, and counting begins anew
//! > "changes"          what the clone changed, as an array
//! < {"ok": ...}   or   {"error": "..."}
//! ```
//! Only the owner's user and root are answered. One client at a time, each
//! with little time to ask and to listen, so that none can keep the others
//! waiting for long.

use std::fs::{self, Permissions};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::geteuid;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::metrics::{self, Counts};
use super::place::Place;
use crate::image::Image;
use crate::overlay::Overlay;

/// Longest request in bytes.
const MAX_REQUEST: u64 = 256;

/// Longest answer in bytes that a client takes.
const MAX_ANSWER: u64 = 1 << 30;

/// What a client has for its request.
const REQUEST_TIME: Duration = Duration::from_millis(500);

/// What a client has for taking the answer.
const ANSWER_TIME: Duration = Duration::from_secs(5);

/// What can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// What was counted since the last reset.
    Stats,
    /// The same, and counting begins anew.
    StatsReset,
    /// What the clone changed.
    Changes,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Answer<T> {
    Ok(T),
    Error(String),
}

/// The serving end, in a thread of its own.
pub struct Control {
    // Closing it wakes the thread up to its end.
    wake: UnixStream,
    thread: JoinHandle<()>,
}

impl Control {
    /// Serves the socket of `place` about `overlay`. A session goes on
    /// without, so a failure is only logged.
    pub fn start(place: &Place, overlay: Arc<Overlay<Image>>) -> Option<Self> {
        let mut base = Counts::new();
        let answer = move |request| answer(&overlay, &mut base, request);
        match Self::serve(&place.control_socket(), answer) {
            Ok(control) => Some(control),
            Err(error) => {
                let socket = place.control_socket();
                tracing::warn!(
                    "status will show no counters, as {} cannot be served: {error}",
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
        match fs::remove_file(socket) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let listener = UnixListener::bind(socket)?;
        fs::set_permissions(socket, Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        let (wake, woken) = UnixStream::pair()?;
        let work = move || {
            while wait_for_client(&listener, &woken) {
                if let Ok((client, _)) = listener.accept()
                    && let Err(error) = attend(client, &mut answer)
                {
                    tracing::debug!(%error, "a client of the control socket was not answered");
                }
            }
        };
        let thread = thread::Builder::new().name("control".into()).spawn(work)?;
        Ok(Self { wake, thread })
    }

    /// Stops serving. The socket's file stays for the session's clean-up.
    pub fn stop(self) {
        drop(self.wake);
        // A panic in it was printed already.
        let _ = self.thread.join();
    }
}

/// Waits for a client; `false` when serving is to end.
fn wait_for_client(listener: &UnixListener, woken: &UnixStream) -> bool {
    loop {
        let mut fds = [
            PollFd::new(woken.as_fd(), PollFlags::POLLIN),
            PollFd::new(listener.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            Err(error) => {
                tracing::warn!(%error, "the control socket is served no longer");
                return false;
            }
            Ok(_) => {}
        }
        let [woken, client] = fds.map(|fd| fd.any().unwrap_or(false));
        if woken {
            return false;
        }
        if client {
            return true;
        }
    }
}

fn attend(
    client: UnixStream,
    answer: &mut impl FnMut(Request) -> Vec<u8>,
) -> Result<(), io::Error> {
    client.set_nonblocking(false)?;
    let peer = getsockopt(&client, PeerCredentials)?.uid();
    if peer != 0 && peer != geteuid().as_raw() {
        return Err(io::Error::other(format!("user {peer} is not to ask")));
    }
    let text = read_line(&client, MAX_REQUEST, Instant::now() + REQUEST_TIME)?;
    let text = match serde_json::from_slice(&text) {
        Ok(request) => answer(request),
        Err(error) => encode::<()>(Err(format!("no such request ({error})"))),
    };
    write_all(&client, &text, Instant::now() + ANSWER_TIME)
}

fn answer(overlay: &Overlay<Image>, base: &mut Counts, request: Request) -> Vec<u8> {
    match request {
        Request::Stats => encode(Ok(metrics::since(base, metrics::read(overlay)))),
        Request::StatsReset => {
            let now = metrics::read(overlay);
            let counted = metrics::since(base, now.clone());
            *base = now;
            encode(Ok(counted))
        }
        Request::Changes => encode(overlay.changes().map_err(|e| e.to_string())),
    }
}

fn encode<T: Serialize>(result: Result<T, String>) -> Vec<u8> {
    let answer = match result {
        Ok(value) => Answer::Ok(value),
        Err(error) => Answer::Error(error),
    };
    let mut text = serde_json::to_vec(&answer).unwrap_or_default();
    text.push(b'\n');
    text
}

/// Asks the owner of a session.
///
/// # Errors
/// It is not there, does not answer within `patience`, or says why it cannot.
pub fn ask<T: DeserializeOwned>(
    place: &Place,
    request: Request,
    patience: Duration,
) -> io::Result<T> {
    let deadline = Instant::now() + patience;
    let owner = UnixStream::connect(place.control_socket())?;
    let mut text = serde_json::to_vec(&request)?;
    text.push(b'\n');
    write_all(&owner, &text, deadline)?;
    let text = read_line(&owner, MAX_ANSWER, deadline)?;
    match serde_json::from_slice(&text)? {
        Answer::Ok(value) => Ok(value),
        Answer::Error(error) => Err(io::Error::other(error)),
    }
}

/// Reads up to the end of the line, of the stream, of the time or of `limit`.
fn read_line(mut stream: &UnixStream, limit: u64, deadline: Instant) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    let mut part = [0; 16 * 1024];
    loop {
        stream.set_read_timeout(Some(left(deadline)?))?;
        let count = match stream.read(&mut part) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => count,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(timed_out(e)),
        };
        let part = part.get(..count).unwrap_or_default();
        if let Some(end) = part.iter().position(|byte| *byte == b'\n') {
            line.extend_from_slice(part.get(..end).unwrap_or_default());
            return Ok(line);
        }
        line.extend_from_slice(part);
        if line.len() as u64 > limit {
            return Err(io::Error::other("the line is too long"));
        }
    }
}

fn write_all(mut stream: &UnixStream, mut text: &[u8], deadline: Instant) -> io::Result<()> {
    while !text.is_empty() {
        stream.set_write_timeout(Some(left(deadline)?))?;
        match stream.write(text) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => text = text.get(count..).unwrap_or_default(),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(timed_out(e)),
        }
    }
    Ok(())
}

fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    match left.is_zero() {
        true => Err(io::ErrorKind::TimedOut.into()),
        false => Ok(left),
    }
}

fn timed_out(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut.into(),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn served(dir: &tempfile::TempDir) -> (std::path::PathBuf, Control) {
        let socket = dir.path().join("control.sock");
        let mut asked = 0;
        let answer = move |request| {
            asked += 1;
            match request {
                Request::Changes => encode(Ok(vec!["x"; 1 << 20])),
                _ => encode(Ok(asked)),
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

        // One that asks for much and does not listen.
        let mut deaf = UnixStream::connect(&socket).unwrap();
        deaf.write_all(b"\"changes\"\n").unwrap();
        assert_eq!(say(&socket, b"\"stats\"\n"), "{\"ok\":3}\n");
        let begun = Instant::now();
        control.stop();
        assert!(begun.elapsed() < ANSWER_TIME);
    }
}
