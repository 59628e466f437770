//! Counter-based randomness: every draw is a pure function of (run seed, row, purpose, step, index).
//!
//! No generator carries state, so a draw is the same whoever makes it, in whatever order, however often.
//! The mixing function is SplitMix64's finaliser (Steele, Lea, Flood 2014), chained over the counters.

/// What a draw is for; distinct purposes never share a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum Purpose {
    /// A token of a sampled caption.
    CaptionToken = 1,
    /// Which of an image's captions is trained on.
    CaptionChoice = 2,
    /// Crop and flip of the training transform.
    Augment = 3,
    /// The sample order.
    Order = 4,
    /// A hard negative image for a text.
    NegativeImage = 5,
    /// A hard negative text for an image.
    NegativeText = 6,
    /// Dropout masks.
    Dropout = 7,
    /// Initial weights.
    Init = 8,
    /// Where a caption is cut into prefix and suffix.
    PrefixSplit = 9,
    /// Which rows a plan looks at.
    Sample = 10,
}

/// A stream of draws for one (seed, row, purpose, step).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keyed {
    state: u64,
}

impl Keyed {
    /// The stream of `purpose` for the row with [`RowId::key`](crate::RowId::key) `row` at `step`
    /// (an optimiser step, an epoch, a candidate index: whatever the purpose counts).
    pub fn new(seed: u64, row: u64, purpose: Purpose, step: u64) -> Self {
        let mut state = mix(seed ^ 0x7175_6572_6e00_0001);
        for counter in [row, purpose as u64, step] {
            state = mix(state ^ mix(counter.wrapping_add(0x9e37_79b9_7f4a_7c15)));
        }
        Keyed { state }
    }

    /// The `index`-th 64 random bits.
    pub fn bits(&self, index: u64) -> u64 {
        mix(self.state.wrapping_add(index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15)))
    }

    /// The `index`-th uniform in [0, 1), with 53 random bits.
    pub fn uniform(&self, index: u64) -> f64 {
        (self.bits(index) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// The `index`-th integer in [0, bound), for a bound above 0.
    pub fn below(&self, index: u64, bound: u64) -> u64 {
        assert!(bound > 0, "a draw below 0 has no outcome");
        ((u128::from(self.bits(index)) * u128::from(bound)) >> 64) as u64
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every keyed result of a run hangs on these values: they must never change. Derived by a second
    /// implementation, in Python.
    #[test]
    fn draws_are_pinned() {
        let draws = Keyed::new(42, 7, Purpose::CaptionToken, 3);
        let bits = [0, 1, 2].map(|index| draws.bits(index));
        assert_eq!(bits, [0x5cb7_0e57_ecf6_9600, 0xa068_ceb1_e5d6_dc56, 0x5ebf_7349_3370_6cc8]);
        assert_eq!([0, 1, 2, 3, 4, 5].map(|index| draws.below(index, 10)), [3, 6, 3, 3, 1, 9]);
    }

    #[test]
    fn every_part_of_the_key_counts() {
        let streams = [
            Keyed::new(1, 2, Purpose::Order, 3),
            Keyed::new(2, 2, Purpose::Order, 3),
            Keyed::new(1, 3, Purpose::Order, 3),
            Keyed::new(1, 2, Purpose::Augment, 3),
            Keyed::new(1, 2, Purpose::Order, 4),
            Keyed::new(1, 3, Purpose::Order, 2),
        ];
        for (index, stream) in streams.iter().enumerate() {
            assert!(streams[..index].iter().all(|other| other.bits(0) != stream.bits(0)), "stream {index}");
        }
    }

    #[test]
    fn draws_are_even_along_every_counter() {
        let means = |draw: &dyn Fn(u64) -> f64| (0..10_000).map(draw).sum::<f64>() / 10_000.0;
        let along_index = means(&|index| Keyed::new(1, 1, Purpose::Init, 1).uniform(index));
        let along_rows = means(&|row| Keyed::new(1, row, Purpose::Init, 1).uniform(0));
        let along_steps = means(&|step| Keyed::new(1, 1, Purpose::Init, step).uniform(0));
        for mean in [along_index, along_rows, along_steps] {
            assert!((mean - 0.5).abs() < 0.015, "{mean}"); // five standard errors
        }
        let draws = Keyed::new(9, 9, Purpose::Init, 9);
        let mut counts = [0; 7];
        (0..7_000).for_each(|index| counts[draws.below(index, 7) as usize] += 1);
        assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
    }
}
