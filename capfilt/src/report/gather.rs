//! What the page needs, out of the parts, one at a time, and the inputs.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ops::ControlFlow;

use quern_corpus::store::Folder;

use super::images::Images;
use super::tally::Tally;
use super::{Marks, ReportError, ReportOptions};
use crate::manifest::Manifest;
use crate::read::{DataRow, QuarantineRow};
use crate::row::Stage;
use crate::rows::{OutputRow, visit_rows};
use crate::slowest::SlowestShards;

/// What the page is made of.
pub(super) struct Gathered {
    pub manifest: Manifest,
    pub tally: Tally,
    /// By stage and reason.
    pub quarantine: BTreeMap<(Stage, String), Reason>,
    pub examples: Vec<Example>,
    pub weakest: Vec<Example>,
    pub slowest: Option<SlowestShards>,
}

/// A row to show.
pub(super) struct Example {
    pub row: DataRow,
    /// A data URI.
    pub image: Option<String>,
}

/// Rows that failed for the same reason.
#[derive(Default)]
pub(super) struct Reason {
    pub rows: u64,
    pub examples: Vec<(QuarantineRow, Option<String>)>,
}

pub(super) async fn gather(
    output: &Folder,
    options: &ReportOptions,
    marks: Option<Marks<'_>>,
) -> Result<Gathered, ReportError> {
    let manifest = Manifest::read(output).await?;
    let mut tally = Tally::default();
    let mut quarantine: BTreeMap<(Stage, String), Reason> = BTreeMap::new();
    let mut sample = Lowest::new(options.examples, |a: &DataRow, b: &DataRow| a.id.key().cmp(&b.id.key()));
    let mut weakest = Lowest::new(options.weakest, |a: &DataRow, b: &DataRow| {
        best_score(a).total_cmp(&best_score(b)).then_with(|| a.id.cmp(&b.id))
    });
    visit_rows(output, &manifest, |row| {
        match row {
            OutputRow::Data(row) => {
                tally.add(&row, marks);
                if !row.candidates.is_empty() {
                    weakest.offer(&row);
                }
                sample.offer(&row);
            }
            OutputRow::Quarantined(row) => {
                let reason = quarantine.entry((row.stage, row.reason.clone())).or_default();
                reason.rows += 1;
                if reason.examples.len() < options.per_reason {
                    reason.examples.push((row, None));
                }
            }
        }
        ControlFlow::Continue(())
    })
    .await?;
    let mut examples = sample.rows;
    examples.sort_by(|a, b| a.id.cmp(&b.id));
    let images = Images::of(&manifest);
    let examples = images.examples(examples).await;
    let weakest = images.examples(weakest.rows).await;
    for (row, image) in quarantine.values_mut().flat_map(|reason| &mut reason.examples) {
        *image = images.data_uri(&row.id, None).await;
    }
    let slowest = SlowestShards::read(output, &manifest).await;
    Ok(Gathered { manifest, tally, quarantine, examples, weakest, slowest })
}

fn best_score(row: &DataRow) -> f32 {
    row.captions.first().and_then(|caption| caption.score).unwrap_or(f32::INFINITY)
}

/// The lowest rows of many, in order.
struct Lowest<F> {
    rows: Vec<DataRow>,
    limit: usize,
    order: F,
}

impl<F: Fn(&DataRow, &DataRow) -> Ordering> Lowest<F> {
    fn new(limit: usize, order: F) -> Self {
        Lowest { rows: Vec::new(), limit, order }
    }

    fn offer(&mut self, row: &DataRow) {
        let at = self.rows.partition_point(|lower| (self.order)(lower, row) == Ordering::Less);
        if at < self.limit {
            self.rows.insert(at, row.clone());
            self.rows.truncate(self.limit);
        }
    }
}
