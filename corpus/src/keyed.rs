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
