//! Histograms: how many observations were at most so large.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Upper bounds for the seconds that an answer takes.
pub(super) const ANSWER_SECONDS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// What was observed so far.
#[derive(Debug)]
pub(crate) struct Histogram {
    bounds: &'static [f64],
    seen: Mutex<Seen>,
}

/// How many observations fell between a bound and the one before it, with a last place for those beyond all; their sum.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    counts: Vec<u64>,
    pub sum: f64,
}

impl Histogram {
    /// One with these upper bounds, which rise.
    pub fn new(bounds: &'static [f64]) -> Self {
        Histogram { bounds, seen: Mutex::new(Seen { counts: vec![0; bounds.len() + 1], sum: 0.0 }) }
    }

    pub fn observe(&self, value: f64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.counts[bucket] += 1;
        seen.sum += value;
    }

    /// Observes the seconds until the timer is dropped.
    pub fn time(&self) -> Timer<'_> {
        Timer { histogram: self, begun: Instant::now() }
    }

    /// How many observations there were.
    #[cfg(test)]
    pub fn count(&self) -> u64 {
        self.seen().counts.iter().sum()
    }

    pub(super) fn seen(&self) -> Seen {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Each upper bound with the number of observations that were at most so large; the last bound is infinite.
    pub(super) fn cumulated(&self, seen: &Seen) -> impl Iterator<Item = (f64, u64)> {
        let mut below = 0;
        let counts = seen.counts.clone().into_iter().map(move |count| {
            below += count;
            below
        });
        self.bounds.iter().copied().chain([f64::INFINITY]).zip(counts)
    }
}

/// A time that is being taken.
pub(crate) struct Timer<'a> {
    histogram: &'a Histogram,
    begun: Instant,
}

impl Drop for Timer<'_> {
    fn drop(&mut self) {
        self.histogram.observe(self.begun.elapsed().as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_what_is_at_most_its_bound() {
        let histogram = Histogram::new(&[1.0, 2.0]);
        for value in [0.5, 1.0, 1.5, 2.0, 7.0] {
            histogram.observe(value);
        }
        let seen = histogram.seen();
        assert_eq!(histogram.cumulated(&seen).collect::<Vec<_>>(), [(1.0, 2), (2.0, 4), (f64::INFINITY, 5)]);
        assert_eq!((seen.sum, histogram.count()), (12.0, 5));
    }

    #[test]
    fn a_timer_observes_once_when_it_is_dropped() {
        let histogram = Histogram::new(ANSWER_SECONDS);
        let timer = histogram.time();
        assert_eq!(histogram.count(), 0);
        drop(timer);
        assert_eq!(histogram.count(), 1);
    }
}
