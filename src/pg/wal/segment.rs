//! Segment names: `TTTTTTTTLLLLLLLLSSSSSSSS`, with eight hexadecimal digits each for the
//! timeline, the "log" (the LSN's upper half) and the segment within that log
//! (`XLogFileName`, src/include/access/xlog_internal.h).

use std::fmt;

use crate::pg::Lsn;

/// Size in bytes of one "log", the unit of WAL that an LSN's upper half counts.
const LOG_BYTES: u64 = 1 << 32;

/// Length of a segment's name.
const NAME_LENGTH: usize = 24;

/// Size of a WAL segment in bytes: a power of two from 1 MiB to 1 GiB, chosen by `initdb
/// --wal-segsize`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentSize(u32);

impl SegmentSize {
    /// Returns the size of that many bytes, if PostgreSQL allows it
    /// (`IsValidWalSegSize`).
    #[must_use]
    pub fn new(bytes: u64) -> Option<Self> {
        let allowed = 1 << 20..=1 << 30;
        let bytes = u32::try_from(bytes).ok()?;
        (bytes.is_power_of_two() && allowed.contains(&bytes)).then_some(Self(bytes))
    }

    /// Returns the size in bytes.
    #[must_use]
    pub fn bytes(self) -> u64 {
        u64::from(self.0)
    }

    fn per_log(self) -> u64 {
        LOG_BYTES / self.bytes()
    }
}

/// One segment of one timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentId {
    /// The timeline, from 1.
    pub timeline: u32,
    /// The segment's number since LSN 0/0.
    pub number: u64,
}

impl SegmentId {
    /// Parses a segment's name; `None` if it is not a valid name for this size.
    #[must_use]
    pub fn parse(name: &str, size: SegmentSize) -> Option<Self> {
        if !is_segment_name(name) {
            return None;
        }
        let part = |at: usize| u32::from_str_radix(name.get(at..at + 8)?, 16).ok();
        let (timeline, log, rest) = (part(0)?, u64::from(part(8)?), u64::from(part(16)?));
        (timeline > 0 && rest < size.per_log()).then_some(Self {
            timeline,
            number: log * size.per_log() + rest,
        })
    }

    /// Returns the segment that contains the byte at `lsn`.
    #[must_use]
    pub fn containing(lsn: Lsn, timeline: u32, size: SegmentSize) -> Self {
        Self {
            timeline,
            number: lsn.0 / size.bytes(),
        }
    }

    /// Returns the position of the segment's start.
    #[must_use]
    pub fn start(self, size: SegmentSize) -> Lsn {
        Lsn(self.number.saturating_mul(size.bytes()))
    }

    /// Returns the position of the next segment's start.
    #[must_use]
    pub fn end(self, size: SegmentSize) -> Lsn {
        self.next().start(size)
    }

    /// Returns the next segment on the same timeline.
    #[must_use]
    pub fn next(self) -> Self {
        Self {
            number: self.number.saturating_add(1),
            ..self
        }
    }

    /// Returns the name of its file.
    #[must_use]
    pub fn name(self, size: SegmentSize) -> SegmentName {
        SegmentName { id: self, size }
    }
}

/// A segment's file name, for display.
#[derive(Debug, Clone, Copy)]
pub struct SegmentName {
    id: SegmentId,
    size: SegmentSize,
}

impl fmt::Display for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let log = self.id.number / self.size.per_log();
        let rest = self.id.number % self.size.per_log();
        write!(f, "{:08X}{log:08X}{rest:08X}", self.id.timeline)
    }
}

/// Whether a name has the format of a segment name, whatever the segment size
/// (`IsXLogFileName`).
#[must_use]
pub fn is_segment_name(name: &str) -> bool {
    name.len() == NAME_LENGTH && name.bytes().all(is_upper_hex)
}

/// Returns the timeline of a history file, given its name `TTTTTTTT.history`.
#[must_use]
pub fn history_timeline(name: &str) -> Option<u32> {
    let digits = name.strip_suffix(".history")?;
    if digits.len() != 8 || !digits.bytes().all(is_upper_hex) {
        return None;
    }
    u32::from_str_radix(digits, 16).ok()
}

/// Returns the segment that a backup history file belongs to, given its name
/// `SEGMENT.OFFSET.backup` (`IsBackupHistoryFileName`).
#[must_use]
pub fn backup_history_segment(name: &str) -> Option<&str> {
    let (segment, offset) = name.strip_suffix(".backup")?.split_once('.')?;
    let is_offset = offset.len() == 8 && offset.bytes().all(is_upper_hex);
    (is_segment_name(segment) && is_offset).then_some(segment)
}

fn is_upper_hex(byte: u8) -> bool {
    byte.is_ascii_digit() || (b'A'..=b'F').contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1 << 20;

    fn size(bytes: u64) -> SegmentSize {
        SegmentSize::new(bytes).unwrap()
    }

    #[test]
    fn sizes_are_powers_of_two_within_postgresqls_limits() {
        for bytes in [MB, 16 * MB, 1 << 30] {
            assert_eq!(size(bytes).bytes(), bytes);
        }
        for bytes in [0, 1, MB / 2, 3 * MB, 1 << 31, 1 << 40] {
            assert_eq!(SegmentSize::new(bytes), None, "{bytes}");
        }
    }

    #[test]
    fn names_and_positions_agree() {
        for (bytes, name, start) in [
            (MB, "00000001000000000000004C", "0/4C00000"),
            (MB, "000000020000000100000FFF", "1/FFF00000"),
            (16 * MB, "0000000A000000030000000F", "3/F000000"),
            (1 << 30, "000000010000000700000003", "7/C0000000"),
        ] {
            let size = size(bytes);
            let id = SegmentId::parse(name, size).unwrap();
            assert_eq!(id.name(size).to_string(), name);
            assert_eq!(id.start(size).to_string(), start);
            let last = Lsn(id.end(size).0 - 1);
            assert_eq!(SegmentId::containing(last, id.timeline, size), id);
            assert_eq!(
                SegmentId::containing(id.end(size), id.timeline, size),
                id.next()
            );
        }
        let last_of_log = SegmentId::parse("0000000100000000000000FF", size(16 * MB)).unwrap();
        assert_eq!(
            last_of_log.next().name(size(16 * MB)).to_string(),
            "000000010000000100000000"
        );
    }

    #[test]
    fn what_is_no_segment() {
        for name in [
            "",
            "00000001000000000000004",
            "00000001000000000000004c",
            "00000001000000000000004C.gz",
            "00000000000000000000004C",
            "0000000100000000000001FF",
            "0000000100000000é0001FF",
        ] {
            assert_eq!(SegmentId::parse(name, size(16 * MB)), None, "{name}");
        }
    }

    #[test]
    fn other_files_of_an_archive() {
        assert_eq!(history_timeline("0000000A.history"), Some(10));
        assert_eq!(history_timeline("A.history"), None);
        let backup = "00000001000000000000003F.00000028.backup";
        assert_eq!(
            backup_history_segment(backup),
            Some("00000001000000000000003F")
        );
        assert_eq!(
            backup_history_segment("00000001000000000000003F.backup"),
            None
        );
    }
}
