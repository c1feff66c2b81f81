//! The systemd journal's native protocol: one datagram of fields per entry
//! (<https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>).
//!
//! The crate tracing-journald does the same with a subscriber's events. Here the
//! finished line is sent, so that the journal's entries are searched for secrets like
//! all other lines.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use tracing::Level;

const SOCKET: &str = "/run/systemd/journal/socket";

/// The maximum size of a message; a longer one is truncated, because a datagram has
/// to fit into the socket's buffer.
const MAX_MESSAGE: usize = 32 * 1024;

/// The journal.
pub struct Journal {
    socket: UnixDatagram,
}

impl Journal {
    /// Connects to the journal of this machine.
    ///
    /// # Errors
    /// If there is no journal.
    pub fn open() -> io::Result<Self> {
        Self::at(Path::new(SOCKET))
    }

    fn at(path: &Path) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(path)?;
        Ok(Self { socket })
    }

    /// Sends a line as one entry.
    ///
    /// # Errors
    /// If the journal does not accept it.
    pub fn send(&self, level: Level, line: &[u8]) -> io::Result<()> {
        let message = line.trim_ascii_end();
        let message = message.get(..MAX_MESSAGE).unwrap_or(message);
        // A truncated character would make the whole message binary.
        let whole = str::from_utf8(message).map_or_else(|e| e.valid_up_to(), str::len);
        let message = message.get(..whole).unwrap_or(message);
        let priority = match level {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            Level::DEBUG | Level::TRACE => 7,
        };
        let mut entry =
            format!("PRIORITY={priority}\nSYSLOG_IDENTIFIER=pbkfs\nMESSAGE\n").into_bytes();
        entry.extend_from_slice(&(message.len() as u64).to_le_bytes());
        entry.extend_from_slice(message);
        entry.push(b'\n');
        self.socket.send(&entry).map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_has_its_priority_and_length() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        assert!(Journal::at(&path).is_err());
        let receiver = UnixDatagram::bind(&path).unwrap();
        let journal = Journal::at(&path).unwrap();
        journal.send(Level::ERROR, b"two\nlines\n").unwrap();
        let mut entry = [0; 200];
        let count = receiver.recv(&mut entry).unwrap();
        let expected = b"PRIORITY=3\nSYSLOG_IDENTIFIER=pbkfs\nMESSAGE\n\
            \x09\0\0\0\0\0\0\0two\nlines\n";
        assert_eq!(&entry[..count], expected);
        journal.send(Level::INFO, &[b'x'; 1 << 20]).unwrap();
        let mut entry = vec![0; 2 * MAX_MESSAGE];
        receiver.recv(&mut entry).unwrap();
        let text = format!("y{}", "x└".repeat(1 << 16));
        journal.send(Level::INFO, text.as_bytes()).unwrap();
        let count = receiver.recv(&mut entry).unwrap();
        assert_eq!(entry[..count].last_chunk().unwrap(), b"x\n");
    }
}
