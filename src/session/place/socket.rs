//! What the sockets in a session's directory have in common: a thread that serves one
//! client at a time. A client makes one request and gets an answer of one line.

use std::fs::{self, Permissions};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::Uid;
use serde::{Deserialize, Serialize};

use crate::untrusted::Dir;

/// Maximum size of a request in bytes.
pub const MAX_REQUEST: u64 = 256;

/// The time that a client has for its request.
pub const REQUEST_TIME: Duration = Duration::from_millis(500);

/// The time that a client has for receiving the answer.
pub const ANSWER_TIME: Duration = Duration::from_secs(5);

/// An answer, in JSON.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer<T, E = String> {
    /// What was asked for.
    Ok(T),
    /// Why the request failed.
    Error(E),
}

/// Encodes an answer as one line.
pub fn encode<T: Serialize, E: Serialize>(result: Result<T, E>) -> Vec<u8> {
    let answer = match result {
        Ok(value) => Answer::Ok(value),
        Err(error) => Answer::Error(error),
    };
    let mut text = serde_json::to_vec(&answer).unwrap_or_default();
    text.push(b'\n');
    text
}

/// A socket that is being served.
pub struct Service {
    // Closing this wakes the thread, which then ends.
    wake: UnixStream,
    thread: JoinHandle<()>,
}

impl Service {
    /// Serves `socket`, which at first only this process's user can reach, in a thread
    /// with the given name. A client that cannot be served is only logged.
    pub fn start(
        socket: &Path,
        name: &'static str,
        mut attend: impl FnMut(&UnixStream) -> io::Result<()> + Send + 'static,
    ) -> io::Result<Self> {
        // It is in the session's directory, which is this user's alone.
        let (dir, file) = Dir::of_file(socket)?;
        dir.remove_file(file)?;
        let listener = UnixListener::bind(socket)?;
        fs::set_permissions(socket, Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        let (wake, woken) = UnixStream::pair()?;
        let work = move || {
            while wait_for_client(name, &listener, &woken) {
                if let Ok((client, _)) = listener.accept()
                    && let Err(error) = client.set_nonblocking(false).and_then(|()| attend(&client))
                {
                    tracing::debug!(%error, "a client of the {name} socket was not answered");
                }
            }
        };
        let thread = thread::Builder::new().name(name.into()).spawn(work)?;
        Ok(Self { wake, thread })
    }

    /// Stops serving. The socket file is left to the session's cleanup.
    pub fn stop(self) {
        drop(self.wake);
        // A panic in it has already been printed.
        let _ = self.thread.join();
    }
}

/// Accepts only requests of root and these users.
pub fn check_peer(client: &UnixStream, users: &[Uid]) -> io::Result<()> {
    let peer = Uid::from_raw(getsockopt(client, PeerCredentials)?.uid());
    match peer.is_root() || users.contains(&peer) {
        true => Ok(()),
        false => Err(io::Error::other(format!("user {peer} may not ask"))),
    }
}

/// Waits for a client; `false` when serving should end.
fn wait_for_client(name: &str, listener: &UnixListener, woken: &UnixStream) -> bool {
    loop {
        let mut fds = [
            PollFd::new(woken.as_fd(), PollFlags::POLLIN),
            PollFd::new(listener.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            Err(error) => {
                tracing::warn!(%error, "the {name} socket is no longer served");
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

/// Reads up to the end of the line. Fails if the stream or the time ends before that,
/// or if the line turns out longer than `limit`.
pub fn read_line(mut stream: &UnixStream, limit: u64, deadline: Instant) -> io::Result<Vec<u8>> {
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

/// Writes all of `text` before the deadline.
pub fn write_all(mut stream: &UnixStream, mut text: &[u8], deadline: Instant) -> io::Result<()> {
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

/// Returns the time left, or an error if there is none.
pub fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    match left.is_zero() {
        true => Err(io::ErrorKind::TimedOut.into()),
        false => Ok(left),
    }
}

/// Converts the error of a socket with a timeout.
pub fn timed_out(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut.into(),
        _ => error,
    }
}
