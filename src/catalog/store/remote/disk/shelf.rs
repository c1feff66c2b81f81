//! A file of the cache: up to 16 pieces of one version of a file, or none of them.
//!
//! ```text
//! 0      magic, then the key of the shelf
//! 64     for each piece: its length, and the checksum of key, number and bytes (CRC-32C)
//! 4096   the pieces, each in its place of 64 KiB
//! ```
//! A piece is written before its checksum. Whatever a kill or a power failure leaves, a
//! piece whose checksum is not right does not exist.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::key::Key;

/// The number of pieces in a shelf.
pub const PIECES: u32 = 16;

/// The size of a piece in bytes.
pub const PIECE: u64 = 64 << 10;

const MAGIC: &[u8; 8] = b"pbkfs-1\n";
const ENTRIES: u64 = 64;
const ENTRY: usize = 8;
const START: u64 = 4096;

/// An open file of the cache.
#[derive(Debug)]
pub struct Shelf {
    file: File,
    key: Key,
}

impl Shelf {
    /// Takes a file that belongs to a key, if it says so.
    pub fn open(file: File, key: Key) -> Option<Self> {
        let mut head = [0; 40];
        file.read_exact_at(&mut head, 0).ok()?;
        let (magic, found) = head.split_at(MAGIC.len());
        (magic == MAGIC && found == key.bytes()).then_some(Self { file, key })
    }

    /// Makes a file, which may be new or damaged, that of a key.
    pub fn begin(file: File, key: Key) -> io::Result<Self> {
        file.write_all_at(MAGIC, 0)?;
        file.write_all_at(key.bytes(), MAGIC.len() as u64)?;
        Ok(Self { file, key })
    }

    /// Reads a piece, if it is there and undamaged.
    pub fn read(&self, piece: u32) -> Option<Vec<u8>> {
        let mut entry = [0; ENTRY];
        self.file.read_exact_at(&mut entry, entry_of(piece)).ok()?;
        let (length, sum) = (word(&entry, 0), word(&entry, 4));
        if length == 0 || u64::from(length) > PIECE {
            return None;
        }
        let mut bytes = vec![0; length as usize];
        self.file.read_exact_at(&mut bytes, place_of(piece)).ok()?;
        (self.sum(piece, &bytes) == sum).then_some(bytes)
    }

    /// Writes a piece, of which nobody relies on the disk.
    ///
    /// # Errors
    /// The system's errors.
    pub fn write(&self, piece: u32, bytes: &[u8]) -> io::Result<()> {
        let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        self.file.write_all_at(bytes, place_of(piece))?;
        let sum = self.sum(piece, bytes);
        let entry = [length.to_le_bytes(), sum.to_le_bytes()].concat();
        self.file.write_all_at(&entry, entry_of(piece))
    }

    /// Forgets a piece.
    pub fn forget(&self, piece: u32) {
        // If that fails, the checksum still protects it.
        let _ = self.file.write_all_at(&[0; ENTRY], entry_of(piece));
    }

    fn sum(&self, piece: u32, bytes: &[u8]) -> u32 {
        let sum = crc32c::crc32c(self.key.bytes());
        let sum = crc32c::crc32c_append(sum, &piece.to_le_bytes());
        crc32c::crc32c_append(sum, bytes)
    }
}

fn entry_of(piece: u32) -> u64 {
    ENTRIES + u64::from(piece % PIECES) * ENTRY as u64
}

fn place_of(piece: u32) -> u64 {
    START + u64::from(piece % PIECES) * PIECE
}

fn word(entry: &[u8; ENTRY], at: usize) -> u32 {
    let bytes = entry.get(at..).and_then(|rest| rest.first_chunk());
    bytes.map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shelf() -> (Shelf, File) {
        let file = tempfile::tempfile().unwrap();
        let key = Key::of(&[b"a"]);
        (Shelf::begin(file.try_clone().unwrap(), key).unwrap(), file)
    }

    #[test]
    fn pieces_come_back() {
        let (shelf, file) = shelf();
        assert_eq!(shelf.read(3), None);
        shelf.write(3, b"three").unwrap();
        shelf.write(15, &[7; 64 << 10]).unwrap();
        let again = Shelf::open(file, Key::of(&[b"a"])).unwrap();
        assert_eq!(again.read(3).unwrap(), b"three");
        assert_eq!(again.read(15).unwrap(), [7; 64 << 10]);
        assert_eq!(again.read(4), None);
        again.forget(3);
        assert_eq!(again.read(3), None);
    }

    #[test]
    fn what_is_damaged_is_not_there() {
        for at in [ENTRIES, ENTRIES + 4, START, START + 4] {
            let (shelf, file) = shelf();
            shelf.write(0, b"bytes").unwrap();
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ 1], at).unwrap();
            assert_eq!(shelf.read(0), None, "{at}");
        }
        let (shelf, file) = shelf();
        shelf.write(0, b"bytes").unwrap();
        file.set_len(START + 2).unwrap();
        assert_eq!(shelf.read(0), None);
    }

    #[test]
    fn a_shelf_of_another_key_is_not_taken() {
        let (shelf, file) = shelf();
        shelf.write(0, b"bytes").unwrap();
        assert!(Shelf::open(file.try_clone().unwrap(), Key::of(&[b"b"])).is_none());
        // Even where the name and the head would be right.
        let other = Shelf::begin(file, Key::of(&[b"b"])).unwrap();
        assert_eq!(other.read(0), None);
    }
}
