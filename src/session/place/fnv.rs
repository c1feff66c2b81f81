//! The hash in the names of things that belong to a path.

use std::hash::Hasher;

/// FNV-1a: the same in every version, unlike the standard library's hasher,
/// so that a newer pbkfs finds the sessions of an older one.
pub struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xCBF2_9CE4_8422_2325)
    }
}

impl Hasher for Fnv {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3);
        }
    }
}
