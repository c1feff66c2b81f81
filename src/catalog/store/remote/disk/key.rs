//! How what is cached is named.

use sha2::{Digest, Sha256};

/// The hash of what something in the cache belongs to. It is stored beside the content,
/// so that no file is ever taken for another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key([u8; 32]);

impl Key {
    /// Hashes words; no two lists of words are the same.
    pub fn of(words: &[&[u8]]) -> Self {
        let mut hash = Sha256::new();
        for word in words {
            hash.update((word.len() as u64).to_le_bytes());
            hash.update(word);
        }
        Self(hash.finalize().into())
    }

    /// Returns its bytes.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Returns the directory and the name of its file.
    pub fn names(&self) -> (String, String) {
        let hex: Vec<String> = self.0.iter().map(|byte| format!("{byte:02x}")).collect();
        let (dir, name) = hex.split_at(1);
        (dir.concat(), name.concat())
    }

    /// Returns a number for a lock: a place in a file.
    pub fn number(&self) -> i64 {
        let bytes = self.0.first_chunk().copied().unwrap_or_default();
        i64::from_le_bytes(bytes) & (i64::MAX >> 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_told_apart() {
        let (one, other) = (Key::of(&[b"a", b"bc"]), Key::of(&[b"ab", b"c"]));
        assert_ne!(one, other);
        assert_eq!(one, Key::of(&[b"a", b"bc"]));
        let (dir, name) = one.names();
        assert_eq!((dir.len(), name.len()), (2, 62));
        assert!(one.number() >= 0);
    }
}
