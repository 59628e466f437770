//! Means over a test set, and how sure they are.

use serde::Serialize;

use super::retrieval::Direction;

/// A mean over a test set.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Estimate {
    /// The mean.
    pub value: f64,
    /// Its standard error.
    pub standard_error: f64,
}

impl Estimate {
    /// The share of hits, from 0 to 1; its error is √(p (1 - p) / n).
    pub fn share(hits: impl ExactSizeIterator<Item = bool>) -> Self {
        let n = hits.len().max(1) as f64;
        let value = hits.filter(|&hit| hit).count() as f64 / n;
        Estimate { value, standard_error: (value * (1.0 - value) / n).sqrt() }
    }

    /// The mean of `values`; its error is s / √n.
    pub fn mean(values: &[f64]) -> Self {
        let n = values.len().max(1) as f64;
        let value = values.iter().sum::<f64>() / n;
        let squares: f64 = values.iter().map(|one| (one - value).powi(2)).sum();
        Estimate { value, standard_error: (squares / (n - 1.0).max(1.0) / n).sqrt() }
    }
}

/// The mean of paired differences in hits at `k` (second minus first) and its standard error.
pub fn paired_gain(first: &Direction, second: &Direction, k: u32) -> Estimate {
    let differences: Vec<f64> = (first.hits(k).zip(second.hits(k)))
        .map(|(first, second)| f64::from(u8::from(second)) - f64::from(u8::from(first)))
        .collect();
    Estimate::mean(&differences)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_and_means_know_their_errors() {
        let share = Estimate::share([true, false, false, false].into_iter());
        assert_eq!(share, Estimate { value: 0.25, standard_error: (0.25f64 * 0.75 / 4.0).sqrt() });
        let mean = Estimate::mean(&[1.0, 3.0]);
        assert_eq!(mean, Estimate { value: 2.0, standard_error: 1.0 });
    }

    #[test]
    fn the_paired_gain_knows_its_error() {
        let (worse, better) = (Direction::of(vec![2, 1, 2, 2]), Direction::of(vec![1, 1, 1, 2]));
        let gain = paired_gain(&worse, &better, 1);
        assert_eq!(gain.value, 0.5);
        assert!((gain.standard_error - (1.0f64 / 3.0 / 4.0).sqrt()).abs() < 1e-12);
    }
}
