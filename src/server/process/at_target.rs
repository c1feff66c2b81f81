//! Whether a recovery ended at its target, in PostgreSQL's own words.
//!
//! A server that is paused answers queries, and one that was told to end is gone,
//! wherever it had got to: recovery also pauses before the target when a setting is
//! too low (`RecoveryRequiresIntParameter`, xlogrecovery.c) or a user asks for it,
//! and the postmaster ends as well when it gets a signal. Its log tells them apart.
//! Of a promotion nothing of the kind is needed: PostgreSQL promotes at its target,
//! or ends (`recovery ended before configured recovery target was reached`).

use std::io::{self, BufRead, BufReader, Seek, SeekFrom};

use super::Server;
use crate::untrusted;

/// What the startup process says before it waits at its target
/// (`recoveryPausesHere`, xlogrecovery.c).
pub(super) const PAUSED: &str = "pausing at the end of recovery";

/// What the postmaster says when it ends as `recovery_target_action` wants it
/// (postmaster.c).
pub(super) const SHUT_DOWN: &str = "shutdown at recovery target";

impl Server {
    /// Whether this run has said in its log that its recovery is at the target:
    /// [`PAUSED`] or [`SHUT_DOWN`]. A log that cannot be read says nothing.
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

/// Whether a line of the log is this message, behind whatever `log_line_prefix` puts
/// before it. What a client says stands behind a severity of its own, or, in the
/// lines that follow its first, behind a tab.
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
