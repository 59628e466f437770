//! Thresholds beyond the paper: which of a shard's ranked captions are kept, after the recipe's `capfilt.filters`.
//!
//! A caption that a filter refuses makes room for the next best, so a row keeps up to `keep` captions that all pass. A row
//! of which none passes goes into quarantine, for the reason that refused its best one. Filters look at the shard's rows
//! in order and at nothing else, so the same shard gives the same part.

use std::collections::HashSet;

use quern_recipes::{Dedup, Filters, Recipe};

use crate::candidate::{Candidate, Source, select};
use crate::language::foreign;
use crate::row::{PartRow, RowOutcome, Stage};

/// The shard's rows, all of them and in order, after the recipe's filters. Rows that were passed through or failed stay
/// as they are, and so do all rows where the recipe has no filter.
pub fn filter(rows: Vec<PartRow>, recipe: &Recipe) -> Vec<PartRow> {
    filter_beside(rows, recipe, &[])
}

/// As [`filter`], of some of the shard's rows; `others` are those that stay as they are, and what they keep is taken.
pub(crate) fn filter_beside(rows: Vec<PartRow>, recipe: &Recipe, others: &[PartRow]) -> Vec<PartRow> {
    let Some(capfilt) = recipe.capfilt.as_ref().filter(|capfilt| capfilt.filters != Filters::default()) else {
        return rows;
    };
    let mut taken: HashSet<String> = HashSet::new();
    if capfilt.filters.dedup == Some(Dedup::Shard) {
        taken.extend(others.iter().flat_map(kept_texts));
    }
    let filtered = |row: PartRow| match row.outcome {
        RowOutcome::Kept { candidates, .. } => {
            PartRow { outcome: choose(candidates, capfilt.keep as usize, &capfilt.filters, &mut taken), ..row }
        }
        RowOutcome::Passed { .. } | RowOutcome::Quarantined { .. } => row,
    };
    rows.into_iter().map(filtered).collect()
}

/// The ranked captions that a row keeps.
fn kept_texts(row: &PartRow) -> Vec<String> {
    match &row.outcome {
        RowOutcome::Kept { candidates, kept } => kept.iter().map(|&at| candidates[at].text.clone()).collect(),
        RowOutcome::Passed { .. } | RowOutcome::Quarantined { .. } => Vec::new(),
    }
}

/// Keeps the best `keep` candidates that pass. `taken`: the texts that earlier rows of the shard keep.
fn choose(candidates: Vec<Candidate>, keep: usize, filters: &Filters, taken: &mut HashSet<String>) -> RowOutcome {
    let web = candidates.iter().find(|candidate| candidate.source == Source::Web).map(|candidate| candidate.score);
    let mut first_refusal = None;
    let mut kept = Vec::with_capacity(keep);
    for at in select(&candidates, candidates.len()) {
        if kept.len() == keep {
            break;
        }
        match refusal(&candidates[at], web, filters, taken) {
            None => kept.push(at),
            Some(refusal) => {
                first_refusal.get_or_insert(refusal);
            }
        }
    }
    match first_refusal {
        Some((reason, detail)) if kept.is_empty() => RowOutcome::quarantined(Stage::Rank, reason, detail),
        _ => {
            if filters.dedup == Some(Dedup::Shard) {
                taken.extend(kept.iter().map(|&at| candidates[at].text.clone()));
            }
            RowOutcome::Kept { candidates, kept }
        }
    }
}

/// Why a candidate may not be kept: the reason and, in a sentence, what exactly.
fn refusal(
    candidate: &Candidate,
    web: Option<f32>,
    filters: &Filters,
    taken: &HashSet<String>,
) -> Option<(&'static str, String)> {
    let Candidate { text, source, score, .. } = candidate;
    // Scores are single precision: 0.7 in a recipe is that number's nearest.
    if let Some(least) = filters.min_score.filter(|least| *score < *least as f32) {
        return Some((
            "below_threshold",
            format!("the best caption, {text:?}, scores {score:.4}; min_score is {least}"),
        ));
    }
    if let (Some(margin), Some(web), Source::Synthetic) = (filters.min_margin, web, source)
        && score - web < margin as f32
    {
        let detail =
            format!("the best caption, {text:?}, scores {score:.4}, the web's {web:.4}; min_margin is {margin}");
        return Some(("below_threshold", detail));
    }
    let words = text.split_whitespace().count();
    if words < filters.min_words.unwrap_or(0) as usize {
        let least = filters.min_words.unwrap_or(0);
        return Some(("caption_length", format!("words in the best caption, {text:?}: {words}; min_words is {least}")));
    }
    if let Some(most) = filters.max_words.filter(|most| words > *most as usize) {
        return Some(("caption_length", format!("words in the best caption, {text:?}: {words}; max_words is {most}")));
    }
    if *source == Source::Web
        && let Some(language) = foreign(text, &filters.languages)
    {
        let wanted = filters.languages.join(", ");
        let detail = format!("the best caption, {text:?}, is the web's in {language}; languages is {wanted}");
        return Some(("caption_language", detail));
    }
    taken
        .contains(text)
        .then(|| ("duplicate_caption", format!("an earlier row of the shard keeps the best caption, {text:?}")))
}

#[cfg(test)]
pub(crate) mod tests {
    use quern_corpus::RowId;

    use super::*;
    use crate::candidate::tests::candidates;

    fn row(at: u64, outcome: RowOutcome) -> PartRow {
        let id = RowId { dataset: "d".into(), file: "f".into(), row: at };
        PartRow { id, key: None, outcome, image: None }
    }

    pub(crate) fn recipe(filters: Filters) -> Recipe {
        let text = r#"{"name": "n", "output": "/out", "datasets": [{"name": "d", "path": "/d"}],
            "capfilt": {"captioner": "/blip", "ranker": "/clip"}}"#;
        let mut recipe = Recipe::from_json(text).unwrap();
        recipe.capfilt.as_mut().unwrap().filters = filters;
        recipe
    }

    /// Rows of these candidates after the filters: the kept texts, or the reason.
    fn after(filters: Filters, rows: &[&[(&str, f32)]]) -> Vec<Result<Vec<String>, String>> {
        let kept = |scored: &[(&str, f32)]| {
            let candidates = candidates(scored);
            let kept = select(&candidates, 2);
            RowOutcome::Kept { candidates, kept }
        };
        let rows = rows.iter().enumerate().map(|(at, scored)| row(at as u64, kept(scored))).collect();
        let outcome = |row: PartRow| match row.outcome {
            RowOutcome::Kept { candidates, kept } => Ok(kept.iter().map(|&at| candidates[at].text.clone()).collect()),
            RowOutcome::Quarantined { stage: Stage::Rank, reason, .. } => Err(reason),
            other => panic!("{other:?}"),
        };
        filter(rows, &recipe(filters)).into_iter().map(outcome).collect()
    }

    fn kept(texts: &[&str]) -> Result<Vec<String>, String> {
        Ok(texts.iter().map(|text| (*text).to_owned()).collect())
    }

    fn lost(reason: &str) -> Result<Vec<String>, String> {
        Err(reason.into())
    }

    #[test]
    fn a_low_score_is_not_kept() {
        let filters = Filters { min_score: Some(0.7), ..Filters::default() };
        let rows: [&[_]; 3] =
            [&[("a", 0.8), ("b", 0.7), ("w", 0.6)], &[("a", 0.69), ("w", 0.9)], &[("a", 0.1), ("w", 0.69)]];
        assert_eq!(after(filters, &rows), [kept(&["a", "b"]), kept(&["w"]), lost("below_threshold")]);
    }

    #[test]
    fn a_written_caption_must_beat_the_webs() {
        let filters = Filters { min_margin: Some(0.25), ..Filters::default() };
        let rows: [&[_]; 3] = [
            &[("a", 0.75), ("b", 0.6), ("w", 0.5)],
            &[("a", 0.6), ("b", 0.59), ("w", 0.5)],
            // Nothing only the web had: the last is a written one, too.
            &[("a", 0.1)],
        ];
        assert_eq!(after(filters.clone(), &rows)[..2], [kept(&["a", "w"]), kept(&["w"])]);
        let mut written = candidates(&[("a", 0.1), ("b", 0.05)]);
        written[1].source = Source::Synthetic;
        let only = vec![row(0, RowOutcome::Kept { candidates: written, kept: vec![0, 1] })];
        assert_eq!(filter(only.clone(), &recipe(filters)), only);
    }

    #[test]
    fn words_are_counted_and_the_next_best_moves_up() {
        let filters = Filters { min_words: Some(2), max_words: Some(3), ..Filters::default() };
        let rows: [&[_]; 2] = [
            &[("a", 0.9), ("a b", 0.8), ("a b c d", 0.7), ("a\nb\tc", 0.6), ("a c", 0.5)],
            &[("a", 0.9), ("a b c d", 0.8)],
        ];
        assert_eq!(after(filters, &rows), [kept(&["a b", "a\nb\tc"]), lost("caption_length")]);
    }

    #[test]
    fn the_webs_caption_in_another_language_makes_room_for_a_written_one() {
        let filters = Filters { languages: vec!["en".into()], ..Filters::default() };
        let (web, english) =
            ("Zwei kleine Hunde spielen am Strand mit einem roten Ball", "two dogs on the beach with a ball");
        let mut foreign = candidates(&[(english, 0.3), ("dogs", 0.2), (web, 0.9)]);
        let all = RowOutcome::Kept { candidates: foreign.clone(), kept: vec![2, 0] };
        let without = RowOutcome::Kept { candidates: foreign.clone(), kept: vec![0, 1] };
        assert_eq!(filter(vec![row(0, all.clone())], &recipe(filters)), [row(0, without)]);
        let strict = Filters { languages: vec!["en".into()], min_score: Some(0.5), ..Filters::default() };
        let RowOutcome::Quarantined { reason, detail, .. } =
            filter(vec![row(0, all)], &recipe(strict)).remove(0).outcome
        else {
            panic!("nothing passes")
        };
        assert_eq!(reason, "caption_language");
        assert!(detail.contains("is the web's in deu; languages is en"), "{detail}");
        // What was written is in the language of whoever wrote it.
        foreign[2].source = Source::Synthetic;
        let written = vec![row(0, RowOutcome::Kept { candidates: foreign, kept: vec![2, 0] })];
        let filters = Filters { languages: vec!["en".into()], ..Filters::default() };
        assert_eq!(filter(written.clone(), &recipe(filters)), written);
    }

    #[test]
    fn a_text_is_the_first_rows_that_keeps_it() {
        let filters = Filters { dedup: Some(Dedup::Shard), ..Filters::default() };
        let rows: [&[_]; 4] = [
            &[("a", 0.3), ("b", 0.2), ("c", 0.1)],
            // `c` is kept by nobody yet.
            &[("a", 0.3), ("c", 0.2)],
            &[("b", 0.3), ("c", 0.2), ("d", 0.1)],
            &[("d", 0.3), ("a", 0.2)],
        ];
        assert_eq!(after(filters, &rows), [kept(&["a", "b"]), kept(&["c"]), kept(&["d"]), lost("duplicate_caption")]);
    }

    #[test]
    fn the_reason_is_the_best_captions_and_said_in_a_sentence() {
        let filters = Filters { min_score: Some(0.5), min_words: Some(2), ..Filters::default() };
        let rows = vec![row(
            0,
            RowOutcome::Kept { candidates: candidates(&[("dog\u{1b}", 0.75), ("a dog", 0.25)]), kept: vec![0, 1] },
        )];
        let expected = "words in the best caption, \"dog\\u{1b}\": 1; min_words is 2";
        assert_eq!(
            filter(rows, &recipe(filters))[0].outcome,
            RowOutcome::quarantined(Stage::Rank, "caption_length", expected)
        );
    }

    #[test]
    fn without_filters_and_for_other_rows_nothing_changes() {
        let rows = || {
            vec![
                row(0, RowOutcome::Kept { candidates: candidates(&[("a", 0.1), ("w", 0.1)]), kept: vec![1] }),
                row(1, RowOutcome::Passed { caption: "a".into() }),
                row(2, RowOutcome::quarantined(Stage::Decode, "truncated", "x")),
            ]
        };
        assert_eq!(filter(rows(), &recipe(Filters::default())), rows());
        let strict =
            Filters { min_score: Some(1.0), min_words: Some(9), dedup: Some(Dedup::Shard), ..Filters::default() };
        assert_eq!(filter(rows(), &recipe(strict))[1..], rows()[1..]);
    }
}
