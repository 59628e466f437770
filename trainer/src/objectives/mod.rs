//! The three objectives of stage 1 as pure functions of (local, gathered, rank): no collective is called here.
//!
//! Every loss is a sum over the local rows; the caller divides by the global count, so that the sum of all ranks'
//! losses is the loss of the global batch however it is cut (LAVIS `blip2_qformer.py`, `Blip2Qformer.forward`).
//!
//! Shapes: `B` local rows, `G` rows of the global batch, `Q` queries, `E` contrastive width, `L` text length.

pub mod contrastive;
pub mod language;
pub mod matching;
pub mod negatives;
#[cfg(test)]
mod tests;

use std::ops::Range;

/// Which rows of the global batch are this rank's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    rank: usize,
    sizes: Vec<usize>,
}

impl Place {
    /// Rank `rank` among ranks that hold `sizes` rows each.
    pub fn new(rank: usize, sizes: Vec<usize>) -> Self {
        assert!(rank < sizes.len(), "rank {rank} of {} ranks", sizes.len());
        Place { rank, sizes }
    }

    /// This rank's rows in the global batch.
    pub fn rows(&self) -> Range<usize> {
        let start = self.sizes[..self.rank].iter().sum();
        start..start + self.sizes[self.rank]
    }

    /// Rows of the global batch, `G`.
    pub fn global(&self) -> usize {
        self.sizes.iter().sum()
    }

    /// Number of ranks.
    pub fn ranks(&self) -> usize {
        self.sizes.len()
    }

    /// The rank that holds row `row` of the global batch, and the row's index there.
    pub fn owner(&self, row: usize) -> (usize, usize) {
        let mut start = 0;
        for (rank, size) in self.sizes.iter().enumerate() {
            if row < start + size {
                return (rank, row - start);
            }
            start += size;
        }
        panic!("row {row} of a global batch of {start}");
    }
}
