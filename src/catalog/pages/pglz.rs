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
//! A copy may overlap its own output, byte by byte. See `pglz_decompress` in
//! src/common/pg_lzcompress.c.

/// The shortest copy that a tag can describe.
pub(in crate::catalog) const MIN_COPY: usize = 3;

/// The shortest length that requires a third byte.
pub(in crate::catalog) const LONG_COPY: usize = 18;

/// A stream that does not decode to exactly the expected length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PglzError {
    /// The stream ends inside an item or before the output is full.
    #[error("the pglz stream ends early")]
    InputEnds,
    /// A copy starts before the beginning of the output, or has offset 0.
    #[error("the pglz stream copies from offset {offset} after {written} bytes of output")]
    BadOffset {
        /// The offset.
        offset: usize,
        /// Number of bytes of output before the copy.
        written: usize,
    },
    /// There is more output than expected, or input is left over.
    #[error("the pglz stream is longer than its page")]
    TooLong,
}

/// Decodes a stream that must fill `output` exactly and be fully consumed.
///
/// # Errors
/// If the stream is damaged in any way that its format can reveal.
pub(in crate::catalog) fn decompress(input: &[u8], output: &mut [u8]) -> Result<(), PglzError> {
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
    // The copied bytes repeat with period `offset`, so each step may copy everything
    // written by the steps before it, which doubles every time.
    let from = at - offset;
    let mut copied = 0;
    while copied < length {
        let step = (offset + copied).min(length - copied);
        output.copy_within(from..from + step, at + copied);
        copied += step;
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
        fn garbage_never_panics(input in prop::collection::vec(any::<u8>(), 0..600)) {
            let mut output = [0; 8192];
            let _verdict = decompress(&input, &mut output);
        }
    }
}
