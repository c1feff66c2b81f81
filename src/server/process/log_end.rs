//! The end of a server's log, which explains why it failed.

use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use crate::server::error::LogTail;
use crate::untrusted;

/// Number of bytes that are read from the end of the log.
const TAIL_BYTES: u64 = 64 << 10;

/// Returns the last `count` lines from `start` on, without those that only report a
/// connection attempt that came too early. Returns none if the log cannot be read.
pub fn tail(path: &Path, start: u64, count: usize) -> LogTail {
    let text = read_end(path, start).unwrap_or_default();
    let telling = text.lines().filter(|line| !is_early_attempt(line));
    let mut lines: Vec<String> = telling.rev().take(count).map(str::to_owned).collect();
    lines.reverse();
    let path = path.to_owned();
    LogTail { path, lines }
}

/// Returns whether a line of the log only reports a connection attempt that came too
/// early.
fn is_early_attempt(line: &str) -> bool {
    [
        "the database system is starting up",
        "the database system is not yet accepting connections",
        "Consistent recovery state has not been yet reached",
    ]
    .iter()
    .any(|said| line.contains(said))
}

/// Reads the end of a file, from `start` on, as text.
fn read_end(path: &Path, start: u64) -> io::Result<String> {
    let mut file = untrusted::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(
        start.max(length.saturating_sub(TAIL_BYTES)),
    ))?;
    let mut bytes = Vec::new();
    // The file may grow meanwhile.
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn only_this_runs_end_of_the_log_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        fs::write(&path, "old run\nnew run\n").unwrap();
        assert_eq!(read_end(&path, 8).unwrap(), "new run\n");
        let long = "x".repeat(usize::try_from(TAIL_BYTES).unwrap() * 2);
        fs::write(&path, &long).unwrap();
        assert_eq!(read_end(&path, 0).unwrap().len() as u64, TAIL_BYTES);
    }
}
