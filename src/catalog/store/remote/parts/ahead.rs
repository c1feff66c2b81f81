//! Which pieces a reader will want next.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// The number of readers that are followed at a time in one file.
const STREAMS: usize = 4;

/// How far behind the end of its last read a reader may read and still be the same one:
/// the kernel's read-ahead arrives on several threads, not always in order.
const BEHIND: u32 = 8;

/// Follows the readers of a file: one that reads on is given more ahead the longer it
/// does.
#[derive(Debug, Default)]
pub struct Readers {
    streams: Mutex<[Stream; STREAMS]>,
}

/// A reader. Positions are numbers of pieces.
#[derive(Debug, Clone, Copy, Default)]
struct Stream {
    /// The end of what it has read.
    next: u32,
    /// How much it has read in a row; 0 for no reader.
    length: u32,
    /// The end of what was asked for.
    asked: u32,
    /// When it last read, as a count of reads.
    used: u32,
}

impl Readers {
    /// Notes a read, and returns what should be fetched now: at most `most` pieces ahead
    /// of it, and nothing unless that is at least `least` of them or reaches `end`, the
    /// end of the file. A file that `is_sequential` is read from end to end.
    pub fn note(
        &self,
        read: Range<u32>,
        end: u32,
        is_sequential: bool,
        (least, most): (u32, u32),
    ) -> Range<u32> {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        let now = streams.iter().map(|stream| stream.used).max().unwrap_or(0) + 1;
        let continues = |stream: &&mut Stream| {
            let oldest = stream.next.saturating_sub(BEHIND);
            stream.length > 0 && (oldest..=stream.next + 1).contains(&read.start)
        };
        let stream = match streams.iter_mut().find(continues) {
            Some(stream) => {
                stream.length = (stream.length)
                    .saturating_add(read.end.saturating_sub(stream.next))
                    .min(most);
                stream
            }
            None => {
                let Some(stream) = streams.iter_mut().min_by_key(|stream| stream.used) else {
                    return 0..0;
                };
                *stream = Stream {
                    length: 1,
                    ..Stream::default()
                };
                stream
            }
        };
        stream.used = now;
        stream.next = stream.next.max(read.end);
        let is_new = stream.length == 1;
        let ahead = match is_sequential {
            true => most,
            // A single read says nothing.
            false if is_new => 0,
            false => stream.length,
        };
        let from = stream.asked.max(stream.next);
        let to = stream.next.saturating_add(ahead).min(end);
        if to <= from || (to - from < least.min(ahead) && to < end) {
            return 0..0;
        }
        stream.asked = to;
        from..to
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANY: u32 = 1000;

    fn note(readers: &Readers, read: Range<u32>) -> Range<u32> {
        readers.note(read, MANY, false, (8, 64))
    }

    #[test]
    fn who_reads_on_gets_more_and_more() {
        let readers = Readers::default();
        assert!(note(&readers, 0..1).is_empty());
        assert_eq!(note(&readers, 1..2), 2..4);
        let mut asked = 4;
        for piece in 2..500 {
            let ahead = note(&readers, piece..piece + 1);
            if ahead.is_empty() {
                assert!(asked > piece || piece < 9, "{piece}: {asked}");
                continue;
            }
            assert!(ahead.start == asked.max(piece + 1), "{ahead:?} at {piece}");
            assert!(ahead.end - piece <= 65);
            asked = ahead.end;
        }
        assert!(asked > 550);
    }

    #[test]
    fn who_jumps_about_gets_nothing() {
        let readers = Readers::default();
        for piece in [5, 700, 30, 900, 60, 333, 5] {
            assert!(note(&readers, piece..piece + 1).is_empty(), "{piece}");
        }
    }

    #[test]
    fn several_readers_are_told_apart() {
        let readers = Readers::default();
        let mut ahead = [0u32; 3];
        for step in 0..40 {
            for (at, base) in [0, 300, 600].into_iter().enumerate() {
                let piece = base + step;
                ahead[at] += note(&readers, piece..piece + 1).len() as u32;
            }
        }
        assert!(ahead.iter().all(|&pieces| pieces > 40), "{ahead:?}");
    }

    #[test]
    fn what_comes_out_of_order_is_the_same_reader() {
        let readers = Readers::default();
        let mut ahead = 0;
        for pair in 0..20 {
            for piece in [pair * 2 + 1, pair * 2] {
                ahead += note(&readers, piece..piece + 1).len();
            }
        }
        assert!(ahead > 20, "{ahead}");
    }

    #[test]
    fn a_file_read_from_end_to_end_is_fetched_at_once() {
        let readers = Readers::default();
        assert_eq!(readers.note(0..4, 10, true, (8, 64)), 4..10);
        assert!(readers.note(4..8, 10, true, (8, 64)).is_empty());
        let readers = Readers::default();
        assert_eq!(readers.note(0..16, MANY, true, (8, 64)), 16..80);
        assert!(readers.note(16..18, MANY, true, (8, 64)).is_empty());
        assert_eq!(readers.note(18..32, MANY, true, (8, 64)), 80..96);
    }

    #[test]
    fn nothing_is_asked_for_behind_the_end() {
        let readers = Readers::default();
        note(&readers, 0..1);
        assert!(readers.note(1..2, 2, false, (8, 64)).is_empty());
    }
}
