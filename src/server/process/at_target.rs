//! Whether a recovery stopped at its target, according to PostgreSQL's log.
//!
//! That a server is paused or has exited does not prove that it reached the target.
//! Recovery also pauses earlier if a setting is too low
//! (`RecoveryRequiresIntParameter`, xlogrecovery.c) or a user asks for it, and the
//! postmaster also exits on a signal. The log tells these cases apart. A promotion
//! needs no such check: PostgreSQL either promotes at its target or exits (`recovery
//! ended before configured recovery target was reached`).

use std::io::{self, BufRead, BufReader, Seek, SeekFrom};

use super::Server;
use crate::untrusted;

/// The startup process's message before it pauses at its target
/// (`recoveryPausesHere`, xlogrecovery.c).
pub(super) const PAUSED: &str = "pausing at the end of recovery";

/// The postmaster's message when it shuts down because of `recovery_target_action`
/// (postmaster.c).
pub(super) const SHUT_DOWN: &str = "shutdown at recovery target";

impl Server {
    /// Returns whether this run has logged that its recovery is at the target:
    /// [`PAUSED`] or [`SHUT_DOWN`]. If the log cannot be read, the answer is no.
    pub(super) fn has_said(&self, words: &str) -> bool {
        self.search_log(words).unwrap_or(false)
    }

    fn search_log(&self, words: &str) -> io::Result<bool> {
        let mut file = untrusted::open(&self.config().log_file)?;
        file.seek(SeekFrom::Start(self.log_start()))?;
        for line in BufReader::new(file).split(b'\n') {
            if is_message(&line?, words) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Returns whether a line of the log is this message, after whatever
/// `log_line_prefix` adds. Text from a client comes after a severity of its own or,
/// on continuation lines, after a tab.
fn is_message(line: &[u8], words: &str) -> bool {
    let line = String::from_utf8_lossy(line);
    let message = line.split_once("LOG:  ").map(|(_, message)| message);
    !line.starts_with('\t') && message.is_some_and(|message| message.trim_end() == words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_server_itself_says_that_it_is_at_its_target() {
        for line in [
            "LOG:  pausing at the end of recovery",
            "2026-11-26 12:35:57 UTC [25] LOG:  pausing at the end of recovery\r",
        ] {
            assert!(is_message(line.as_bytes(), PAUSED), "{line}");
        }
        for line in [
            "",
            "LOG:  recovery has paused",
            "WARNING:  pausing at the end of recovery",
            "LOG:  statement: select 1 --LOG:  pausing at the end of recovery",
            "\tLOG:  pausing at the end of recovery",
            "LOG:  pausing at the end of recovery LOG:  statement: select 1",
        ] {
            assert!(!is_message(line.as_bytes(), PAUSED), "{line}");
        }
    }
}
