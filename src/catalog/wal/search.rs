//! Finds a restore point, or the end of a transaction, in an archive.
//!
//! PostgreSQL finds them by replaying; they are not listed anywhere. The segments are
//! read from the newest backwards, on all cores, each once, until one contains what is
//! searched for. They may be compressed, incomplete, or inaccessible to other users, so
//! `pg_waldump`, which is not installed everywhere, could not read them directly.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use super::{WalArchive, WalError};
use crate::causes::sentence;
use crate::pg::Lsn;
use crate::pg::wal::page::PAGE_SIZE;
use crate::pg::wal::scan::Scanner;
use crate::pg::wal::told::{RestorePoint, Told, Wanted};
use crate::pg::wal::{History, SegmentId};

/// Number of items kept of each kind, the newest ones.
const KEPT: usize = 1000;

/// A search through an archive's WAL.
pub struct Search<'a> {
    archive: &'a WalArchive,
    wanted: Wanted,
    /// Whether the search may continue.
    go_on: &'a (dyn Fn() -> bool + Sync),
    there: BTreeSet<SegmentId>,
    known: Mutex<Known>,
}

/// The results of a search so far.
#[derive(Default)]
struct Known {
    read: BTreeSet<SegmentId>,
    /// Positions of the matches, with the timelines of their segments.
    found: BTreeSet<(Lsn, u32)>,
    /// The restore points found.
    seen: BTreeMap<Lsn, RestorePoint>,
}

impl Known {
    fn take(&mut self, id: SegmentId, told: Told) {
        self.read.insert(id);
        let found = told.found.into_iter().map(|lsn| (lsn, id.timeline));
        self.found.extend(found);
        let seen = told.restore_points.into_iter();
        self.seen.extend(seen.map(|point| (point.lsn, point)));
        while self.found.len() > KEPT {
            self.found.pop_first();
        }
        while self.seen.len() > KEPT {
            self.seen.pop_first();
        }
    }

    fn newest(&self, history: &History, from: Lsn) -> Option<Lsn> {
        let mut newest_first = self.found.iter().rev();
        let fits = |(lsn, timeline): &&(Lsn, u32)| *lsn >= from && is_on(history, *timeline, *lsn);
        newest_first.find(fits).map(|(lsn, _)| *lsn)
    }
}

impl<'a> Search<'a> {
    /// Creates a search; only the archive's list is read.
    ///
    /// # Errors
    /// If the archive cannot be listed.
    pub fn new(
        archive: &'a WalArchive,
        wanted: Wanted,
        go_on: &'a (dyn Fn() -> bool + Sync),
    ) -> Result<Self, WalError> {
        Ok(Self {
            archive,
            wanted,
            go_on,
            there: archive.segment_ids()?,
            known: Mutex::default(),
        })
    }

    /// Returns the position of the newest match on a history, from `from` on: the start
    /// of its record. A segment that cannot be read is skipped, because recovery would
    /// not get past it.
    pub fn newest(&mut self, history: &History, from: Lsn) -> Option<Lsn> {
        let size = self.archive.size;
        let first = SegmentId::containing(from, history.timeline, size).number;
        let known = known_of(&mut self.known);
        if let Some(known) = known.newest(history, from) {
            return Some(known);
        }
        let mut segments: Vec<SegmentId> = self.there.difference(&known.read).copied().collect();
        segments.retain(|id| id.number >= first && is_on(history, id.timeline, id.start(size)));
        segments.sort_by_key(|id| Reverse((id.number, id.timeline)));
        self.read_until_found(history, from, &segments);
        known_of(&mut self.known).newest(history, from)
    }

    /// Returns the restore points found during the search, oldest first; if there are
    /// very many, only the newest.
    pub fn seen(&mut self) -> impl Iterator<Item = &RestorePoint> {
        known_of(&mut self.known).seen.values()
    }

    /// Reads the segments in order, with as many threads as there are processors, until
    /// one contains a match. All segments before that one are read, too.
    fn read_until_found(&self, history: &History, from: Lsn, segments: &[SegmentId]) {
        let (next, is_over) = (AtomicUsize::new(0), AtomicBool::new(false));
        let work = || {
            while !is_over.load(Ordering::Acquire) && (self.go_on)() {
                let Some(id) = segments.get(next.fetch_add(1, Ordering::Relaxed)) else {
                    return;
                };
                let told = self.read(*id);
                let fits = |lsn: &Lsn| *lsn >= from && is_on(history, id.timeline, *lsn);
                if told.found.iter().any(fits) {
                    is_over.store(true, Ordering::Release);
                }
                // A panicking thread has left it intact.
                let known = self.known.lock();
                known.unwrap_or_else(|e| e.into_inner()).take(*id, told);
            }
        };
        let threads = thread::available_parallelism().map_or(1, usize::from);
        thread::scope(|scope| {
            for _ in 0..threads.min(segments.len()) {
                scope.spawn(work);
            }
        });
    }

    fn read(&self, id: SegmentId) -> Told {
        let scanner = Scanner::new(id.start(self.archive.size)).looking_for(self.wanted.clone());
        self.archive
            .records_of(id, scanner)
            .unwrap_or_else(|error| {
                tracing::warn!("the search skips a segment: {}", sentence(&error));
                Told::default()
            })
    }
}

fn known_of(known: &mut Mutex<Known>) -> &mut Known {
    known.get_mut().unwrap_or_else(|e| e.into_inner())
}

/// Whether the WAL at `lsn` in a timeline's segment is part of a history.
fn is_on(history: &History, timeline: u32, lsn: Lsn) -> bool {
    let mut ancestors = history.ancestors.iter();
    let left = ancestors.find(|ancestor| ancestor.timeline == timeline);
    timeline == history.timeline || left.is_some_and(|left| lsn < left.end)
}

impl WalArchive {
    /// Returns what the records that start in a segment report. The last record is read
    /// to its end, which may be in a later segment.
    fn records_of(&self, id: SegmentId, scanner: Scanner) -> Result<Told, WalError> {
        let mut scanner = self.scan_with(id, scanner)?;
        let mut next = id.next();
        let mut page = vec![0; PAGE_SIZE];
        while scanner.is_inside() {
            let Some(mut source) = self.open_segment(next)? else {
                break;
            };
            loop {
                let filled = source.fill(&mut page)?;
                scanner.page(page.get(..filled).unwrap_or_default());
                if filled < PAGE_SIZE || !scanner.is_inside() {
                    break;
                }
            }
            next = next.next();
        }
        Ok(scanner.into_told())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;
    use crate::catalog::fixtures;
    use crate::pg::wal::page::PageHeader;

    struct Sample {
        _unpacked: TempDir,
        archive: WalArchive,
    }

    impl Sample {
        fn new() -> Self {
            let unpacked = fixtures::unpack_wal("pg15-chain");
            let archive = WalArchive::open(&fixtures::main_instance(&unpacked)).unwrap();
            Self {
                _unpacked: unpacked,
                archive,
            }
        }

        fn newest(&self, wanted: Wanted, timeline: u32, from: &str) -> Option<String> {
            let history = self.archive.history(timeline).unwrap();
            let mut search = Search::new(&self.archive, wanted, &|| true).unwrap();
            let found = search.newest(&history, from.parse().unwrap());
            found.map(|lsn| lsn.to_string())
        }

        /// Appends WAL to the archive, after all existing segments.
        fn extend(&self, wal: &Wal) {
            let size = usize::try_from(self.archive.size.bytes()).unwrap();
            for (segment, number) in wal.bytes.chunks(size).zip(FIRST..) {
                let timeline = 1;
                let name = self.archive.name(SegmentId { timeline, number });
                let mut whole = segment.to_vec();
                whole.resize(size, 0);
                fs::write(self.archive.dir.join(name), whole).unwrap();
            }
        }
    }

    /// The number of the segment after the last.
    const FIRST: u64 = 0x62;

    /// WAL under construction, starting with the segment [`FIRST`].
    struct Wal {
        bytes: Vec<u8>,
        system_identifier: u64,
        previous: u64,
    }

    impl Wal {
        const SEGMENT: usize = 1 << 20;

        fn new(sample: &Sample) -> Self {
            let last = system_identifier_of(&sample.archive);
            Self {
                bytes: Vec::new(),
                system_identifier: last,
                previous: 0,
            }
        }

        fn here(&self) -> u64 {
            FIRST * Self::SEGMENT as u64 + self.bytes.len() as u64
        }

        /// Starts a page with `remaining` bytes of the record before.
        fn page(&mut self, remaining: usize) {
            let is_first = self.bytes.len().is_multiple_of(Self::SEGMENT);
            let flags = u16::from(remaining > 0) | if is_first { 2 } else { 0 };
            let here = self.here();
            self.bytes.extend(0xD110_u16.to_le_bytes());
            self.bytes.extend(flags.to_le_bytes());
            self.bytes.extend(1_u32.to_le_bytes());
            self.bytes.extend(here.to_le_bytes());
            self.bytes.extend((remaining as u32).to_le_bytes());
            self.bytes.extend([0; 4]);
            if is_first {
                self.bytes.extend(self.system_identifier.to_le_bytes());
                self.bytes.extend((Self::SEGMENT as u32).to_le_bytes());
                self.bytes.extend((PAGE_SIZE as u32).to_le_bytes());
            }
        }

        /// Adds a record of the resource manager XLOG, and returns its position.
        fn record(&mut self, info: u8, data: &[u8]) -> Lsn {
            let mut body = vec![254];
            body.extend((data.len() as u32).to_le_bytes());
            body.extend(data);
            self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
            if self.bytes.len().is_multiple_of(PAGE_SIZE) {
                self.page(0);
            }
            let start = self.here();
            let mut header = Vec::new();
            header.extend(((24 + body.len()) as u32).to_le_bytes());
            header.extend(0_u32.to_le_bytes());
            header.extend(self.previous.to_le_bytes());
            header.extend([info, 0, 0, 0]);
            let crc = crc32c::crc32c_append(crc32c::crc32c(&body), &header);
            header.extend(crc.to_le_bytes());
            self.previous = start;
            let record = [header, body].concat();
            let mut rest = &record[..];
            while !rest.is_empty() {
                if self.bytes.len().is_multiple_of(PAGE_SIZE) {
                    self.page(rest.len());
                }
                let room = PAGE_SIZE - self.bytes.len() % PAGE_SIZE;
                let (part, more) = rest.split_at(room.min(rest.len()));
                self.bytes.extend(part);
                rest = more;
            }
            Lsn(start)
        }

        fn restore_point(&mut self, name: &str) -> Lsn {
            let mut data = vec![0; 72];
            data[8..8 + name.len()].copy_from_slice(name.as_bytes());
            self.record(0x70, &data)
        }
    }

    fn system_identifier_of(archive: &WalArchive) -> u64 {
        let id = SegmentId {
            timeline: 1,
            number: FIRST - 1,
        };
        let mut page = vec![0; PAGE_SIZE];
        let mut source = archive.open_segment(id).unwrap().unwrap();
        source.fill(&mut page).unwrap();
        let long = PageHeader::parse(&page).unwrap().long.unwrap();
        long.system_identifier
    }

    #[test]
    fn points_and_transactions_are_found_where_the_live_cluster_made_them() {
        let sample = Sample::new();
        // The positions returned by pg_create_restore_point are the ends of the records.
        for (name, xid, from, end) in [
            ("before_mistake", 1271, "0/4B000B8", "0/4C037C8"),
            ("also_good", 1272, "0/4B000B8", "0/4C038D8"),
            ("after_mistake", 1275, "0/4C037C8", "0/4E6F490"),
        ] {
            let end: Lsn = end.parse().unwrap();
            let near = |found: Option<String>| {
                let found: Lsn = found.unwrap().parse().unwrap();
                assert!(found < end && end.0 - found.0 < 1000, "{name}: {found}");
            };
            near(sample.newest(Wanted::Name(name.into()), 1, from));
            near(sample.newest(Wanted::Xid(xid), 1, from));
            let behind = end.to_string();
            assert_eq!(sample.newest(Wanted::Name(name.into()), 1, &behind), None);
        }
    }

    #[test]
    fn what_is_not_there_is_answered_with_what_is() {
        let sample = Sample::new();
        let history = sample.archive.history(1).unwrap();
        let mut search =
            Search::new(&sample.archive, Wanted::Name("never".into()), &|| true).unwrap();
        assert_eq!(search.newest(&history, Lsn(0)), None);
        let seen: Vec<&str> = search.seen().map(|point| &*point.name).collect();
        let all = ["before_mistake", "also_good", "after_mistake"];
        assert!(seen.windows(3).any(|three| three == all), "{seen:?}");
        // A signal ends it.
        let mut search =
            Search::new(&sample.archive, Wanted::Name("never".into()), &|| false).unwrap();
        assert_eq!(search.newest(&history, Lsn(0)), None);
        assert_eq!(search.seen().count(), 0);
    }

    #[test]
    fn what_an_older_timeline_went_on_with_does_not_count() {
        let sample = Sample::new();
        let switch = "1\t0/4C037D0\tbefore a mistake\n";
        fs::write(sample.archive.dir.join("00000002.history"), switch).unwrap();
        let newest =
            |name: &str, timeline| sample.newest(Wanted::Name(name.into()), timeline, "0/4B000B8");
        assert!(newest("before_mistake", 2).is_some());
        for name in ["also_good", "after_mistake"] {
            assert!(newest(name, 1).is_some());
            assert_eq!(newest(name, 2), None, "{name}");
        }
    }

    #[test]
    fn wal_full_of_restore_points_is_searched_within_bounds() {
        let sample = Sample::new();
        let mut wal = Wal::new(&sample);
        let one = wal.restore_point("one");
        for _ in 0..KEPT + 500 {
            wal.restore_point("many");
        }
        sample.extend(&wal);
        let history = sample.archive.history(1).unwrap();
        let wanted = Wanted::Name("one".into());
        let mut search = Search::new(&sample.archive, wanted, &|| true).unwrap();
        assert_eq!(search.newest(&history, Lsn(0)), Some(one));
        let told = sample.archive.records_of(
            SegmentId::containing(one, 1, sample.archive.size),
            Scanner::new(Lsn(FIRST * Wal::SEGMENT as u64)),
        );
        assert_eq!(told.unwrap().restore_points.len(), KEPT);
        assert!(search.seen().count() <= KEPT);
    }

    #[test]
    fn the_newest_of_a_name_counts_and_one_across_two_segments_is_found() {
        let sample = Sample::new();
        let mut wal = Wal::new(&sample);
        let first = wal.restore_point("twice");
        let second = wal.restore_point("twice");
        // Fills the segment, leaving room for only part of the next record.
        let room = Wal::SEGMENT - wal.bytes.len();
        let headers = (room / PAGE_SIZE) * 24;
        wal.record(0x20, &vec![0; room - headers - 29 - 48]);
        let across = wal.restore_point("across");
        let end_of_segment = (FIRST + 1) * Wal::SEGMENT as u64;
        assert!(across.0 < end_of_segment && across.0 + 101 > end_of_segment);
        sample.extend(&wal);
        let newest = |name: &str| sample.newest(Wanted::Name(name.into()), 1, "0/4B000B8");
        assert_eq!(newest("twice"), Some(second.to_string()));
        assert!(first < second);
        assert_eq!(newest("across"), Some(across.to_string()));
        // A segment that cannot be read is skipped.
        let name = sample.archive.name(SegmentId {
            timeline: 1,
            number: FIRST,
        });
        fs::write(sample.archive.dir.join(name), b"no WAL").unwrap();
        assert_eq!(newest("twice"), None);
        assert!(newest("after_mistake").is_some());
    }
}
