//! The systemd journal's own protocol: a datagram of fields for each entry
//! (<https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>).
//!
//! The crate tracing-journald does the same from a subscriber's events; here
//! it begins with the finished line, so that what goes to the journal has
//! been searched for secrets like everything else.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use tracing::Level;

const SOCKET: &str = "/run/systemd/journal/socket";

/// Longer messages are cut; a datagram has to fit the socket's buffer.
const MAX_MESSAGE: usize = 32 * 1024;

/// The journal.
pub struct Journal {
    socket: UnixDatagram,
}

impl Journal {
    /// Connects to the journal of this machine.
    ///
    /// # Errors
    /// There is none.
    pub fn open() -> io::Result<Self> {
        Self::at(Path::new(SOCKET))
    }

    fn at(path: &Path) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(path)?;
        Ok(Self { socket })
    }

    /// Makes an entry of a line.
    ///
    /// # Errors
    /// The journal does not take it.
    pub fn send(&self, level: Level, line: &[u8]) -> io::Result<()> {
        let message = line.trim_ascii_end();
        let message = message.get(..MAX_MESSAGE).unwrap_or(message);
        // A character that was cut in two would make all of it binary.
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
