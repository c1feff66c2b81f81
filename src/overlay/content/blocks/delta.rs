//! The difference between two blocks, as runs of changed bytes: for each run
//! its offset and length (u16, little endian) and its bytes, in order.

use crate::pg::BLOCK_SIZE;

/// The maximum size of a difference. A larger one is not worth storing separately: a
/// few of them would fill a page of the store.
const MAX_LEN: usize = 1024;

const HEADER: usize = 4;

/// Returns the difference that turns `base` into `new`, if it is small. Both are one
/// block.
pub fn encode(base: &[u8], new: &[u8]) -> Option<Vec<u8>> {
    let mut delta = Vec::new();
    let mut at = 0;
    while let Some(from) = next(base, new, at, |a, b| a != b) {
        let mut to = from;
        // Include equal bytes in between if starting a new run costs more.
        while let Some(changed) = next(base, new, to, |a, b| a != b)
            && changed - to <= HEADER
        {
            to = next(base, new, changed, |a, b| a == b).unwrap_or(new.len());
        }
        delta.extend(u16::try_from(from).ok()?.to_le_bytes());
        delta.extend(u16::try_from(to - from).ok()?.to_le_bytes());
        delta.extend(new.get(from..to)?);
        if delta.len() > MAX_LEN {
            return None;
        }
        at = to;
    }
    Some(delta)
}

fn next(base: &[u8], new: &[u8], at: usize, is: impl Fn(u8, u8) -> bool) -> Option<usize> {
    let pairs = base.get(at..)?.iter().zip(new.get(at..)?);
    pairs
        .zip(at..)
        .find(|((a, b), _)| is(**a, **b))
        .map(|(_, index)| index)
}

/// Applies `delta` to `part`, the bytes from `from` on of the image's block. Returns
/// `None` if `delta` is not a valid difference of a block.
pub fn apply(mut delta: &[u8], from: usize, part: &mut [u8]) -> Option<()> {
    while !delta.is_empty() {
        let (offset, rest) = delta.split_first_chunk()?;
        let (len, rest) = rest.split_first_chunk()?;
        let start = usize::from(u16::from_le_bytes(*offset));
        let (bytes, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*len)))?;
        let end = start + bytes.len();
        if end > BLOCK_SIZE {
            return None;
        }
        let (first, last) = (start.max(from), end.min(from + part.len()));
        if first < last {
            let changed = bytes.get(first - start..last - start)?;
            part.get_mut(first - from..last - from)?
                .copy_from_slice(changed);
        }
        delta = rest;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_block_and_each_part_of_it_come_back(
            changes in proptest::collection::vec((0..BLOCK_SIZE, 1..40_usize, any::<u8>()), 0..20),
            from in 0..BLOCK_SIZE,
            len in 1..3000_usize,
        ) {
            let base: Vec<u8> = (0..BLOCK_SIZE).map(|i| (i * 7) as u8).collect();
            let mut new = base.clone();
            for (at, len, byte) in changes {
                let end = (at + len).min(BLOCK_SIZE);
                new[at..end].fill(byte);
            }
            let delta = encode(&base, &new).unwrap();
            let end = (from + len).min(BLOCK_SIZE);
            for range in [0..BLOCK_SIZE, from..end] {
                let mut part = base[range.clone()].to_vec();
                apply(&delta, range.start, &mut part).unwrap();
                prop_assert_eq!(&part, &new[range]);
            }
        }
    }

    #[test]
    fn a_large_difference_is_none_and_nonsense_is_refused() {
        let (base, mut new) = (vec![0; BLOCK_SIZE], vec![0; BLOCK_SIZE]);
        new[100..100 + MAX_LEN].fill(1);
        assert_eq!(encode(&base, &new), None);
        assert!(encode(&base, &base).unwrap().is_empty());
        let mut part = vec![0; BLOCK_SIZE];
        for delta in [&[1][..], &[0, 0, 5, 0, 1], &[0xff, 0xff, 1, 0, 1]] {
            assert_eq!(apply(delta, 0, &mut part), None, "{delta:?}");
        }
    }
}
