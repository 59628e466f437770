//! What is counted over all rows, in memory that does not grow with their number.

use std::collections::BTreeMap;

use super::Marks;
use super::histogram::Histogram;
use super::words::Wording;
use crate::candidate::{Candidate, Source};
use crate::read::DataRow;

/// Sums over the rows that were ranked.
#[derive(Default)]
pub(super) struct Tally {
    pub counts: Counts,
    /// By data set.
    pub web_captions: BTreeMap<String, Survival>,
    /// Scores of captions that only the web had, of written ones, of kept ones, of dropped ones.
    pub web_scores: Histogram,
    pub written_scores: Histogram,
    pub kept_scores: Histogram,
    pub dropped_scores: Histogram,
    /// The words of captions that only the web had, and of written ones that were kept.
    pub web_wording: Wording,
    pub written_wording: Wording,
}

/// Captions and what they were.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub rows: u64,
    pub candidates: u64,
    pub kept: u64,
    pub kept_web: u64,
    pub first_web: u64,
    /// Rows that had a web caption among their candidates.
    pub with_web: u64,
    pub web: Marked,
    pub written: Marked,
    pub chosen: Marked,
    pub first: Marked,
}

/// What became of captions that only the web had.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Survival {
    pub captions: u64,
    pub kept: u64,
    pub best: u64,
}

/// Captions that the caller could judge, and how many of them are right.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Marked {
    pub judged: u64,
    pub right: u64,
}

impl Marked {
    fn add(&mut self, mark: Option<bool>) {
        self.judged += u64::from(mark.is_some());
        self.right += u64::from(mark == Some(true));
    }
}

impl Tally {
    /// Counts a row; one that was passed through, unranked, counts for nothing.
    pub(super) fn add(&mut self, row: &DataRow, marks: Option<Marks>) {
        if row.candidates.is_empty() {
            return;
        }
        let mark = |text: &str| marks.and_then(|marks| marks(&row.id, text));
        let kept = |candidate: &Candidate| row.captions.iter().find(|kept| kept.text == candidate.text);
        if !self.web_captions.contains_key(&*row.id.dataset) {
            self.web_captions.insert(row.id.dataset.to_string(), Survival::default());
        }
        let survival = self.web_captions.get_mut(&*row.id.dataset).expect("it was just put there");
        let counts = &mut self.counts;
        counts.rows += 1;
        counts.candidates += row.candidates.len() as u64;
        for candidate in &row.candidates {
            let kept = kept(candidate);
            let scores = if kept.is_some() { &mut self.kept_scores } else { &mut self.dropped_scores };
            scores.add(candidate.score);
            if candidate.source == Source::Web {
                counts.with_web += 1;
                survival.captions += 1;
                survival.kept += u64::from(kept.is_some());
                survival.best += u64::from(kept.is_some_and(|kept| kept.rank == 1));
                counts.web.add(mark(&candidate.text));
                self.web_scores.add(candidate.score);
                self.web_wording.add(&candidate.text);
            } else {
                counts.written.add(mark(&candidate.text));
                self.written_scores.add(candidate.score);
                if kept.is_some() {
                    self.written_wording.add(&candidate.text);
                }
            }
        }
        for caption in &row.captions {
            let is_web = u64::from(caption.source == Source::Web);
            counts.kept += 1;
            counts.kept_web += is_web;
            counts.chosen.add(mark(&caption.text));
            if caption.rank == 1 {
                counts.first_web += is_web;
                counts.first.add(mark(&caption.text));
            }
        }
    }
}
