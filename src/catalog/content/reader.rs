//! Reads a content list in pieces, several in parallel: the list of a million files takes
//! 300 MB, which are never in memory at once.

use std::io;
use std::ops::Range;
use std::thread;

use super::line;
use super::packed::Packed;
use super::{LINE_MAX, LineError};
use crate::catalog::store;

/// Reads at an offset, as `FileExt::read_at` does.
pub(super) type ReadAt<'a> = &'a (dyn Fn(&mut [u8], u64) -> io::Result<usize> + Sync);

/// How a list is split.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cut {
    /// Maximum number of threads.
    pub(super) threads: usize,
    /// Number of bytes that a thread reads at a time; less than this is not worth a
    /// thread.
    pub(super) piece: usize,
}

impl Default for Cut {
    fn default() -> Self {
        Self {
            threads: thread::available_parallelism().map_or(1, usize::from),
            piece: 1 << 20,
        }
    }
}

/// The contents of a list, or of a part of one.
#[derive(Debug, Default)]
pub(super) struct Parsed {
    pub(super) packed: Packed,
    /// CRC-32C of its bytes.
    pub(super) crc: u32,
    /// The first invalid line, counted from 0.
    pub(super) wrong: Option<(usize, LineError)>,
    /// Whether reading was abandoned at an endless line. The rest was then not read, and
    /// the checksum does not cover all bytes.
    pub(super) given_up: bool,
    length: u64,
    lines: usize,
}

impl Parsed {
    fn line(&mut self, text: &[u8]) {
        if self.wrong.is_none() && !text.trim_ascii().is_empty() {
            let parsed = match text.len() > LINE_MAX {
                true => Err(LineError::TooLong),
                false => line::parse(text),
            };
            let pushed = parsed.and_then(|entry| self.packed.push(&entry));
            self.wrong = pushed.err().map(|what| (self.lines, what));
        }
        self.lines += 1;
    }

    /// Appends the part that follows this one.
    fn append(&mut self, next: Self) {
        let length = usize::try_from(next.length).unwrap_or(usize::MAX);
        self.crc = crc32c::crc32c_combine(self.crc, next.crc, length);
        if self.wrong.is_none() {
            let within = next.wrong.map(|(at, what)| (self.lines + at, what));
            let too_much = |what| (self.lines, what);
            self.wrong = within.or(self.packed.append(&next.packed).err().map(too_much));
        }
        self.given_up |= next.given_up;
        self.length += next.length;
        self.lines += next.lines;
    }

    /// Abandons reading at an endless line.
    fn give_up(mut self) -> Self {
        self.wrong.get_or_insert((self.lines, LineError::TooLong));
        self.given_up = true;
        self
    }
}

/// Parses the `length` bytes of a list.
pub(super) fn parse(read: ReadAt<'_>, length: u64, cut: Cut) -> io::Result<Parsed> {
    let parts = (length / cut.piece as u64).clamp(1, cut.threads as u64);
    let border = |part: u64| u128::from(length) * u128::from(part) / u128::from(parts);
    // At most `length`, so they fit.
    let ranges = (0..parts).map(|part| border(part) as u64..border(part + 1) as u64);
    thread::scope(|scope| {
        let others: Vec<_> = ranges
            .skip(1)
            .map(|range| scope.spawn(move || parse_range(read, range, cut.piece)))
            .collect();
        let mut whole = parse_range(read, 0..border(1) as u64, cut.piece)?;
        for other in others {
            let joined = other.join();
            whole.append(joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        Ok(whole)
    })
}

/// Parses the lines that start within a range of bytes.
fn parse_range(read: ReadAt<'_>, range: Range<u64>, piece: usize) -> io::Result<Parsed> {
    let mut parsed = Parsed {
        length: range.end - range.start,
        ..Parsed::default()
    };
    // Start with the byte before, which shows whether a line starts at the range's start.
    // Everything up to the first line feed belongs to a line that starts earlier.
    let mut is_rest = range.start > 0;
    let mut begin = range.start.saturating_sub(1);
    let mut buffer = Vec::new();
    let mut read_to = begin;
    while begin < range.end {
        let kept = buffer.len();
        let ended = fill(read, &mut buffer, read_to, piece)?;
        let new = buffer.get(kept..).unwrap_or_default();
        parsed.crc = crc32c::crc32c_append(parsed.crc, within(new, read_to, &range));
        read_to += new.len() as u64;
        let mut rest = &buffer[..];
        while begin < range.end && !rest.is_empty() {
            let text = match memchr::memchr(b'\n', rest) {
                Some(end) => &rest[..=end],
                None if ended => rest,
                None if rest.len() > LINE_MAX => return Ok(parsed.give_up()),
                None => break,
            };
            rest = &rest[text.len()..];
            begin += text.len() as u64;
            if !std::mem::take(&mut is_rest) {
                parsed.line(text);
            }
        }
        if ended {
            break;
        }
        let used = buffer.len() - rest.len();
        buffer.drain(..used);
    }
    Ok(parsed)
}

/// Computes the CRC-32C of a list's bytes; `None` if it has an endless line, and so is
/// not a list.
pub(super) fn checksum(read: ReadAt<'_>) -> io::Result<Option<u32>> {
    let (mut crc, mut at, mut buffer) = (0, 0, Vec::new());
    loop {
        buffer.clear();
        let ended = fill(read, &mut buffer, at, Cut::default().piece)?;
        crc = crc32c::crc32c_append(crc, &buffer);
        at += buffer.len() as u64;
        if ended {
            return Ok(Some(crc));
        }
        if memchr::memchr(b'\n', &buffer).is_none() {
            return Ok(None);
        }
    }
}

/// Appends up to a piece of what is at an offset, and returns whether the file ends
/// there.
fn fill(read: ReadAt<'_>, buffer: &mut Vec<u8>, at: u64, piece: usize) -> io::Result<bool> {
    let kept = buffer.len();
    buffer.resize(kept + piece, 0);
    let filled = kept + store::fill(&mut buffer[kept..], |rest, from| read(rest, at + from))?;
    let ended = filled < buffer.len();
    buffer.truncate(filled);
    Ok(ended)
}

/// Returns the part of the bytes read at an offset that is in the range.
fn within<'a>(bytes: &'a [u8], offset: u64, range: &Range<u64>) -> &'a [u8] {
    let place = |at: u64| {
        let at = usize::try_from(at.saturating_sub(offset));
        at.map_or(bytes.len(), |at| at.min(bytes.len()))
    };
    bytes
        .get(place(range.start)..place(range.end))
        .unwrap_or_default()
}
