//! What WAL records report: when transactions ended, and which restore points exist.

use std::collections::VecDeque;

use time::macros::datetime;
use time::{Duration, OffsetDateTime};

use crate::pg::{Lsn, bytes_at};

/// Size of a record's header in bytes.
pub(super) const RECORD_HEADER: usize = 24;

const RM_XLOG: u8 = 0;
const RM_XACT: u8 = 1;

// Types of records of the resource manager XLOG (src/include/catalog/pg_control.h).
const XLOG_CHECKPOINT_SHUTDOWN: u8 = 0x00;
const XLOG_CHECKPOINT_ONLINE: u8 = 0x10;
const XLOG_SWITCH: u8 = 0x40;
const XLOG_RESTORE_POINT: u8 = 0x70;

/// Offset of the time in a checkpoint (`CheckPoint`, in the same file), in seconds since
/// 1970.
const CHECKPOINT_TIME: usize = 64;

/// Microseconds since 2000-01-01 00:00 UTC, PostgreSQL's `TimestampTz`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// Converts to a calendar time; `None` if it is out of range.
    #[must_use]
    pub fn to_offset(self) -> Option<OffsetDateTime> {
        let since = Duration::microseconds(self.0);
        datetime!(2000-01-01 00:00 UTC).checked_add(since)
    }

    /// Converts from seconds since 1970-01-01 00:00 UTC; `None` if the result is out of
    /// range.
    #[must_use]
    pub fn of_unix(seconds: i64) -> Option<Self> {
        /// Seconds between 1970 and 2000.
        const DIFFERENCE: i64 = 946_684_800;
        let seconds = seconds.checked_sub(DIFFERENCE)?;
        seconds.checked_mul(1_000_000).map(Self)
    }
}

/// The end of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// Position of its record.
    pub lsn: Lsn,
    /// Time of the commit or rollback.
    pub time: Timestamp,
}

/// A named restore point (`pg_create_restore_point`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestorePoint {
    /// Its name, at most 63 bytes; invalid UTF-8 is replaced.
    pub name: String,
    /// Position of its record.
    pub lsn: Lsn,
    /// Time of its creation.
    pub time: Timestamp,
}

/// What the records read so far report.
#[derive(Debug, Default)]
pub struct Told {
    /// The earliest and the latest time at which a transaction ended.
    pub times: Option<(Timestamp, Timestamp)>,
    /// The last end of a transaction in WAL order.
    pub last_ended: Option<Ended>,
    /// The latest time in any end of a transaction, checkpoint or restore point.
    pub clock: Option<Timestamp>,
    /// The restore points in WAL order; at most the last 1000.
    pub restore_points: VecDeque<RestorePoint>,
    /// What to search for.
    pub(super) wanted: Option<Wanted>,
    /// Positions of the matching records in WAL order; at most the last 1000.
    pub found: VecDeque<Lsn>,
}

/// Number of items kept of each kind. The author of the WAL may have filled it with them.
const KEPT: usize = 1000;

/// What can be searched for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// A restore point with that name.
    Name(String),
    /// The end of that transaction. The header of the record that ends a prepared
    /// transaction does not carry its xid.
    Xid(u32),
}

impl Told {
    /// Takes the record that starts at `start`, given its header and the first bytes
    /// after that. Returns whether the record switches to the next segment.
    pub(super) fn take(&mut self, header: &[u8], data: &[u8], start: Lsn) -> bool {
        let (info, manager) = (header.get(16).copied(), header.get(17).copied());
        match (manager.zip(info), main_data(data)) {
            (Some((RM_XLOG, info)), _) if info & 0xF0 == XLOG_SWITCH => return true,
            (Some((RM_XLOG, info)), Some(main)) => self.note(info & 0xF0, main, start),
            // Commit and abort, also of prepared transactions.
            (Some((RM_XACT, info)), Some(main)) if matches!(info & 0x70, 0 | 0x20..=0x40) => {
                self.ended(u32_at(header, 4), main, start);
            }
            _ => {}
        }
        false
    }

    /// Records the end of a transaction.
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

    /// Records the contents of a record of the resource manager XLOG.
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

/// Returns the data of a record that refers to no block, which follows the headers.
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
    bytes_at(bytes, at).map(u32::from_le_bytes)
}

fn timestamp_at(bytes: &[u8], at: usize) -> Option<Timestamp> {
    u64_at(bytes, at).map(|time| Timestamp(time.cast_signed()))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes_at(bytes, at).map(u64::from_le_bytes)
}
