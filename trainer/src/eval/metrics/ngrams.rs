//! Counts of a sentence's n-grams.

use std::collections::BTreeMap;

/// The longest n-grams that BLEU-4 and CIDEr look at.
pub(super) const LONGEST: usize = 4;

/// How often each n-gram of 1 to [`LONGEST`] tokens occurs; in order, so that sums over them are the same every time.
pub(super) fn counts(tokens: &[String]) -> BTreeMap<&[String], u32> {
    let mut counts = BTreeMap::new();
    for n in 1..=LONGEST {
        for ngram in tokens.windows(n) {
            *counts.entry(ngram).or_insert(0) += 1;
        }
    }
    counts
}
