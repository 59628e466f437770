//! How scores lie, as a drawing.

use std::fmt::Write;

use super::page::grouped;

const BINS: usize = 40;

/// Scores counted in bins over [-1, 1], the range of a cosine, at a resolution finer than what is drawn.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Histogram {
    fine: Vec<u64>,
    sum: f64,
}

/// Fine bins over [-1, 1].
const FINE: usize = 2000;

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

    /// The first and one past the last fine bin with a score.
    fn range(&self) -> Option<(usize, usize)> {
        let first = self.fine.iter().position(|&count| count > 0)?;
        let last = self.fine.iter().rposition(|&count| count > 0)?;
        Some((first, last + 1))
    }
}

/// The histograms under each other, over one axis that holds them all.
pub(super) fn draw(named: &[(&str, &str, &Histogram)]) -> String {
    let ranges: Vec<_> = named.iter().filter_map(|(.., histogram)| histogram.range()).collect();
    let (Some(first), Some(last)) = (ranges.iter().map(|r| r.0).min(), ranges.iter().map(|r| r.1).max()) else {
        return "<p>No row was ranked.</p>".into();
    };
    let score = |fine: usize| fine as f64 / FINE as f64 * 2.0 - 1.0;
    let mut html = String::new();
    for (name, class, histogram) in named {
        let bins = bins(histogram, first, last);
        let highest = bins.iter().copied().max().unwrap_or(0).max(1);
        let mean = histogram.mean().map_or_else(|| "none".into(), |mean| format!("mean {mean:.3}"));
        let _ = write!(
            html,
            "<figure class=\"histogram {class}\"><figcaption><b>{name}</b> <span>{} captions, {mean}</span></figcaption>\
             <svg viewBox=\"0 0 {BINS} 10\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"Distribution of the scores of {name}\">",
            grouped(histogram.count())
        );
        for (at, &count) in bins.iter().enumerate().filter(|(_, count)| **count > 0) {
            let height = (count as f64 / highest as f64 * 10.0).max(0.15);
            let (from, to) = (score(edge(at, first, last)), score(edge(at + 1, first, last)));
            let _ = write!(
                html,
                "<rect x=\"{at}.05\" y=\"{:.2}\" width=\"0.9\" height=\"{height:.2}\"><title>{from:.3} to {to:.3}: {count}</title></rect>",
                10.0 - height
            );
        }
        html.push_str("</svg></figure>");
    }
    let _ = write!(
        html,
        "<p class=\"axis\"><span>{:.2}</span><span>cosine of image and caption</span><span>{:.2}</span></p>",
        score(first),
        score(last)
    );
    html
}

fn bins(histogram: &Histogram, first: usize, last: usize) -> Vec<u64> {
    (0..BINS).map(|at| histogram.fine[edge(at, first, last)..edge(at + 1, first, last)].iter().sum()).collect()
}

/// Where drawn bin `at` begins among the fine ones.
fn edge(at: usize, first: usize, last: usize) -> usize {
    first + at * (last - first) / BINS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_score_is_in_one_drawn_bin() {
        let mut histogram = Histogram::default();
        let scores = [-1.0, -0.5, 0.0, 0.1, 0.1, 0.30001, 1.0];
        scores.iter().for_each(|&score| histogram.add(score));
        let (first, last) = histogram.range().unwrap();
        assert_eq!((first, last), (0, FINE));
        assert_eq!(bins(&histogram, first, last).iter().sum::<u64>(), scores.len() as u64);
        assert_eq!(histogram.count(), 7);
        assert!((histogram.mean().unwrap() - scores.iter().sum::<f32>() as f64 / 7.0).abs() < 1e-6);
    }

    #[test]
    fn a_narrow_range_is_drawn_whole() {
        let mut histogram = Histogram::default();
        histogram.add(0.25);
        let svg = draw(&[("kept", "kept", &histogram)]);
        assert!(svg.contains("1 captions, mean 0.250"), "{svg}");
        assert_eq!(svg.matches("<rect").count(), 1);
        assert_eq!(draw(&[("kept", "kept", &Histogram::default())]), "<p>No row was ranked.</p>");
    }
}
