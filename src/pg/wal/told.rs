//! What records of the WAL tell: when transactions ended, and which points have names.

use std::collections::VecDeque;

use time::macros::datetime;
use time::{Duration, OffsetDateTime};

use crate::pg::Lsn;

/// Bytes of a record's header.
pub(super) const RECORD_HEADER: usize = 24;

const RM_XLOG: u8 = 0;
const RM_XACT: u8 = 1;

// What records of the WAL itself are about (src/include/catalog/pg_control.h).
const XLOG_CHECKPOINT_SHUTDOWN: u8 = 0x00;
const XLOG_CHECKPOINT_ONLINE: u8 = 0x10;
const XLOG_SWITCH: u8 = 0x40;
const XLOG_RESTORE_POINT: u8 = 0x70;

/// Where a checkpoint (`CheckPoint`, the same file) has its time, in seconds since 1970.
const CHECKPOINT_TIME: usize = 64;

/// Microseconds since 2000-01-01 00:00 UTC, PostgreSQL's `TimestampTz`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// The same moment; `None` for one outside the calendar.
    #[must_use]
    pub fn to_offset(self) -> Option<OffsetDateTime> {
        let since = Duration::microseconds(self.0);
        datetime!(2000-01-01 00:00 UTC).checked_add(since)
    }

    /// The moment of that many seconds since 1970-01-01 00:00 UTC; `None` for one that
    /// has no number here.
    #[must_use]
    pub fn of_unix(seconds: i64) -> Option<Self> {
        /// Between 1970 and 2000.
        const DIFFERENCE: i64 = 946_684_800;
        let seconds = seconds.checked_sub(DIFFERENCE)?;
        seconds.checked_mul(1_000_000).map(Self)
    }
}

/// A transaction's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// Where its record begins.
    pub lsn: Lsn,
    /// When it was committed or rolled back.
    pub time: Timestamp,
}

/// A point that somebody gave a name to (`pg_create_restore_point`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestorePoint {
    /// Its name, of at most 63 bytes; what is not UTF-8 is replaced.
    pub name: String,
    /// Where its record begins.
    pub lsn: Lsn,
    /// When it was made.
    pub time: Timestamp,
}

/// What the records that were read tell.
#[derive(Debug, Default)]
pub struct Told {
    /// The earliest and the latest end of a transaction.
    pub times: Option<(Timestamp, Timestamp)>,
    /// The end of a transaction that stands last.
    pub last_ended: Option<Ended>,
    /// The latest moment of all: that of a transaction's end, a checkpoint or a restore
    /// point.
    pub clock: Option<Timestamp>,
    /// The restore points, in their order; of more than 1000 the last.
    pub restore_points: VecDeque<RestorePoint>,
    /// What is looked for.
    pub(super) wanted: Option<Wanted>,
    /// Where records of that begin, in their order; of more than 1000 the last.
    pub found: VecDeque<Lsn>,
}

/// How much of a kind is kept. Who wrote the WAL can have filled it with that.
const KEPT: usize = 1000;

/// What can be looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// A restore point of that name.
    Name(String),
    /// The end of that transaction. The record that ends a prepared one does not bear
    /// its number.
    Xid(u32),
}

impl Told {
    /// Takes the record that begins at `start`: its header, and the first bytes of what
    /// follows that. Whether it switches to the next segment.
    pub(super) fn take(&mut self, header: &[u8], data: &[u8], start: Lsn) -> bool {
        let (info, manager) = (header.get(16).copied(), header.get(17).copied());
        match (manager.zip(info), main_data(data)) {
            (Some((RM_XLOG, info)), _) if info & 0xF0 == XLOG_SWITCH => return true,
            (Some((RM_XLOG, info)), Some(main)) => self.note(info & 0xF0, main, start),
            // Commit, abort, and both of prepared transactions.
            (Some((RM_XACT, info)), Some(main)) if matches!(info & 0x70, 0 | 0x20..=0x40) => {
                self.ended(u32_at(header, 4), main, start);
            }
            _ => {}
        }
        false
    }

    /// Notes the end of a transaction.
    fn ended(&mut self, xid: Option<u32>, main: &[u8], lsn: Lsn) {
        let Some(time) = timestamp_at(main, 0) else {
            return;
        };
        let (first, last) = self.times.unwrap_or((time, time));
        self.times = Some((first.min(time), last.max(time)));
        self.last_ended = Some(Ended { lsn, time });
        self.clock = self.clock.max(Some(time));
        if self.wanted == xid.map(Wanted::Xid) && xid.is_some() {
            keep(&mut self.found, lsn);
        }
    }

    /// Notes what a record of the WAL itself tells.
    fn note(&mut self, info: u8, main: &[u8], lsn: Lsn) {
        let time = match info {
            XLOG_CHECKPOINT_SHUTDOWN | XLOG_CHECKPOINT_ONLINE => {
                u64_at(main, CHECKPOINT_TIME).and_then(|t| Timestamp::of_unix(t.cast_signed()))
            }
            XLOG_RESTORE_POINT => timestamp_at(main, 0),
            _ => return,
        };
        self.clock = self.clock.max(time);
        let name = main.get(8..72).unwrap_or_default();
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        if let (XLOG_RESTORE_POINT, Some(time)) = (info, time) {
            let name = String::from_utf8_lossy(name).into_owned();
            if matches!(&self.wanted, Some(Wanted::Name(wanted)) if *wanted == name) {
                keep(&mut self.found, lsn);
            }
            keep(&mut self.restore_points, RestorePoint { name, lsn, time });
        }
    }
}

fn keep<T>(list: &mut VecDeque<T>, item: T) {
    if list.len() == KEPT {
        list.pop_front();
    }
    list.push_back(item);
}

/// The data of a record that refers to no block: what follows the headers.
fn main_data(mut headers: &[u8]) -> Option<&[u8]> {
    const DATA_SHORT: u8 = 255;
    const DATA_LONG: u8 = 254;
    const ORIGIN: u8 = 253;
    const TOPLEVEL_XID: u8 = 252;
    loop {
        let (kind, rest) = headers.split_first()?;
        match *kind {
            DATA_SHORT => return rest.get(1..),
            DATA_LONG => return rest.get(4..),
            ORIGIN => headers = rest.get(2..)?,
            TOPLEVEL_XID => headers = rest.get(4..)?,
            _ => return None,
        }
    }
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let field = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_le_bytes(*field))
}

fn timestamp_at(bytes: &[u8], at: usize) -> Option<Timestamp> {
    u64_at(bytes, at).map(|time| Timestamp(time.cast_signed()))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let field = bytes.get(at..)?.first_chunk()?;
    Some(u64::from_le_bytes(*field))
}
