//! Mutations: named changes of a case, the same in each run.

use crate::case::Case;

/// A way to damage a case's files.
pub struct Mutation {
    pub name: String,
    pub apply: Box<dyn Fn(&Case) + Send + Sync>,
}

impl Mutation {
    pub fn new(name: impl Into<String>, apply: impl Fn(&Case) + Send + Sync + 'static) -> Mutation {
        Mutation {
            name: name.into(),
            apply: Box::new(apply),
        }
    }
}

/// A name, and a function that creates the text when it is needed.
pub type Named = (&'static str, fn() -> Vec<u8>);

/// Returns `count` of the mutations, chosen by a fixed seed.
pub fn some(mut all: Vec<Mutation>, count: usize, seed: u64) -> Vec<Mutation> {
    let mut random = Random::new(seed);
    while all.len() > count {
        all.swap_remove(random.below(all.len()));
    }
    all
}

/// A random number generator with the same numbers in each run: splitmix64.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Returns an index below `count`, which must not be 0.
    pub fn below(&mut self, count: usize) -> usize {
        (self.number() % count as u64) as usize
    }
}
