//! How scores lie.

/// Fine bins over [-1, 1].
const FINE: usize = 2000;
/// Bins that are drawn.
const BINS: usize = 40;

/// Scores counted in bins over [-1, 1], the range of a cosine, at a resolution finer than what is drawn.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Histogram {
    fine: Vec<u64>,
    sum: f64,
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram { fine: vec![0; FINE], sum: 0.0 }
    }
}

impl Histogram {
    pub(super) fn add(&mut self, score: f32) {
        let place = (f64::from(score) + 1.0) / 2.0 * FINE as f64;
        self.fine[(place.max(0.0) as usize).min(FINE - 1)] += 1;
        self.sum += f64::from(score);
    }

    pub(super) fn count(&self) -> u64 {
        self.fine.iter().sum()
    }

    pub(super) fn mean(&self) -> Option<f64> {
        (self.count() > 0).then(|| self.sum / self.count() as f64)
    }

    /// The score that this share of the scores lies below, to 0.001.
    pub(super) fn quantile(&self, share: f64) -> Option<f64> {
        let due = (self.count() as f64 * share).ceil().max(1.0) as u64;
        let mut below = 0;
        self.fine
            .iter()
            .position(|count| {
                below += count;
                below >= due
            })
            .map(|fine| score((fine as f64) + 0.5))
    }

    /// The first and one past the last fine bin with a score.
    fn range(&self) -> Option<(usize, usize)> {
        let first = self.fine.iter().position(|&count| count > 0)?;
        let last = self.fine.iter().rposition(|&count| count > 0)?;
        Some((first, last + 1))
    }

    /// The counts of drawn bins.
    pub(super) fn bins(&self, bins: &Bins) -> Vec<u64> {
        (0..BINS).map(|at| self.fine[bins.edge(at)..bins.edge(at + 1)].iter().sum()).collect()
    }
}

fn score(fine: f64) -> f64 {
    fine / FINE as f64 * 2.0 - 1.0
}

/// Drawn bins over the range of some histograms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bins {
    first: usize,
    last: usize,
}

impl Bins {
    /// Bins that hold all their scores; none if there is no score.
    pub(super) fn over(histograms: &[&Histogram]) -> Option<Self> {
        let ranges = || histograms.iter().filter_map(|histogram| histogram.range());
        let (first, last) = (ranges().map(|range| range.0).min()?, ranges().map(|range| range.1).max()?);
        // At least a fine bin per drawn one.
        let last = last.max(first + BINS).min(FINE);
        Some(Bins { first: first.min(last - BINS), last })
    }

    pub(super) fn count(&self) -> usize {
        BINS
    }

    /// The scores between which drawn bin `at` lies.
    pub(super) fn bounds(&self, at: usize) -> (f64, f64) {
        (score(self.edge(at) as f64), score(self.edge(at + 1) as f64))
    }

    /// Round scores with their place, from 0 at the left to 1 at the right.
    pub(super) fn ticks(&self) -> Vec<(f64, f64)> {
        let (from, to) = (score(self.first as f64), score(self.last as f64));
        let step =
            [0.005, 0.01, 0.02, 0.05, 0.1, 0.2].into_iter().find(|step| (to - from) / step <= 6.0).unwrap_or(0.5);
        let first = (from / step - 1e-9).ceil() as i64;
        let last = (to / step + 1e-9).floor() as i64;
        (first..=last).map(|tick| tick as f64 * step).map(|tick| ((tick - from) / (to - from), tick)).collect()
    }

    /// Where drawn bin `at` begins among the fine ones.
    fn edge(&self, at: usize) -> usize {
        self.first + at * (self.last - self.first) / BINS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_score_is_in_one_drawn_bin() {
        let mut histogram = Histogram::default();
        let scores = [-1.0, -0.5, 0.0, 0.1, 0.1, 0.30001, 1.0];
        scores.iter().for_each(|&score| histogram.add(score));
        let bins = Bins::over(&[&histogram, &Histogram::default()]).unwrap();
        assert_eq!((bins.first, bins.last), (0, FINE));
        assert_eq!(histogram.bins(&bins).iter().sum::<u64>(), scores.len() as u64);
        assert_eq!(histogram.count(), 7);
        assert!((histogram.mean().unwrap() - scores.iter().sum::<f32>() as f64 / 7.0).abs() < 1e-6);
        assert!((histogram.quantile(0.5).unwrap() - 0.1).abs() < 1e-3);
        assert!((histogram.quantile(0.0).unwrap() + 1.0).abs() < 1e-3);
        assert_eq!(Histogram::default().quantile(0.5), None);
    }

    #[test]
    fn a_narrow_range_is_drawn_whole() {
        for score in [0.25, 1.0, -1.0] {
            let mut histogram = Histogram::default();
            histogram.add(score);
            let bins = Bins::over(&[&histogram]).unwrap();
            assert_eq!(bins.last - bins.first, BINS);
            assert_eq!(histogram.bins(&bins).iter().sum::<u64>(), 1);
        }
        assert_eq!(Bins::over(&[&Histogram::default()]), None);
    }

    #[test]
    fn ticks_are_round_and_in_place() {
        let mut histogram = Histogram::default();
        [0.11, 0.39].iter().for_each(|&score| histogram.add(score));
        let ticks = Bins::over(&[&histogram]).unwrap().ticks();
        let shown: Vec<_> = ticks.iter().map(|(_, tick)| format!("{tick:.2}")).collect();
        assert_eq!(shown, ["0.15", "0.20", "0.25", "0.30", "0.35"]);
        assert!(ticks.iter().all(|(place, _)| (0.0..=1.0).contains(place)));
    }
}
