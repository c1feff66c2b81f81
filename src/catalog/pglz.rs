//! pglz, PostgreSQL's own LZ compression, as a bare stream without a length.
//!
//! ```text
//! stream   := group*
//! group    := control byte, then up to eight items, lowest bit first
//! item (0) := one literal byte
//! item (1) := b0 b1      length = (b0 & 15) + 3
//!                        offset = (b0 & 0xF0) << 4 | b1     1 .. 4095, backwards
//!             b2         only if length is 18: length += b2  up to 273
//! ```
//! A copy may overlap what it writes, byte by byte. `pglz_decompress` and
//! `pglz_compress` in src/common/pg_lzcompress.c.

/// The shortest copy that a tag can describe.
const MIN_COPY: usize = 3;

/// The length from which on a third byte follows.
const LONG_COPY: usize = 18;

/// The longest copy that a tag can describe.
const MAX_COPY: usize = LONG_COPY + 255;

/// The farthest a copy can reach back.
const MAX_OFFSET: usize = 4095;

/// A stream that does not decode to exactly the length wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PglzError {
    /// The stream ends inside an item or before the output is full.
    #[error("the pglz stream ends early")]
    InputEnds,
    /// A copy from before the beginning, or with offset 0.
    #[error("the pglz stream copies from offset {offset}, where {written} were written")]
    BadOffset {
        /// The offset.
        offset: usize,
        /// Bytes of output before the copy.
        written: usize,
    },
    /// More output than wanted, or input left over.
    #[error("the pglz stream is longer than its page")]
    TooLong,
}

/// Decodes a stream that must fill `output` exactly and be used up by it.
///
/// # Errors
/// If the stream is damaged in any way that its form can show.
pub fn decompress(input: &[u8], output: &mut [u8]) -> Result<(), PglzError> {
    let mut input = input.iter().copied();
    let mut next = || input.next().ok_or(PglzError::InputEnds);
    let mut written = 0;
    while written < output.len() {
        let control = next()?;
        for bit in 0..8 {
            if written == output.len() {
                break;
            }
            if control >> bit & 1 == 0 {
                let literal = next()?;
                output[written] = literal;
                written += 1;
                continue;
            }
            let (b0, b1) = (usize::from(next()?), usize::from(next()?));
            let mut length = (b0 & 15) + MIN_COPY;
            let offset = (b0 & 0xF0) << 4 | b1;
            if length == LONG_COPY {
                length += usize::from(next()?);
            }
            if offset == 0 || offset > written {
                return Err(PglzError::BadOffset { offset, written });
            }
            if length > output.len() - written {
                return Err(PglzError::TooLong);
            }
            copy_within(output, written, offset, length);
            written += length;
        }
    }
    match input.next() {
        None => Ok(()),
        Some(_) => Err(PglzError::TooLong),
    }
}

/// Copies `length` bytes from `offset` before `at`. The caller has checked
/// `1 <= offset <= at` and `at + length <= output.len()`.
fn copy_within(output: &mut [u8], at: usize, offset: usize, length: usize) {
    // What is copied repeats with period `offset`, so each step may take all
    // that the steps before it have written, twice as much every time.
    let from = at - offset;
    let mut copied = 0;
    while copied < length {
        let step = (offset + copied).min(length - copied);
        output.copy_within(from..from + step, at + copied);
        copied += step;
    }
}

/// Encodes `input`; `None` if the result would not be shorter than it.
#[must_use]
pub fn compress(input: &[u8]) -> Option<Vec<u8>> {
    let mut encoder = Encoder::default();
    let mut finder = MatchFinder::new();
    let mut at = 0;
    while at < input.len() {
        let step = match finder.longest(input, at) {
            Some((offset, length)) => {
                encoder.copy(offset, length);
                length
            }
            None => {
                encoder.literal(input[at]);
                1
            }
        };
        for position in at..at + step {
            finder.insert(input, position);
        }
        at += step;
        if encoder.output.len() >= input.len() {
            return None;
        }
    }
    Some(encoder.output).filter(|output| output.len() < input.len())
}

#[derive(Default)]
struct Encoder {
    output: Vec<u8>,
    /// Where the current group's control byte stands.
    control: usize,
    /// Items in the current group, 0 before the first group too.
    items: u8,
}

impl Encoder {
    fn begin_item(&mut self, is_copy: bool) {
        if self.items == 0 {
            self.control = self.output.len();
            self.output.push(0);
        }
        self.output[self.control] |= u8::from(is_copy) << self.items;
        self.items = (self.items + 1) % 8;
    }

    fn literal(&mut self, byte: u8) {
        self.begin_item(false);
        self.output.push(byte);
    }

    /// `offset` is 1..=4095 and `length` 3..=273.
    fn copy(&mut self, offset: usize, length: usize) {
        self.begin_item(true);
        let short = length.min(LONG_COPY) - MIN_COPY;
        self.output.push(((offset >> 4) & 0xF0) as u8 | short as u8);
        self.output.push((offset & 0xFF) as u8);
        if length >= LONG_COPY {
            self.output.push((length - LONG_COPY) as u8);
        }
    }
}

const HASH_BITS: u32 = 12;

/// How many earlier places are tried for a match.
const CHAIN_LIMIT: usize = 32;

/// Earlier places of the same three bytes, newest first.
struct MatchFinder {
    newest: Vec<Option<usize>>,
    older: Vec<Option<usize>>,
}

impl MatchFinder {
    fn new() -> Self {
        Self {
            newest: vec![None; 1 << HASH_BITS],
            older: Vec::new(),
        }
    }

    fn slot(input: &[u8], at: usize) -> Option<usize> {
        let &[a, b, c] = input.get(at..)?.first_chunk::<MIN_COPY>()?;
        let key = u32::from_le_bytes([a, b, c, 0]);
        Some((key.wrapping_mul(0x9E37_79B1) >> (32 - HASH_BITS)) as usize)
    }

    /// Positions are inserted in order, each once.
    fn insert(&mut self, input: &[u8], at: usize) {
        let before = match Self::slot(input, at) {
            Some(slot) => self.newest[slot].replace(at),
            None => None,
        };
        self.older.push(before);
    }

    fn longest(&self, input: &[u8], at: usize) -> Option<(usize, usize)> {
        let mut candidate = self.newest[Self::slot(input, at)?];
        let mut best: Option<(usize, usize)> = None;
        for _ in 0..CHAIN_LIMIT {
            let Some(from) = candidate.filter(|from| at - from <= MAX_OFFSET) else {
                break;
            };
            let same = input[at..]
                .iter()
                .zip(&input[from..])
                .take(MAX_COPY)
                .take_while(|(a, b)| a == b)
                .count();
            if same >= MIN_COPY && best.is_none_or(|(_, length)| same > length) {
                best = Some((at - from, same));
            }
            candidate = self.older[from];
        }
        best
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decoded(input: &[u8], length: usize) -> Result<Vec<u8>, PglzError> {
        let mut output = vec![0; length];
        decompress(input, &mut output).map(|()| output)
    }

    #[test]
    fn streams_written_by_hand() {
        assert_eq!(decoded(&[0, b'a', b'b'], 2).unwrap(), b"ab");
        // 'a', then 17 more of it by an overlapping copy.
        assert_eq!(decoded(&[0b10, b'a', 14, 1], 18).unwrap(), [b'a'; 18]);
        // The longest copy: 18 + 255 bytes.
        assert_eq!(decoded(&[0b10, 0, 15, 1, 255], 274).unwrap(), [0; 274]);
        let pairs = decoded(&[0b100, b'a', b'b', 2, 2], 7).unwrap();
        assert_eq!(pairs, b"abababa");
    }

    #[test]
    fn damage_is_noticed() {
        assert_eq!(decoded(&[0, b'a'], 2), Err(PglzError::InputEnds));
        assert_eq!(decoded(&[0b10, b'a', 0], 4), Err(PglzError::InputEnds));
        assert_eq!(decoded(&[0, b'a', b'b'], 1), Err(PglzError::TooLong));
        assert_eq!(decoded(&[0b10, b'a', 0, 1], 3), Err(PglzError::TooLong));
        let far = PglzError::BadOffset {
            offset: 2,
            written: 1,
        };
        assert_eq!(decoded(&[0b10, b'a', 0, 2], 4), Err(far));
        assert!(decoded(&[0b10, b'a', 0, 0], 4).is_err());
    }

    proptest! {
        #[test]
        fn what_is_compressed_comes_back(
            pieces in prop::collection::vec((any::<u8>(), 1_usize..600), 1..40),
        ) {
            let input: Vec<u8> = pieces
                .iter()
                .flat_map(|&(seed, length)| (0..length).map(move |i| seed ^ (i % 7) as u8))
                .collect();
            if let Some(packed) = compress(&input) {
                prop_assert!(packed.len() < input.len());
                prop_assert_eq!(decoded(&packed, input.len()).unwrap(), input);
            }
        }

        #[test]
        fn garbage_never_panics(input in prop::collection::vec(any::<u8>(), 0..600)) {
            let mut output = [0; 8192];
            let _verdict = decompress(&input, &mut output);
        }
    }

    #[test]
    fn noise_is_left_alone() {
        let mut state = 1_u32;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .take(8192)
        .collect();
        assert_eq!(compress(&noise), None);
    }
}
