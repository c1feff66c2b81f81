//! Reading the records of a segment: are they whole, and when did its
//! transactions end.
//!
//! A record (`XLogRecord`, src/include/access/xlogrecord.h) begins at a
//! multiple of 8 and goes on over as many pages as it needs, each with its
//! header in between:
//!
//! ```text
//!  0 u32 xl_tot_len   4 u32 xl_xid   8 u64 xl_prev
//! 16 u8 xl_info      17 u8 xl_rmid  20 u32 xl_crc    24 block headers, data
//! ```
//!
//! `xl_crc` is the CRC-32C of bytes 24.. followed by bytes 0..20.

use time::macros::datetime;
use time::{Duration, OffsetDateTime};

use super::page::{
    FIRST_IS_CONTRECORD, FIRST_IS_OVERWRITE_CONTRECORD, PAGE_SIZE, PageHeader, PageProblem,
};
use crate::pg::Lsn;

/// Bytes of a record's header.
const RECORD_HEADER: usize = 24;

/// How much of a record is kept to be looked at: its header, and what may stand
/// before the time in the data of a transaction's end. A record may have a
/// gigabyte.
const HEAD: usize = RECORD_HEADER + 64;
/// The longest record that PostgreSQL reads (`XLogRecordMaxSize`), in bytes.
const MAX_RECORD: u32 = 1020 << 20;

const RM_XLOG: u8 = 0;
const RM_XACT: u8 = 1;

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
}

/// Where reading the records stopped before the pages did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The segment was switched; the rest is empty by intent.
    Switched,
    /// No record where the next one should begin.
    NoRecord,
    /// Something that is no record.
    Damaged {
        /// Where.
        at: Lsn,
        /// What is wrong.
        problem: RecordProblem,
    },
}

/// What is wrong with a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordProblem {
    /// The page it stands on.
    #[error("the page is not what belongs there: {0}")]
    Page(PageProblem),
    /// A length that no record has.
    #[error("a record cannot have {0} bytes")]
    Length(u32),
    /// The checksum does not fit.
    #[error("the record's checksum does not fit its content")]
    Checksum,
    /// It does not follow the record before it.
    #[error("the record does not follow the one before it")]
    Order,
    /// The page does not go on with the record that the page before began.
    #[error("the rest of the record is not there")]
    Continuation,
}

/// Reads pages one after the other, each with its place.
#[derive(Debug)]
pub struct Scanner {
    next_page: Lsn,
    state: State,
    previous: Option<Lsn>,
    /// The earliest and the latest end of a transaction so far.
    times: Option<(Timestamp, Timestamp)>,
    /// Where the last whole record ends.
    last_end: Option<Lsn>,
}

#[derive(Debug)]
enum State {
    /// Before the first page.
    Fresh,
    /// At the end of a record.
    Between,
    /// In a record that began before the first page.
    Skipping(u32),
    /// In a record.
    Inside(Partial),
    Ended(End),
}

/// What is known of a record up to where it was read.
#[derive(Debug)]
struct Partial {
    start: Lsn,
    total: u32,
    taken: u32,
    /// Its first bytes, [`HEAD`] at most.
    head: Vec<u8>,
    /// The CRC-32C of what was read behind the header.
    crc: u32,
}

impl Partial {
    fn missing(&self) -> u32 {
        self.total.saturating_sub(self.taken)
    }

    fn take(&mut self, part: &[u8]) {
        let kept = HEAD.saturating_sub(self.head.len()).min(part.len());
        self.head
            .extend_from_slice(part.get(..kept).unwrap_or_default());
        let of_header = RECORD_HEADER.saturating_sub(self.taken as usize);
        let data = part.get(of_header..).unwrap_or_default();
        self.crc = crc32c::crc32c_append(self.crc, data);
        // Not above what is missing, so it fits.
        self.taken = self.taken.saturating_add(part.len() as u32);
    }
}

impl Scanner {
    /// A scanner whose first page begins at `start`.
    #[must_use]
    pub fn new(start: Lsn) -> Self {
        Self {
            next_page: start,
            state: State::Fresh,
            previous: None,
            times: None,
            last_end: None,
        }
    }

    /// Where reading stopped, if it did. Without an answer, every record that
    /// began and ended in the pages so far is whole.
    #[must_use]
    pub fn end(&self) -> Option<End> {
        match self.state {
            State::Ended(end) => Some(end),
            _ => None,
        }
    }

    /// When the earliest and the latest transaction of the pages so far was
    /// committed or rolled back.
    #[must_use]
    pub fn times(&self) -> Option<(Timestamp, Timestamp)> {
        self.times
    }

    /// Where the last whole record ends.
    #[must_use]
    pub fn last_end(&self) -> Option<Lsn> {
        self.last_end
    }

    /// Reads the next page, of [`PAGE_SIZE`] bytes; a shorter one is damage.
    pub fn page(&mut self, page: &[u8]) {
        let address = self.next_page;
        self.next_page = Lsn(address.0.saturating_add(PAGE_SIZE as u64));
        if matches!(self.state, State::Ended(_)) {
            return;
        }
        if let Err(end) = self.read_page(page, address) {
            self.state = State::Ended(end);
        }
    }

    fn read_page(&mut self, page: &[u8], address: Lsn) -> Result<(), End> {
        let damaged = |problem| End::Damaged {
            at: address,
            problem,
        };
        let page_damaged = |problem| damaged(RecordProblem::Page(problem));
        let header = PageHeader::parse(page).map_err(page_damaged)?;
        if page.len() != PAGE_SIZE {
            return Err(page_damaged(PageProblem::TooShort));
        }
        if header.address != address {
            return Err(page_damaged(PageProblem::Address {
                found: header.address,
                expected: address,
            }));
        }
        self.enter_page(&header).map_err(damaged)?;
        let mut at = header.length();
        while let Some(rest) = page.get(at..).filter(|rest| !rest.is_empty()) {
            let place = Lsn(address.0.saturating_add(at as u64));
            at += self.read_part(rest, place)?;
        }
        Ok(())
    }

    /// Brings what the page says about its beginning together with what the
    /// pages before said.
    fn enter_page(&mut self, header: &PageHeader) -> Result<(), RecordProblem> {
        let continues = header.info & FIRST_IS_CONTRECORD != 0;
        match &self.state {
            State::Fresh if continues && header.remaining == 0 => {
                return Err(RecordProblem::Continuation);
            }
            State::Fresh if continues => self.state = State::Skipping(header.remaining),
            State::Fresh => self.state = State::Between,
            State::Inside(_) if header.info & FIRST_IS_OVERWRITE_CONTRECORD != 0 => {
                // After a crash, what was lost of the record is left out.
                self.state = State::Between;
                self.previous = None;
            }
            State::Inside(record) => {
                if !continues || header.remaining != record.missing() {
                    return Err(RecordProblem::Continuation);
                }
            }
            State::Skipping(missing) if !continues || header.remaining != *missing => {
                return Err(RecordProblem::Continuation);
            }
            State::Between if continues => return Err(RecordProblem::Continuation),
            State::Between | State::Skipping(_) | State::Ended(_) => {}
        }
        Ok(())
    }

    /// Reads on in the rest of a page, and gives how many bytes were taken,
    /// at least one.
    fn read_part(&mut self, rest: &[u8], place: Lsn) -> Result<usize, End> {
        match &mut self.state {
            State::Skipping(missing) => {
                let taken = rest.len().min(*missing as usize);
                *missing -= u32::try_from(taken).unwrap_or(*missing);
                if *missing == 0 {
                    self.state = State::Between;
                }
                Ok(taken.max(1))
            }
            State::Between => self.begin_record(rest, place),
            State::Inside(record) => {
                let missing = record.missing() as usize;
                let (part, _) = rest.split_at(missing.min(rest.len()));
                record.take(part);
                let taken = part.len();
                if taken == missing
                    && let State::Inside(record) =
                        std::mem::replace(&mut self.state, State::Between)
                {
                    self.last_end = Some(Lsn(place.0.saturating_add(taken as u64)));
                    self.finish_record(&record)?;
                }
                Ok(taken.max(1))
            }
            State::Fresh | State::Ended(_) => Ok(rest.len()),
        }
    }

    fn begin_record(&mut self, rest: &[u8], place: Lsn) -> Result<usize, End> {
        // Records begin at multiples of 8; pages do, too.
        let padding = usize::try_from(place.0.wrapping_neg() % 8).unwrap_or_default();
        if padding > 0 {
            return Ok(padding.min(rest.len()));
        }
        let total = u32_at(rest, 0).unwrap_or_default();
        if total == 0 {
            return Err(End::NoRecord);
        }
        if (total as usize) < RECORD_HEADER || total > MAX_RECORD {
            return Err(End::Damaged {
                at: place,
                problem: RecordProblem::Length(total),
            });
        }
        self.state = State::Inside(Partial {
            start: place,
            total,
            taken: 0,
            head: Vec::new(),
            crc: 0,
        });
        self.read_part(rest, place)
    }

    fn finish_record(&mut self, record: &Partial) -> Result<(), End> {
        let start = record.start;
        let damaged = |problem| End::Damaged { at: start, problem };
        let broken = damaged(RecordProblem::Checksum);
        let (header, data) = record.head.split_at_checked(RECORD_HEADER).ok_or(broken)?;
        let crc = crc32c::crc32c_append(record.crc, header.get(..20).ok_or(broken)?);
        if u32_at(header, 20) != Some(crc) {
            return Err(broken);
        }
        let before = u64_at(header, 8).map(Lsn);
        if self.previous.is_some() && before != self.previous {
            return Err(damaged(RecordProblem::Order));
        }
        self.previous = Some(start);
        let (info, manager) = (header.get(16).copied(), header.get(17).copied());
        match (manager.zip(info), main_data(data)) {
            (Some((RM_XLOG, info)), _) if info & 0xF0 == 0x40 => Err(End::Switched),
            // Commit, abort, and both of prepared transactions.
            (Some((RM_XACT, info)), Some(main)) if matches!(info & 0x70, 0 | 0x20..=0x40) => {
                if let Some(time) = u64_at(main, 0).map(|t| Timestamp(t.cast_signed())) {
                    let (first, last) = self.times.unwrap_or((time, time));
                    self.times = Some((first.min(time), last.max(time)));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
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

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let field = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_le_bytes(*field))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let field = bytes.get(at..)?.first_chunk()?;
    Some(u64::from_le_bytes(*field))
}
