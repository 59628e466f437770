//! How many different things there were among many, in bounded memory: the k lowest hashes (Bar-Yossef et al. 2002,
//! "Counting distinct elements in a data stream"). Exact up to k; beyond, the k-th lowest of uniform hashes lies at k/n.

use std::collections::BTreeSet;

/// Hashes that are remembered.
const REMEMBERED: usize = 1 << 14;
/// The estimate's relative standard error, 1/√(k-2), in per cent.
pub(super) const ERROR_PERCENT: f64 = 0.8;

/// A count of different hashes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Distinct(BTreeSet<u64>);

impl Distinct {
    pub(super) fn add(&mut self, hash: u64) {
        if self.0.len() < REMEMBERED {
            self.0.insert(hash);
        } else if self.0.last().is_some_and(|highest| hash < *highest) && self.0.insert(hash) {
            self.0.pop_last();
        }
    }

    /// Whether the count is one, not an estimate.
    pub(super) fn is_exact(&self) -> bool {
        self.0.len() < REMEMBERED
    }

    pub(super) fn count(&self) -> u64 {
        match self.0.last() {
            Some(highest) if !self.is_exact() => {
                let share = *highest as f64 / u64::MAX as f64;
                ((REMEMBERED - 1) as f64 / share).round() as u64
            }
            _ => self.0.len() as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use twox_hash::XxHash64;

    use super::*;

    fn of(different: u64, times: u64) -> Distinct {
        let mut distinct = Distinct::default();
        for at in 0..different * times {
            distinct.add(XxHash64::oneshot(0, &(at % different).to_le_bytes()));
        }
        distinct
    }

    #[test]
    fn few_are_counted_exactly() {
        let distinct = of(10_000, 3);
        assert!(distinct.is_exact());
        assert_eq!(distinct.count(), 10_000);
        assert_eq!(Distinct::default().count(), 0);
    }

    #[test]
    fn many_are_estimated_in_the_same_memory() {
        for different in [50_000, 400_000] {
            let distinct = of(different, 2);
            assert!(!distinct.is_exact() && distinct.0.len() == REMEMBERED);
            let error = (distinct.count() as f64 / different as f64 - 1.0).abs() * 100.0;
            assert!(error < 3.0 * ERROR_PERCENT, "{different}: {} is {error:.2} % off", distinct.count());
        }
    }
}
