//! What captions are made of: how many words, and how many different words and sequences of words.
//!
//! Distinct-n (Li et al. 2016, arXiv 1510.03055) is the number of different sequences of n words over the number of all.

use twox_hash::XxHash64;

use super::distinct::Distinct;

/// Lengths from this on share a bin.
pub(super) const MANY: usize = 40;
/// The longest sequences that are counted.
pub(super) const LONGEST: usize = 3;

/// How many captions have how many words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lengths {
    counts: [u64; MANY + 1],
    words: u64,
}

impl Default for Lengths {
    fn default() -> Self {
        Lengths { counts: [0; MANY + 1], words: 0 }
    }
}

impl Lengths {
    /// Captions with 0, 1, 2 … and at last [`MANY`] or more words.
    pub(super) fn counts(&self) -> &[u64] {
        &self.counts
    }

    pub(super) fn captions(&self) -> u64 {
        self.counts.iter().sum()
    }

    pub(super) fn mean(&self) -> Option<f64> {
        (self.captions() > 0).then(|| self.words as f64 / self.captions() as f64)
    }
}

/// Captions, by their words.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Wording {
    pub lengths: Lengths,
    /// Sequences of 1, 2, 3 words.
    pub sequences: [Sequences; LONGEST],
}

/// Sequences of one length.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Sequences {
    pub all: u64,
    pub different: Distinct,
}

impl Wording {
    /// Counts a caption. Words are what lies between blanks, as `words` in `quern capfilt inspect` counts them; two are the
    /// same if they differ in case or in the signs around them alone.
    pub(super) fn add(&mut self, caption: &str) {
        let words: Vec<u64> = caption.split_whitespace().map(hash).collect();
        self.lengths.counts[words.len().min(MANY)] += 1;
        self.lengths.words += words.len() as u64;
        for (sequences, length) in self.sequences.iter_mut().zip(1..) {
            for sequence in words.windows(length) {
                sequences.all += 1;
                sequences.different.add(hash_of(sequence));
            }
        }
    }
}

impl Sequences {
    /// Distinct-n.
    pub(super) fn ratio(&self) -> Option<f64> {
        (self.all > 0).then(|| (self.different.count() as f64 / self.all as f64).min(1.0))
    }
}

fn hash(word: &str) -> u64 {
    let bare = word.trim_matches(|c: char| !c.is_alphanumeric());
    // A word that is all signs is one, too.
    let bare = if bare.is_empty() { word } else { bare };
    XxHash64::oneshot(0, bare.to_lowercase().as_bytes())
}

fn hash_of(sequence: &[u64]) -> u64 {
    let bytes: Vec<u8> = sequence.iter().flat_map(|word| word.to_le_bytes()).collect();
    XxHash64::oneshot(sequence.len() as u64, &bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wording(captions: &[&str]) -> Wording {
        let mut wording = Wording::default();
        captions.iter().for_each(|caption| wording.add(caption));
        wording
    }

    #[test]
    fn sequences_are_counted_within_a_caption() {
        let wording = wording(&["a red dog", "A red, cat.", "a"]);
        let counted: Vec<_> = wording.sequences.iter().map(|s| (s.different.count(), s.all)).collect();
        assert_eq!(counted, [(4, 7), (3, 4), (2, 2)]);
        assert_eq!(wording.sequences[1].ratio(), Some(0.75));
        assert_eq!(Wording::default().sequences[0].ratio(), None);
    }

    #[test]
    fn lengths_are_counted_to_the_end() {
        let long = "w ".repeat(100);
        let wording = wording(&["", " \n", "a b", &long]);
        let lengths = &wording.lengths;
        assert_eq!((lengths.counts()[0], lengths.counts()[2], lengths.counts()[MANY]), (2, 1, 1));
        assert_eq!((lengths.captions(), lengths.mean()), (4, Some(25.5)));
    }
}
