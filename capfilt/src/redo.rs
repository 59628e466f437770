//! A part some of whose rows are done again: which these are, and the part that comes of it.

use std::collections::BTreeSet;

use bytes::Bytes;
use quern_recipes::Recipe;

use crate::candidate::Candidate;
use crate::filters::filter_beside;
use crate::read::{DataRow, QuarantineRow, ReadPartError, read_data, read_quarantine};
use crate::row::{PartRow, RowOutcome};

/// A shard's rows, told apart: those to be done again, and the others, which stay as they are.
#[derive(Debug, Clone, PartialEq)]
pub struct Redo {
    again: BTreeSet<u64>,
    others: Vec<PartRow>,
}

impl Redo {
    /// Of a part's files, the rows in quarantine for one of `reasons` (`STAGE/REASON` or `REASON`) are to be done again.
    ///
    /// # Errors
    /// When a file is no part's.
    pub fn of(
        data: Option<Bytes>,
        quarantine: Option<Bytes>,
        reasons: &BTreeSet<String>,
    ) -> Result<Self, ReadPartError> {
        let is_meant = |row: &QuarantineRow| {
            reasons.contains(&row.reason) || reasons.contains(&format!("{}/{}", row.stage, row.reason))
        };
        let failed = quarantine.map(read_quarantine).transpose()?.unwrap_or_default();
        let (meant, failed): (Vec<_>, Vec<_>) = failed.into_iter().partition(is_meant);
        let mut others: Vec<PartRow> = failed.into_iter().map(quarantined).collect();
        for row in data.map(read_data).transpose()?.unwrap_or_default() {
            others.push(kept(row)?);
        }
        Ok(Redo { again: meant.into_iter().map(|row| row.id.row).collect(), others })
    }

    /// The numbers of the rows to be done again.
    pub fn rows(&self) -> &BTreeSet<u64> {
        &self.again
    }

    /// All of the shard's rows in order, given what became of those that were done again. The recipe's filters are put to
    /// these alone; what the others keep is taken.
    pub fn merged(self, again: Vec<PartRow>, recipe: &Recipe) -> Vec<PartRow> {
        let mut rows = filter_beside(again, recipe, &self.others);
        rows.extend(self.others);
        rows.sort_by_key(|row| row.id.row);
        rows
    }
}

fn quarantined(row: QuarantineRow) -> PartRow {
    let QuarantineRow { id, key, stage, reason, detail } = row;
    PartRow { id, key, outcome: RowOutcome::Quarantined { stage, reason, detail }, image: None }
}

fn kept(row: DataRow) -> Result<PartRow, ReadPartError> {
    let DataRow { id, key, captions, candidates, image } = row;
    let place = |text: &str| candidates.iter().position(|candidate: &Candidate| candidate.text == text);
    let outcome = if candidates.is_empty() {
        let only = captions.into_iter().next();
        RowOutcome::Passed { caption: only.map(|caption| caption.text).unwrap_or_default() }
    } else {
        let kept = captions.iter().map(|caption| place(&caption.text)).collect::<Option<Vec<_>>>();
        let foreign = || ReadPartError::Foreign(format!("{id} keeps a caption that is no candidate"));
        RowOutcome::Kept { kept: kept.ok_or_else(foreign)?, candidates }
    };
    Ok(PartRow { id, key, outcome, image })
}

#[cfg(test)]
mod tests {
    use quern_corpus::{RowId, ShardId, ShardSpec};
    use quern_recipes::{Dedup, Filters};

    use super::*;
    use crate::candidate::tests::candidates;
    use crate::filters::tests::recipe;
    use crate::part::{Part, encode_part};
    use crate::provenance::Provenance;
    use crate::row::Stage;

    fn row(at: u64, outcome: RowOutcome) -> PartRow {
        let image = matches!(outcome, RowOutcome::Kept { .. }).then(|| Bytes::from_static(b"an image"));
        let id = RowId { dataset: "d".into(), file: "f".into(), row: at };
        PartRow { id, key: Some(format!("k{at}")), outcome, image }
    }

    fn captioned(texts: &[(&str, f32)], kept: &[usize]) -> RowOutcome {
        RowOutcome::Kept { candidates: candidates(texts), kept: kept.to_vec() }
    }

    fn failed(stage: Stage, reason: &str) -> RowOutcome {
        RowOutcome::quarantined(stage, reason, "…")
    }

    fn part(rows: Vec<PartRow>) -> Part {
        let shard = ShardSpec {
            shard: ShardId("s".into()),
            dataset: "d".into(),
            file: "f".into(),
            row_start: 10,
            rows: rows.len() as u64,
        };
        encode_part(&shard, rows, &Provenance::default()).unwrap()
    }

    fn before() -> Vec<PartRow> {
        vec![
            row(10, captioned(&[("a", 0.5), ("b", 0.25)], &[0, 1])),
            row(11, failed(Stage::Read, "fetch_timeout")),
            row(12, RowOutcome::Passed { caption: "as it was".into() }),
            row(13, failed(Stage::Decode, "truncated")),
            row(14, failed(Stage::Read, "fetch_status")),
        ]
    }

    fn redo(reasons: &[&str]) -> Redo {
        let part = part(before());
        let reasons = reasons.iter().map(|reason| (*reason).to_owned()).collect();
        Redo::of(part.data.map(|(_, bytes)| bytes), part.quarantine.map(|(_, bytes)| bytes), &reasons).unwrap()
    }

    #[test]
    fn rows_are_meant_by_reason_with_its_stage_or_without() {
        let rows = |reasons: &[&str]| redo(reasons).rows().iter().copied().collect::<Vec<_>>();
        assert_eq!(rows(&["fetch_timeout"]), [11]);
        assert_eq!(rows(&["read/fetch_timeout", "truncated"]), [11, 13]);
        assert_eq!(rows(&["decode/fetch_timeout", "read"]), [0; 0]);
    }

    #[test]
    fn other_rows_are_the_same_bytes_as_before() {
        let same = redo(&["fetch_timeout"]).merged(vec![before().remove(1)], &recipe(Filters::default()));
        assert_eq!(part(same), part(before()));
    }

    #[test]
    fn what_comes_of_a_row_takes_its_place() {
        let new = row(11, captioned(&[("a", 0.5), ("c", 0.25)], &[0, 1]));
        let merged = redo(&["fetch_timeout"]).merged(vec![new.clone()], &recipe(Filters::default()));
        assert_eq!(merged[1], new);
        assert_eq!((&merged[0], &merged[2..]), (&before()[0], &before()[2..]));
        // An earlier row keeps `a`: a row that is done again has to do without it.
        let dedup = Filters { dedup: Some(Dedup::Shard), ..Filters::default() };
        let merged = redo(&["fetch_timeout"]).merged(vec![new], &recipe(dedup));
        assert_eq!(merged[1].outcome, captioned(&[("a", 0.5), ("c", 0.25)], &[1]));
        assert_eq!(merged[0], before()[0]);
    }
}
