//! CIDEr (Vedantam et al., CVPR 2015), as pycocoevalcap's `cider_scorer.py` computes it: the variant called CIDEr-D,
//! with clipped counts and a Gaussian penalty on the difference in length, and document frequencies from the references.

use std::collections::{BTreeMap, BTreeSet};

use super::Judged;
use super::ngrams::{LONGEST, counts};

/// Standard deviation of the penalty on the difference in length.
const SIGMA: f64 = 6.0;
/// The scores' scale.
const SCALE: f64 = 10.0;

/// The score of each image, from 0 to 10; a corpus' CIDEr is their mean.
///
/// An n-gram's weight falls with the number of images whose references have it, so scores are of the corpus as a whole,
/// and those of a single image are 0.
///
/// # Panics
/// When an image has no reference.
pub fn cider(images: &[Judged]) -> Vec<f64> {
    let frequencies = Frequencies::of(images);
    let score = |image: &Judged| {
        assert!(!image.references.is_empty(), "an image has a reference");
        let hypothesis = Weighted::new(&image.hypothesis, &frequencies);
        let sum: f64 = (image.references.iter())
            .map(|reference| hypothesis.similarity(&Weighted::new(reference, &frequencies)))
            .sum();
        SCALE * sum / image.references.len() as f64
    };
    images.iter().map(score).collect()
}

/// In how many images' references n-grams occur.
struct Frequencies<'a> {
    images: BTreeMap<&'a [String], u32>,
    log_of_all: f64,
}

impl<'a> Frequencies<'a> {
    fn of(images: &'a [Judged]) -> Self {
        let mut found = BTreeMap::new();
        for image in images {
            let ngrams: BTreeSet<_> =
                image.references.iter().flat_map(|reference| counts(reference).into_keys()).collect();
            for ngram in ngrams {
                *found.entry(ngram).or_insert(0) += 1;
            }
        }
        Frequencies { images: found, log_of_all: (images.len() as f64).ln() }
    }

    /// log(images / images with the n-gram); one that no reference has counts as in one.
    fn inverse(&self, ngram: &[String]) -> f64 {
        self.log_of_all - f64::from(self.images.get(ngram).copied().unwrap_or(1)).ln()
    }
}

/// A sentence's n-grams by term frequency and inverse document frequency.
struct Weighted<'a> {
    weights: BTreeMap<&'a [String], f64>,
    /// Lengths of the vectors of 1-grams, 2-grams, …
    norms: [f64; LONGEST],
    /// The original measures a sentence by its 2-grams.
    pairs: f64,
}

impl<'a> Weighted<'a> {
    fn new(tokens: &'a [String], frequencies: &Frequencies) -> Self {
        let mut weighted =
            Weighted { weights: BTreeMap::new(), norms: [0.0; LONGEST], pairs: tokens.len().saturating_sub(1) as f64 };
        for (ngram, count) in counts(tokens) {
            let weight = f64::from(count) * frequencies.inverse(ngram);
            weighted.norms[ngram.len() - 1] += weight * weight;
            weighted.weights.insert(ngram, weight);
        }
        weighted.norms = weighted.norms.map(f64::sqrt);
        weighted
    }

    /// The mean over n of the clipped cosines, times the penalty.
    fn similarity(&self, reference: &Weighted) -> f64 {
        let mut products = [0.0; LONGEST];
        for (ngram, weight) in &self.weights {
            let other = reference.weights.get(ngram).copied().unwrap_or(0.0);
            products[ngram.len() - 1] += weight.min(other) * other;
        }
        let lengths = self.norms.iter().zip(&reference.norms).map(|(own, other)| own * other);
        let cosines: f64 = products
            .iter()
            .zip(lengths)
            .filter(|(_, lengths)| *lengths != 0.0)
            .map(|(dot, lengths)| dot / lengths)
            .sum();
        let penalty = (-(self.pairs - reference.pairs).powi(2) / (2.0 * SIGMA * SIGMA)).exp();
        cosines / LONGEST as f64 * penalty
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Captions as tokens that spaces divide.
    pub(in super::super) fn judged(hypothesis: &str, references: &[&str]) -> Judged {
        let split = |text: &str| text.split_whitespace().map(String::from).collect();
        Judged { hypothesis: split(hypothesis), references: references.iter().map(|text| split(text)).collect() }
    }

    /// Values that pycocoevalcap 1.2 prints.
    #[test]
    fn equals_the_original() {
        let images = [
            judged(
                "a red circle above a blue square",
                &["a red circle over a blue square", "a red circle above a square"],
            ),
            judged("a dog", &["a small dog runs on grass", "the dog is running"]),
            judged("two green triangles", &["two green triangles"]),
            judged("two green triangles two green two", &["two green triangles", "some shapes"]),
            judged("", &["a cat"]),
        ];
        for (actual, expected) in
            cider(&images).into_iter().zip([5.903796550790118, 1.0284922376425352, 7.5, 1.3218808478549504, 0.0])
        {
            assert!((actual - expected).abs() < 1e-12, "{actual} instead of {expected}");
        }
    }

    #[test]
    fn one_image_alone_says_nothing() {
        assert_eq!(cider(&[judged("a dog", &["a dog"])]), [0.0]);
    }
}
