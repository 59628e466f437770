//! The one source of chance.

use rand_pcg::Pcg64Mcg;
use rand_pcg::rand_core::{Rng, SeedableRng};

/// A seeded generator.
#[derive(Debug)]
pub struct Dice(Pcg64Mcg);

impl Dice {
    /// The same seed throws the same.
    pub fn new(seed: u64) -> Self {
        Dice(Pcg64Mcg::seed_from_u64(seed))
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.0.next_u64() % (high - low + 1)
    }

    /// Whether something happens that happens so many times in a thousand.
    pub fn per_mille(&mut self, times: u64) -> bool {
        self.between(0, 999) < times
    }
}
