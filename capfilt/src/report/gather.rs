//! What the page needs, out of the parts, one at a time, and the inputs.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;

use bytes::Bytes;
use futures::TryStreamExt;
use quern_corpus::RowId;
use quern_corpus::reader::{ReadError, read_rows};
use quern_corpus::store::Folder;
use quern_recipes::{Dataset, ImageLimits};

use super::histogram::Histogram;
use super::{Marks, ReportError, ReportOptions, thumbnail};
use crate::candidate::{Candidate, Source};
use crate::manifest::Manifest;
use crate::read::{DataRow, QuarantineRow};
use crate::row::Stage;
use crate::rows::{OutputRow, visit_rows};

/// What the page is made of.
pub(super) struct Gathered {
    pub manifest: Manifest,
    pub counts: Counts,
    /// Scores of kept captions, of dropped ones, and of web captions whether kept or not.
    pub kept_scores: Histogram,
    pub dropped_scores: Histogram,
    pub web_scores: Histogram,
    /// By stage and reason.
    pub quarantine: BTreeMap<(Stage, String), Reason>,
    pub examples: Vec<Example>,
    pub weakest: Vec<Example>,
}

/// Sums over the rows that were ranked.
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
    let mut gathered = Gathered {
        counts: Counts::default(),
        kept_scores: Histogram::default(),
        dropped_scores: Histogram::default(),
        web_scores: Histogram::default(),
        quarantine: BTreeMap::new(),
        examples: Vec::new(),
        weakest: Vec::new(),
        manifest,
    };
    let mut sample = Lowest::new(options.examples, |a: &DataRow, b: &DataRow| a.id.key().cmp(&b.id.key()));
    let mut weakest = Lowest::new(options.weakest, |a: &DataRow, b: &DataRow| {
        best_score(a).total_cmp(&best_score(b)).then_with(|| a.id.cmp(&b.id))
    });
    let all = gathered.manifest.clone();
    visit_rows(output, &all, |row| {
        match row {
            OutputRow::Data(row) => {
                gathered.count(&row, marks);
                if !row.candidates.is_empty() {
                    weakest.offer(&row);
                }
                sample.offer(&row);
            }
            OutputRow::Quarantined(row) => {
                let reason = gathered.quarantine.entry((row.stage, row.reason.clone())).or_default();
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
    let mut images = Images::of(&gathered.manifest);
    gathered.examples = images.examples(examples).await;
    gathered.weakest = images.examples(weakest.rows).await;
    for (row, image) in gathered.quarantine.values_mut().flat_map(|reason| &mut reason.examples) {
        *image = images.data_uri(&row.id, None).await;
    }
    Ok(gathered)
}

impl Gathered {
    fn count(&mut self, row: &DataRow, marks: Option<Marks>) {
        if row.candidates.is_empty() {
            return;
        }
        let mark = |text: &str| marks.and_then(|marks| marks(&row.id, text));
        let is_kept = |candidate: &Candidate| row.captions.iter().any(|kept| kept.text == candidate.text);
        let counts = &mut self.counts;
        counts.rows += 1;
        counts.candidates += row.candidates.len() as u64;
        for candidate in &row.candidates {
            let scores = if is_kept(candidate) { &mut self.kept_scores } else { &mut self.dropped_scores };
            scores.add(candidate.score);
            let marked = if candidate.source == Source::Web {
                counts.with_web += 1;
                self.web_scores.add(candidate.score);
                &mut counts.web
            } else {
                &mut counts.written
            };
            marked.add(mark(&candidate.text));
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

/// Where images come from.
struct Images {
    datasets: HashMap<String, Dataset>,
    limits: ImageLimits,
}

impl Images {
    /// By the recipe in the manifest; without one that can be understood there are only the parts' own images.
    fn of(manifest: &Manifest) -> Self {
        let field = |name: &str| manifest.recipe.get(name).cloned().unwrap_or_default();
        let datasets: Vec<Dataset> = serde_json::from_value(field("datasets")).unwrap_or_default();
        let limits = serde_json::from_value(field("limits")).unwrap_or_default();
        Images { datasets: datasets.into_iter().map(|dataset| (dataset.name.clone(), dataset)).collect(), limits }
    }

    async fn examples(&mut self, rows: Vec<DataRow>) -> Vec<Example> {
        let mut examples = Vec::with_capacity(rows.len());
        for row in rows {
            let image = self.data_uri(&row.id, row.image.as_ref()).await;
            examples.push(Example { row, image });
        }
        examples
    }

    async fn data_uri(&self, id: &RowId, embedded: Option<&Bytes>) -> Option<String> {
        let bytes = match embedded {
            Some(bytes) => bytes.clone(),
            None => self.input(id).await.ok().flatten()?,
        };
        thumbnail::data_uri(&bytes, &self.limits)
    }

    async fn input(&self, id: &RowId) -> Result<Option<Bytes>, ReadError> {
        let Some(dataset) = self.datasets.get(&*id.dataset) else { return Ok(None) };
        let mut rows = read_rows(dataset, &id.file, id.row, 1).await?;
        Ok(rows.try_next().await?.and_then(|row| row.image))
    }
}
