//! From written captions to what is kept: distinct candidates, their scores, the best.

use quern_capfilt::{Candidate, RowOutcome, Source, Stage, distinct, select};
use tch::Tensor;

use crate::ranker::Ranker;

/// An image's captions before they are ranked.
pub(crate) struct Captioned<'a> {
    /// Its row of the embeddings.
    pub image: usize,
    /// As they were written.
    pub written: Vec<String>,
    /// The web caption.
    pub web: Option<&'a str>,
}

/// Ranks the captions of some images together, `image_embeds [B, E]`, and keeps the `keep` best of each.
pub(crate) fn rank(ranker: &Ranker, image_embeds: &Tensor, images: Vec<Captioned>, keep: usize) -> Vec<RowOutcome> {
    let images = images.into_iter().map(|captioned| (captioned.image, candidates(captioned.written, captioned.web)));
    let images: Vec<(usize, Vec<Named>)> = images.collect();
    let texts: Vec<(usize, &str)> =
        images.iter().flat_map(|(image, named)| named.iter().map(|(text, ..)| (*image, text.as_str()))).collect();
    let mut scores = ranker.similarities(image_embeds, &texts).into_iter();
    images.into_iter().map(|(_, named)| outcome(named, &mut scores, keep)).collect()
}

/// A candidate before it is scored: its text, where it comes from, its index.
type Named = (String, Source, u32);

fn outcome(named: Vec<Named>, scores: &mut impl Iterator<Item = f32>, keep: usize) -> RowOutcome {
    if named.is_empty() {
        let detail = "every written caption is empty, and so is the web caption";
        return RowOutcome::quarantined(Stage::Caption, "no_caption", detail);
    }
    let scored = |((text, source, index), score)| Candidate { text, source, score, index };
    let candidates: Vec<Candidate> = named.into_iter().zip(scores).map(scored).collect();
    if let Some(Candidate { text, score, .. }) = candidates.iter().find(|candidate| !candidate.score.is_finite()) {
        let detail = format!("the similarity of “{text}” is {score}");
        return RowOutcome::quarantined(Stage::Rank, "score_not_finite", detail);
    }
    let kept = select(&candidates, keep);
    RowOutcome::Kept { candidates, kept }
}

/// The distinct captions of an image with source and index: the written ones, and the web caption as the last. Blank ones
/// are no captions.
fn candidates(written: Vec<String>, web: Option<&str>) -> Vec<Named> {
    let web_index = written.len() as u32;
    let written = written.into_iter().zip(0..).map(|(text, index)| (text, Source::Synthetic, index));
    let web = web.map(|text| (text.to_owned(), Source::Web, web_index));
    let all: Vec<_> = written.chain(web).filter(|(text, ..)| !text.trim().is_empty()).collect();
    let texts: Vec<&str> = all.iter().map(|(text, ..)| text.as_str()).collect();
    distinct(&texts).into_iter().map(|at| all[at].clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_web_caption_is_the_last_candidate() {
        let written = vec!["a".to_owned(), "b".to_owned()];
        let with_web = candidates(written.clone(), Some("c"));
        assert_eq!(with_web.last(), Some(&("c".to_owned(), Source::Web, 2)));
        for none in [None, Some(""), Some(" \n")] {
            assert_eq!(candidates(written.clone(), none).len(), 2);
        }
    }

    #[test]
    fn equal_texts_are_one_candidate_under_the_first_index() {
        let written = vec!["a".to_owned(), "b".to_owned(), "a".to_owned(), String::new(), "c".to_owned()];
        let found = candidates(written, Some("b"));
        let synthetic = |text: &str, index| (text.to_owned(), Source::Synthetic, index);
        assert_eq!(found, [synthetic("a", 0), synthetic("b", 1), synthetic("c", 4)]);
    }
}
