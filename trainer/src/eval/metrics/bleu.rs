//! BLEU (Papineni et al., ACL 2002) of a corpus, as pycocoevalcap's `bleu_scorer.py` computes it with the option
//! `closest`: clipped n-gram precisions over all images, and a brevity penalty by each image's closest reference length
//! (of two as close, the shorter).

use std::collections::BTreeMap;

use super::Judged;
use super::ngrams::{LONGEST, counts};

/// What the original adds to numerators and denominators, so that nothing is divided by zero.
const TINY: f64 = 1e-15;
const SMALL: f64 = 1e-9;

/// BLEU-1 to BLEU-4 of all images together, each from 0 to 1.
///
/// # Panics
/// When an image has no reference.
pub fn bleu(images: &[Judged]) -> [f64; LONGEST] {
    let (mut correct, mut guessed) = ([0u64; LONGEST], [0u64; LONGEST]);
    let (mut length, mut reference_length) = (0usize, 0usize);
    for Judged { hypothesis, references } in images {
        let mut most: BTreeMap<&[String], u32> = BTreeMap::new();
        for (ngram, count) in references.iter().flat_map(|reference| counts(reference)) {
            let known = most.entry(ngram).or_insert(0);
            *known = count.max(*known);
        }
        for (ngram, count) in counts(hypothesis) {
            correct[ngram.len() - 1] += u64::from(count.min(most.get(ngram).copied().unwrap_or(0)));
            guessed[ngram.len() - 1] += u64::from(count);
        }
        length += hypothesis.len();
        reference_length += closest(hypothesis.len(), references.iter().map(Vec::len));
    }
    let ratio = (length as f64 + TINY) / (reference_length as f64 + SMALL);
    let penalty = if ratio < 1.0 { (1.0 - 1.0 / ratio).exp() } else { 1.0 };
    let mut product = 1.0;
    std::array::from_fn(|n| {
        product *= (correct[n] as f64 + TINY) / (guessed[n] as f64 + SMALL);
        product.powf(1.0 / (n + 1) as f64) * penalty
    })
}

fn closest(length: usize, references: impl Iterator<Item = usize>) -> usize {
    references.min_by_key(|&reference| (reference.abs_diff(length), reference)).expect("an image has a reference")
}

#[cfg(test)]
mod tests {
    use super::super::cider::tests::judged;
    use super::*;

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
        ];
        let expected = [0.846481724749534, 0.7980706236167558, 0.7659016352335585, 0.6603537450779915];
        for (actual, expected) in bleu(&images).into_iter().zip(expected) {
            assert!((actual - expected).abs() < 1e-12, "{actual} instead of {expected}");
        }
    }

    #[test]
    fn of_two_lengths_as_close_the_shorter_counts() {
        assert_eq!(closest(5, [7, 3, 9].into_iter()), 3);
        assert_eq!(closest(5, [6, 4].into_iter()), 4);
    }

    #[test]
    fn saying_nothing_scores_nothing() {
        assert_eq!(bleu(&[judged("", &["a dog"])])[3], 0.0);
    }
}
