//! Writes pglz streams in the format that `catalog/pages/pglz.rs` describes.
//!
//! `pglz_compress` in src/common/pg_lzcompress.c.

use crate::catalog::pages::pglz::{LONG_COPY, MIN_COPY};

/// The longest copy that a tag can describe.
const MAX_COPY: usize = LONG_COPY + 255;

/// The greatest distance that a copy can reach back.
const MAX_OFFSET: usize = 4095;

/// Encodes `input`; `None` if the result would not be shorter.
#[must_use]
pub(super) fn compress(input: &[u8]) -> Option<Vec<u8>> {
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
    /// Offset of the current group's control byte.
    control: usize,
    /// Number of items in the current group; also 0 before the first group.
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

/// Number of earlier positions tried for a match.
const CHAIN_LIMIT: usize = 32;

/// Earlier positions of the same three bytes, newest first.
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
    use crate::catalog::pages::pglz::{PglzError, decompress};

    fn decoded(input: &[u8], length: usize) -> Result<Vec<u8>, PglzError> {
        let mut output = vec![0; length];
        decompress(input, &mut output).map(|()| output)
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
