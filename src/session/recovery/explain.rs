//! Why a recovery failed, and what to ask for instead.

use time::OffsetDateTime;

use super::Recovery;
use super::choice::{GoOn, known_points};
use crate::catalog::wal::WalFault;
use crate::profile::{MomentText, RecoveryTarget};
use crate::server::{LogTail, ServerError};
use crate::session::{SessionError, Side};

/// The prefix of our restore_command's error messages in the server's log.
const COMPLAINT: &str = "pbkfs wal-get: ";

impl Recovery {
    /// Explains why a server died in recovery, if more can be said than that it died.
    /// The archive may be searched for this as long as `go_on` allows.
    #[must_use]
    pub fn explain(&self, error: ServerError, go_on: GoOn<'_>) -> SessionError {
        let ServerError::Died { status, log } = error else {
            return error.into();
        };
        let says = |what: &str| log.lines.iter().any(|line| line.contains(what));
        if let Some((fault, reason)) = complaint(&log) {
            return SessionError::RecoveryStopped { fault, reason, log };
        }
        if says("recovery ended before configured recovery target was reached") {
            return self.not_found(&log, go_on);
        }
        if says("requested recovery stop point is before consistent recovery point") {
            return self.out_of_reach(Side::Before);
        }
        ServerError::Died { status, log }.into()
    }

    /// Returns the error for a target that was not in the WAL that was replayed.
    fn not_found(&self, log: &LogTail, go_on: GoOn<'_>) -> SessionError {
        let mut error = self.out_of_reach(Side::Nowhere);
        let SessionError::OutOfReach { advice, .. } = &mut error else {
            return error;
        };
        match &self.target {
            RecoveryTarget::Name(name) if self.command.is_none() => {
                let (history, from) = (&self.reach.history, self.backup.stop_lsn);
                // The names are only a hint; it does no harm if they cannot be found.
                *advice = known_points(&self.archive, history, from, name, go_on).ok();
            }
            RecoveryTarget::Time(_) if self.command.is_some() => {
                *advice = last_transaction(log).map(|last| {
                    format!(
                        "the last transaction in it ended at {}, and recovery.target = \"latest\" \
                         gives the data as of then",
                        MomentText(last)
                    )
                });
            }
            _ => {}
        }
        error
    }
}

/// Returns when the last transaction ended that a server replayed, according to its log.
fn last_transaction(log: &LogTail) -> Option<OffsetDateTime> {
    const SAID: &str = "last completed transaction was at log time ";
    let mut said = log.lines.iter().rev();
    let said = said.find_map(|line| line.split_once(SAID))?.1;
    let moment: MomentText = said.trim().parse().ok()?;
    Some(moment.0)
}

/// Returns what our restore_command said when it last failed: the fault and the message.
fn complaint(log: &LogTail) -> Option<(WalFault, String)> {
    log.lines.iter().rev().find_map(|line| {
        let (fault, said) = line.split_once(COMPLAINT)?.1.split_once(": ")?;
        Some((fault.parse().ok()?, said.to_owned()))
    })
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn the_last_complaint_in_the_log_is_the_reason() {
        let log = |lines: &[&str]| LogTail {
            path: PathBuf::new(),
            lines: lines.iter().map(|line| (*line).to_owned()).collect(),
        };
        let lines = [
            "LOG:  restored",
            "pbkfs wal-get: missing: A: gone",
            "pbkfs wal-get: damaged: B: bad: worse",
            "FATAL:  could not restore",
        ];
        let expected = (WalFault::Damaged, "B: bad: worse".to_owned());
        assert_eq!(complaint(&log(&lines)), Some(expected));
        // A message without a fault is not taken for one.
        let lines = ["FATAL:  other", "pbkfs wal-get: B: the WAL is damaged"];
        assert_eq!(complaint(&log(&lines)), None);
    }
}
