//! Reads the records of a segment: checks that they are whole, and collects what they
//! report ([`Told`]).
//!
//! A record (`XLogRecord`, src/include/access/xlogrecord.h) starts at a multiple of 8 and
//! continues over as many pages as it needs, each with its header in between:
//!
//! ```text
//!  0 u32 xl_tot_len   4 u32 xl_xid   8 u64 xl_prev
//! 16 u8 xl_info      17 u8 xl_rmid  20 u32 xl_crc    24 block headers, data
//! ```
//!
//! `xl_crc` is the CRC-32C of bytes 24.. followed by bytes 0..20.

use super::page::{
    FIRST_IS_CONTRECORD, FIRST_IS_OVERWRITE_CONTRECORD, PAGE_SIZE, PageHeader, PageProblem,
};
use super::told::{RECORD_HEADER, Told, Wanted, u32_at, u64_at};
use crate::pg::Lsn;

/// Bytes of a record that are kept for inspection: its header, whatever may precede its
/// data, and the first 72 bytes of a checkpoint or restore point, which is all that
/// matters. A whole record may be a gigabyte.
const HEAD: usize = RECORD_HEADER + 96;
/// Size in bytes of the longest record that PostgreSQL reads (`XLogRecordMaxSize`).
const MAX_RECORD: u32 = 1020 << 20;

/// Why reading the records stopped before the last page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The segment was switched; the rest is intentionally empty.
    Switched,
    /// There is no record where the next one should start.
    NoRecord,
    /// There is something other than a valid record.
    Damaged {
        /// Its position.
        at: Lsn,
        /// What is wrong.
        problem: RecordProblem,
    },
}

/// What is wrong with a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordProblem {
    /// The record is on an invalid page.
    #[error("the page is not the expected one: {0}")]
    Page(PageProblem),
    /// No record has this length.
    #[error("a record cannot be {0} bytes long")]
    Length(u32),
    /// The checksum does not match.
    #[error("the record's checksum does not match its content")]
    Checksum,
    /// It does not follow the record before it.
    #[error("the record does not follow the one before it")]
    Order,
    /// The page does not continue the record that the page before started.
    #[error("the rest of the record is missing")]
    Continuation,
}

/// Reads pages in order, each at its position.
#[derive(Debug)]
pub struct Scanner {
    next_page: Lsn,
    state: State,
    previous: Option<Lsn>,
    told: Told,
    /// End of the last whole record.
    last_end: Option<Lsn>,
}

#[derive(Debug)]
enum State {
    /// Before the first page.
    Fresh,
    /// At the end of a record.
    Between,
    /// In a record that started before the first page.
    Skipping(u32),
    /// In a record.
    Inside(Partial),
    Ended(End),
}

/// The part of a record read so far.
#[derive(Debug)]
struct Partial {
    start: Lsn,
    total: u32,
    taken: u32,
    /// Its first bytes, at most [`HEAD`].
    head: Vec<u8>,
    /// The CRC-32C of what was read after the header.
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
        // This is at most what is missing, so it fits.
        self.taken = self.taken.saturating_add(part.len() as u32);
    }
}

impl Scanner {
    /// Creates a scanner whose first page starts at `start`.
    #[must_use]
    pub fn new(start: Lsn) -> Self {
        Self {
            next_page: start,
            state: State::Fresh,
            previous: None,
            told: Told::default(),
            last_end: None,
        }
    }

    /// Also searches for `wanted`.
    #[must_use]
    pub fn looking_for(mut self, wanted: Wanted) -> Self {
        self.told.wanted = Some(wanted);
        self
    }

    /// Returns why reading stopped, if it did. If it did not, every record that starts
    /// and ends in the pages so far is whole.
    #[must_use]
    pub fn end(&self) -> Option<End> {
        match self.state {
            State::Ended(end) => Some(end),
            _ => None,
        }
    }

    /// Returns what the records read so far report.
    #[must_use]
    pub fn told(&self) -> &Told {
        &self.told
    }

    /// Like [`told`](Self::told), when there is nothing left to read.
    #[must_use]
    pub fn into_told(self) -> Told {
        self.told
    }

    /// Whether the pages so far end in the middle of a record that started in them.
    #[must_use]
    pub fn is_inside(&self) -> bool {
        matches!(self.state, State::Inside(_))
    }

    /// Returns the end of the last whole record.
    #[must_use]
    pub fn last_end(&self) -> Option<Lsn> {
        self.last_end
    }

    /// Reads the next page of [`PAGE_SIZE`] bytes; a shorter one is damage.
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

    /// Reconciles the page's header with the state after the pages before.
    fn enter_page(&mut self, header: &PageHeader) -> Result<(), RecordProblem> {
        let continues = header.info & FIRST_IS_CONTRECORD != 0;
        match &self.state {
            State::Fresh if continues && header.remaining == 0 => {
                return Err(RecordProblem::Continuation);
            }
            State::Fresh if continues => self.state = State::Skipping(header.remaining),
            State::Fresh => self.state = State::Between,
            State::Inside(_) if header.info & FIRST_IS_OVERWRITE_CONTRECORD != 0 => {
                // After a crash, the lost rest of the record is omitted.
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

    /// Reads on in the rest of a page, and returns how many bytes were consumed, at least
    /// one.
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
        // Records start at multiples of 8, as pages do.
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
        match self.told.take(header, data, start) {
            true => Err(End::Switched),
            false => Ok(()),
        }
    }
}
