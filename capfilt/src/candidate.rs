//! The captions an image could get, and which of them it keeps (BLIP-2 §3.3: rank by CLIP similarity, keep two).
//!
//! Two candidates are the same caption iff their texts are equal byte for byte. Each distinct text is ranked once, under
//! its first occurrence; a web caption that the captioner also wrote is therefore recorded as `synthetic`, with the index
//! of the caption that was written first. The indices that are missing from a row's candidates are the dropped ones.

use std::collections::HashSet;
use std::fmt;

/// Who wrote a caption.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// It came with the image.
    Web,
    /// The captioner wrote it.
    Synthetic,
}

impl Source {
    /// Its name in the output.
    pub fn as_str(self) -> &'static str {
        match self {
            Source::Web => "web",
            Source::Synthetic => "synthetic",
        }
    }

    /// The source with this name.
    pub fn parse(name: &str) -> Option<Self> {
        [Source::Web, Source::Synthetic].into_iter().find(|source| source.as_str() == name)
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A caption that was ranked.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// The caption.
    pub text: String,
    /// Who wrote it.
    pub source: Source,
    /// Cosine similarity of image and caption.
    pub score: f32,
    /// Its number: 0 to `candidates` - 1 are the written ones, `candidates` is the web caption.
    pub index: u32,
}

/// The positions of the first occurrence of each distinct text, in order.
pub fn distinct<T: AsRef<str>>(texts: &[T]) -> Vec<usize> {
    let mut seen = HashSet::new();
    (0..texts.len()).filter(|&at| seen.insert(texts[at].as_ref())).collect()
}

/// The positions of the best `keep` candidates, best first. Of equal texts only the first counts; of equal scores the
/// one that comes first wins. (Scores must not be NaN: the engine quarantines such a row.)
pub fn select(candidates: &[Candidate], keep: usize) -> Vec<usize> {
    let texts: Vec<&str> = candidates.iter().map(|candidate| candidate.text.as_str()).collect();
    let mut order = distinct(&texts);
    // A stable sort; adding 0.0 makes -0.0 and 0.0 the tie that they are.
    order.sort_by(|&a, &b| (candidates[b].score + 0.0).total_cmp(&(candidates[a].score + 0.0)));
    order.truncate(keep);
    order
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Candidates with these texts and scores; the last is the web caption.
    pub(crate) fn candidates(scored: &[(&str, f32)]) -> Vec<Candidate> {
        let last = scored.len() - 1;
        let candidate = |(at, &(text, score)): (usize, &(&str, f32))| Candidate {
            text: text.into(),
            source: if at == last { Source::Web } else { Source::Synthetic },
            score,
            index: at as u32,
        };
        scored.iter().enumerate().map(candidate).collect()
    }

    #[test]
    fn the_best_come_first() {
        assert_eq!(select(&candidates(&[("a", 0.1), ("b", 0.3), ("c", 0.2)]), 2), [1, 2]);
        assert_eq!(select(&candidates(&[("a", -0.1), ("b", -0.3)]), 1), [0]);
    }

    #[test]
    fn ties_go_to_the_lower_index() {
        assert_eq!(select(&candidates(&[("a", 0.1), ("b", 0.2), ("c", 0.2), ("d", 0.2)]), 2), [1, 2]);
        assert_eq!(select(&candidates(&[("a", -0.0), ("b", 0.0)]), 2), [0, 1]);
    }

    #[test]
    fn a_duplicate_is_ranked_once_and_never_kept_twice() {
        // The web caption repeats the first synthetic one; a third text takes the second place.
        assert_eq!(select(&candidates(&[("a", 0.3), ("b", 0.1), ("b", 0.1), ("a", 0.3)]), 2), [0, 1]);
        assert_eq!(select(&candidates(&[("a", 0.3), ("a", 0.3)]), 2), [0]);
    }

    #[test]
    fn equality_is_of_bytes() {
        assert_eq!(distinct(&["a", "a ", "A", "a", "a\0", "a\u{301}", "á"]), [0, 1, 2, 4, 5, 6]);
        assert_eq!(distinct(&["b", "a", "b"]), [0, 1]);
    }

    #[test]
    fn fewer_texts_than_are_to_be_kept_are_all_kept() {
        assert_eq!(select(&candidates(&[("a", 0.1)]), 2), [0]);
        assert_eq!(select(&[], 2), [0usize; 0]);
        assert_eq!(select(&candidates(&[("a", 0.1)]), 0), [0usize; 0]);
    }
}
