//! What can be recovered, in words.

use std::fmt;

use time::OffsetDateTime;

use crate::catalog::wal::WalEnd;
use crate::pg::Lsn;
use crate::profile::MomentText;

/// What recovery can reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holds {
    pub(super) backup: String,
    pub(super) first_lsn: Lsn,
    pub(super) first_time: Option<OffsetDateTime>,
    pub(super) timeline: u32,
    pub(super) end: WalEnd,
    pub(super) missing: Option<String>,
}

impl Holds {
    /// Returns what to ask for instead of a time after the last transaction,
    /// and what that gives.
    pub(super) fn instead(&self, time: OffsetDateTime) -> Option<String> {
        let last = MomentText(self.end.time?.to_offset()?);
        let clock = self.end.clock.and_then(|clock| clock.to_offset());
        let ways = format!("recovery.target = \"latest\", or --at \"{last}\", gives");
        Some(match clock.is_some_and(|clock| clock >= time) {
            true => format!(
                "no transaction ended between that one and the requested time, so {ways} the same \
                 data"
            ),
            false => format!(
                "{ways} everything that there is, which is the same data only if no transaction \
                 ended after that"
            ),
        })
    }
}

impl fmt::Display for Holds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = |time: Option<OffsetDateTime>| {
            time.map_or("an unknown time".to_owned(), |t| MomentText(t).to_string())
        };
        let last_lsn = self.end.lsn.unwrap_or(self.first_lsn).max(self.first_lsn);
        let last_time = self.end.time.and_then(|t| t.to_offset());
        write!(
            f,
            "with backup {}, timeline {} can be recovered from {} ({}) to {last_lsn}",
            self.backup,
            self.timeline,
            self.first_lsn,
            time(self.first_time),
        )?;
        if let Some(last) = last_time {
            write!(f, " (the last transaction ended at {})", MomentText(last))?;
        }
        if let Some(missing) = &self.missing {
            write!(f, "; the archive continues after that, but lacks {missing}")?;
        }
        Ok(())
    }
}
