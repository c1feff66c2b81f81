//! How far recovery can proceed with an archive, beginning at a backup's start.

use std::collections::BTreeSet;

use super::{WalArchive, WalError};
use crate::pg::Lsn;
use crate::pg::wal::page::PAGE_SIZE;
use crate::pg::wal::scan::Scanner;
use crate::pg::wal::segment::history_timeline;
use crate::pg::wal::told::{Ended, Timestamp};
use crate::pg::wal::{History, SegmentId};

/// Number of final segments that are searched for a transaction's end.
const SEGMENTS_READ: usize = 64;

/// What recovery along one timeline finds, beginning at a backup's start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reach {
    /// The timeline and its ancestors.
    pub history: History,
    /// The first and the last segment of the uninterrupted run that starts with the
    /// backup's segment; `None` if the archive lacks even that.
    pub segments: Option<(SegmentId, SegmentId)>,
    /// The segment after the run, if the archive continues after it.
    pub missing: Option<SegmentId>,
}

/// The end of the WAL that recovery can replay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WalEnd {
    /// End of the last whole record.
    pub lsn: Option<Lsn>,
    /// Time at which the last transaction ended.
    pub time: Option<Timestamp>,
    /// The last end of a transaction in WAL order.
    pub last_ended: Option<Ended>,
    /// The latest time found in the WAL that was read.
    pub clock: Option<Timestamp>,
}

impl WalArchive {
    /// Returns the newest timeline that PostgreSQL finds, starting from `timeline`: it
    /// tries increasing numbers until one has no history (`findNewestTimeLine`).
    ///
    /// # Errors
    /// If the archive cannot be listed.
    pub fn newest_timeline(&self, timeline: u32) -> Result<u32, WalError> {
        let known: BTreeSet<u32> = self
            .names()?
            .iter()
            .filter_map(|name| history_timeline(name))
            .collect();
        let mut newest = timeline;
        while let Some(next) = newest.checked_add(1).filter(|next| known.contains(next)) {
            newest = next;
        }
        Ok(newest)
    }

    /// Determines how far recovery along `timeline` can proceed from `start`, judged by
    /// the names of the archive's files.
    ///
    /// # Errors
    /// If the archive or a history cannot be read.
    pub fn reach(&self, start: Lsn, timeline: u32) -> Result<Reach, WalError> {
        let history = self.history(timeline)?;
        let there = self.segment_ids()?;
        let mut run = None;
        let mut number = SegmentId::containing(start, timeline, self.size).number;
        while let Some(id) = self.on_history(&history, number, &there) {
            run = Some((run.map_or(id, |(first, _)| first), id));
            number = number.saturating_add(1);
        }
        let behind = self.youngest(&history, number);
        let goes_on = there.iter().any(|id| {
            id.number > number && history.timeline_at(id.start(self.size)) == id.timeline
        });
        Ok(Reach {
            history,
            segments: run,
            missing: goes_on.then_some(behind),
        })
    }

    /// Returns the segment with that number on a history. If a timeline was left in its
    /// middle, the newer timeline's file contains both parts.
    fn youngest(&self, history: &History, number: u64) -> SegmentId {
        let timeline = history.timeline;
        let start = SegmentId { timeline, number }.start(self.size);
        let last_byte = Lsn(start.0.saturating_add(self.size.bytes() - 1));
        SegmentId {
            timeline: history.timeline_at(last_byte),
            number,
        }
    }

    /// Returns that segment, if it exists. If nothing of the newer timeline is archived
    /// yet, the older timeline's file leads up to the switch.
    fn on_history(
        &self,
        history: &History,
        number: u64,
        there: &BTreeSet<SegmentId>,
    ) -> Option<SegmentId> {
        let id = self.youngest(history, number);
        if there.contains(&id) {
            return Some(id);
        }
        let older = SegmentId {
            timeline: history.timeline_at(id.start(self.size)),
            number,
        };
        let goes_on = |other: &SegmentId| other.timeline == id.timeline && other.number > number;
        let leads = older != id && there.contains(&older) && !there.iter().any(goes_on);
        leads.then_some(older)
    }

    /// Finds the end of the run by reading its last segments.
    ///
    /// # Errors
    /// If one of them cannot be read or is damaged.
    pub fn end_of(&self, reach: &Reach) -> Result<WalEnd, WalError> {
        let mut end = WalEnd::default();
        let Some((first, last)) = reach.segments else {
            return Ok(end);
        };
        // WAL written on an older timeline after the switch is not part of this history.
        let mut ancestors = reach.history.ancestors.iter();
        let left = ancestors.find(|entry| entry.timeline == last.timeline);
        let left = left.map_or(Lsn(u64::MAX), |entry| entry.end);
        let numbers = (first.number..=last.number).rev().take(SEGMENTS_READ);
        for number in numbers {
            let start = SegmentId { number, ..last }.start(self.size);
            let timelines = [last.timeline, reach.history.timeline_at(start)];
            let scanner = self.scan_first(timelines, number)?;
            end.lsn = end.lsn.or(scanner.last_end().map(|lsn| lsn.min(left)));
            end.clock = end.clock.max(scanner.told().clock);
            end.last_ended = scanner.told().last_ended;
            if let Some((_, last)) = scanner.told().times {
                end.time = Some(last);
                break;
            }
        }
        Ok(end)
    }

    fn scan_first(&self, timelines: [u32; 2], number: u64) -> Result<Scanner, WalError> {
        for timeline in timelines {
            let id = SegmentId { timeline, number };
            if self.open_segment(id)?.is_some() {
                return self.scan(id);
            }
        }
        Ok(Scanner::new(Lsn(0)))
    }

    pub(super) fn scan(&self, id: SegmentId) -> Result<Scanner, WalError> {
        self.scan_with(id, Scanner::new(id.start(self.size)))
    }

    /// Reads a segment with the given scanner.
    pub(super) fn scan_with(
        &self,
        id: SegmentId,
        mut scanner: Scanner,
    ) -> Result<Scanner, WalError> {
        let Some(mut source) = self.open_segment(id)? else {
            return Ok(scanner);
        };
        self.read_segment(id, &mut source, &mut |chunk| {
            chunk.chunks(PAGE_SIZE).for_each(|page| scanner.page(page));
            Ok(())
        })?;
        Ok(scanner)
    }
}
