//! The sample order: which row is trained on at which step.
//!
//! Batches are cut from the endless concatenation of shuffled epochs. An epoch shuffles the shards, takes them
//! [`WINDOW_SHARDS`] at a time, and shuffles the rows of such a window together: rows are well mixed, yet only a few
//! shards are open at once. A shard may weigh more or less than others: then an epoch has some of its rows several times, or
//! not all of them, and goes on with it where the one before stopped. Batch k is a pure function of (shard sizes, weights, seed, k): nothing is remembered between
//! batches, so resuming costs nothing, and neither names nor the number of ranks matter.

use std::ops::Range;

use crate::keyed::{Keyed, Purpose};

/// Shards whose rows are shuffled together.
pub const WINDOW_SHARDS: usize = 4;

/// Keeps the shuffle of an epoch's shards apart from those of its windows, which are keyed from 0 up.
const SHARD_SHUFFLE: u64 = u64::MAX;

/// A place in the order: one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sample {
    /// Index of the shard, in the order of the sizes given.
    pub shard: usize,
    /// Which of the shard's usable rows, from 0.
    pub ordinal: u64,
    /// How often this row has been seen before: the epoch, where no data set has a weight.
    pub epoch: u64,
}

/// The endless order of a corpus' samples.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SampleOrder {
    shards: Vec<Shard>,
    rows: u64,
    seed: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shard {
    /// Its usable rows.
    rows: u64,
    /// How many samples an epoch has of it.
    samples: u64,
}

impl SampleOrder {
    /// The order over shards of these many usable rows each (in shard-id order) that `seed` keys.
    pub fn new(shard_sizes: Vec<u64>, seed: u64) -> Self {
        SampleOrder::weighted(shard_sizes.into_iter().map(|rows| (rows, 1.0)), seed)
    }

    /// The same, of shards with weights: how often an epoch has each of their rows on average. An epoch has as many samples
    /// of all shards before any one, and of that one, as the weights say, but for rounding.
    pub fn weighted(shards: impl IntoIterator<Item = (u64, f64)>, seed: u64) -> Self {
        let (mut due, mut taken) = (0.0, 0);
        let shard = |(rows, weight): (u64, f64)| {
            due += rows as f64 * weight;
            // Nothing can be seen of a shard without rows.
            let samples = if rows == 0 { 0 } else { (due.round() as u64).saturating_sub(taken) };
            taken += samples;
            Shard { rows, samples }
        };
        let shards: Vec<Shard> = shards.into_iter().map(shard).collect();
        SampleOrder { rows: taken, shards, seed }
    }

    /// Samples of all shards: the length of an epoch.
    pub fn rows_per_epoch(&self) -> u64 {
        self.rows
    }

    /// The samples of global step `step` (from 0), if every step takes `batch`. O(batch + shards + rows of the
    /// windows that the batch touches).
    ///
    /// # Panics
    /// If there is no row at all.
    pub fn batch(&self, step: u64, batch: u32) -> Vec<Sample> {
        assert!(self.rows > 0, "an order of no rows has no batches; check `rows_per_epoch` first");
        let mut position = u128::from(step) * u128::from(batch);
        let end = position + u128::from(batch);
        let mut samples = Vec::with_capacity(batch as usize);
        while position < end {
            let epoch = (position / u128::from(self.rows)) as u64;
            let first = (position % u128::from(self.rows)) as u64;
            let count = u128::from(self.rows - first).min(end - position) as u64;
            self.extend_from_epoch(epoch, first..first + count, &mut samples);
            position += u128::from(count);
        }
        samples
    }

    /// Appends the samples at `wanted` places of an epoch.
    fn extend_from_epoch(&self, epoch: u64, wanted: Range<u64>, samples: &mut Vec<Sample>) {
        let mut shards: Vec<usize> = (0..self.shards.len()).collect();
        shuffle(&mut shards, &Keyed::new(self.seed, SHARD_SHUFFLE, Purpose::Order, epoch));
        let mut window_start = 0;
        for (window, shards) in shards.chunks(WINDOW_SHARDS).enumerate() {
            let window_rows: u64 = shards.iter().map(|&shard| self.shards[shard].samples).sum();
            let first = wanted.start.clamp(window_start, window_start + window_rows) - window_start;
            let last = wanted.end.clamp(window_start, window_start + window_rows) - window_start;
            if first < last {
                let mut rows = self.rows_of(shards, epoch);
                shuffle(&mut rows, &Keyed::new(self.seed, window as u64, Purpose::Order, epoch));
                samples.extend_from_slice(&rows[first as usize..last as usize]);
            }
            window_start += window_rows;
        }
    }

    fn rows_of(&self, shards: &[usize], epoch: u64) -> Vec<Sample> {
        // A shard's rows are taken in turns, on and on; an epoch has the next so many.
        let of = |&shard: &usize| {
            let Shard { rows, samples } = self.shards[shard];
            let turns = epoch * samples..(epoch + 1) * samples;
            turns.map(move |turn| Sample { shard, ordinal: turn % rows, epoch: turn / rows })
        };
        shards.iter().flat_map(of).collect()
    }
}

/// Fisher and Yates' shuffle with keyed draws.
fn shuffle<T>(items: &mut [T], draws: &Keyed) {
    for last in (1..items.len()).rev() {
        items.swap(last, draws.below(last as u64, last as u64 + 1) as usize);
    }
}

/// The part of a batch that a rank takes: consecutive, in rank order, differing by one at most (32 on 3 ranks:
/// 11, 11, 10).
///
/// # Panics
/// If `rank` is not below `ranks`.
pub fn slice(batch_len: usize, rank: usize, ranks: usize) -> Range<usize> {
    assert!(rank < ranks, "rank {rank} of {ranks}");
    let (share, rest) = (batch_len / ranks, batch_len % ranks);
    let start = rank * share + rank.min(rest);
    start..start + share + usize::from(rank < rest)
}

#[cfg(test)]
mod tests;
