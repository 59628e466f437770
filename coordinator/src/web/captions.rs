//! Rows to look through: what was accepted, the newest parts first, with every candidate, its score, and whether it is
//! kept; and their images, where those can be had.
//!
//! It costs nothing while nobody looks. A look fetches one part, and it is bounded: in bytes by what the part's commit
//! said of its size, in time, and to one at a time, so that a browser can't keep the coordinator from its work.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::TryStreamExt;
use quern_capfilt::{DataRow, read_data, web_image_kind};
use quern_corpus::reader::read_rows;
use quern_corpus::store;
use quern_machine::Epoch;
use serde::Serialize;
use tokio::sync::Mutex;

use crate::runs::Run;

/// Rows at a time.
const ROWS: usize = 12;
/// The largest part that is fetched.
const PART_BYTES: u64 = 64 << 20;
/// The largest image that is shown, and all that are shown at a time.
const IMAGE_BYTES: usize = 512 << 10;
const IMAGES_BYTES: usize = 4 << 20;
/// Rows of an input that are read at most to find the images of one look.
const SPAN: u64 = 64;
/// How long a look may take.
const PATIENCE: Duration = Duration::from_secs(8);

/// Why there is nothing to see.
pub(super) type Failed = String;

/// Some rows.
#[derive(Debug, Default, Serialize)]
pub(super) struct Captions {
    /// The part's shard; empty: there is no part (any more).
    shard: String,
    /// What the images of these rows are asked for with.
    at: String,
    rows: Vec<Row>,
    /// What the rows after these are asked for with; empty: there are none.
    next: String,
}

/// A row with its captions, best first.
#[derive(Debug, Serialize)]
struct Row {
    dataset: String,
    file: String,
    row: u64,
    key: Option<String>,
    captions: Vec<Caption>,
}

/// A caption.
#[derive(Debug, Serialize)]
struct Caption {
    text: String,
    source: &'static str,
    /// None where it was passed through unranked.
    score: Option<f32>,
    /// 1 is the best; none: it was dropped.
    rank: Option<u32>,
}

/// Where one is in the rows: `EPOCH-ROW`, of the attempt whose part it is, and a number among the part's rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cursor {
    epoch: u64,
    row: usize,
}

impl Cursor {
    /// What a request says.
    pub fn parse(said: &str) -> Option<Self> {
        let (epoch, row) = said.split_once('-')?;
        Some(Cursor { epoch: epoch.parse().ok()?, row: row.parse().ok()? })
    }

    fn said(self) -> String {
        format!("{}-{}", self.epoch, self.row)
    }
}

/// A part's rows.
struct Part {
    run: String,
    epoch: u64,
    shard: String,
    rows: Vec<DataRow>,
}

/// Reads parts; keeps the last one, since who looks at a part goes on in it.
#[derive(Default)]
pub(super) struct Captioned(Mutex<Option<Arc<Part>>>);

impl Captioned {
    /// The rows from `at` on, in this part or, when that ends, the next older one; at the newest when that says nothing.
    ///
    /// # Errors
    /// A sentence, when the part can't be shown.
    pub async fn rows(&self, run: &Run, at: Option<Cursor>) -> Result<Captions, Failed> {
        let Some(part) = self.part(run, at.map(|cursor| cursor.epoch)).await? else { return Ok(Captions::default()) };
        let first = at.filter(|at| at.epoch == part.epoch).map_or(0, |at| at.row.min(part.rows.len()));
        let end = (first + ROWS).min(part.rows.len());
        let next = match end == part.rows.len() {
            false => Cursor { epoch: part.epoch, row: end }.said(),
            true => part.epoch.checked_sub(1).map_or_else(String::new, |epoch| Cursor { epoch, row: 0 }.said()),
        };
        Ok(Captions {
            shard: part.shard.clone(),
            at: Cursor { epoch: part.epoch, row: first }.said(),
            rows: part.rows[first..end].iter().map(Row::of).collect(),
            next,
        })
    }

    /// The images of those rows as data URIs, by row number; those that can't be had are left out.
    ///
    /// # Errors
    /// A sentence, when the part or the input can't be read in time.
    pub async fn images(&self, run: &Run, at: Cursor) -> Result<BTreeMap<u64, String>, Failed> {
        let Some(part) = self.part(run, Some(at.epoch)).await? else { return Ok(BTreeMap::new()) };
        if part.epoch != at.epoch {
            return Ok(BTreeMap::new());
        }
        let first = at.row.min(part.rows.len());
        let rows = &part.rows[first..(first + ROWS).min(part.rows.len())];
        // One at a time: a row group of an input is fetched for it.
        let _alone = self.0.lock().await;
        let found = tokio::time::timeout(PATIENCE, images(run, rows)).await;
        found.map_err(|_| "the images could not be read in time".to_owned())?
    }

    /// The newest part, or the newest of those up to an epoch.
    async fn part(&self, run: &Run, epoch: Option<u64>) -> Result<Option<Arc<Part>>, Failed> {
        let mut kept = self.0.lock().await;
        if let Some(part) = kept.as_ref().filter(|part| part.run == run.id && Some(part.epoch) == epoch) {
            return Ok(Some(Arc::clone(part)));
        }
        let before = epoch.map(|epoch| Epoch(epoch.saturating_add(1)));
        let found = run.look(move |machine| {
            let (epoch, plan, part) = machine.last_part(before)?;
            Some((epoch.0, plan.shard.0.clone(), part.data.clone()?, part.bytes))
        });
        let Some((epoch, shard, name, bytes)) = found.await.map_err(|error| error.to_string())? else {
            return Ok(None);
        };
        if let Some(part) = kept.as_ref().filter(|part| part.run == run.id && part.epoch == epoch) {
            return Ok(Some(Arc::clone(part)));
        }
        if bytes > PART_BYTES {
            return Err(format!("the part of {shard} has {} MiB, too much to be shown here", bytes >> 20));
        }
        let fetched = tokio::time::timeout(PATIENCE, async {
            let output = store::open(&run.recipe.output)?;
            output.get(&name).await
        });
        let fetched = fetched.await.map_err(|_| format!("{name} could not be read in time"))?;
        // What the store says may name places that a viewer needn't know.
        let bytes = fetched.map_err(|error| {
            tracing::warn!("a part can't be shown: {error}");
            format!("{name} can't be read; the coordinator's log says why")
        })?;
        let read = tokio::task::spawn_blocking(move || read_data(bytes)).await;
        let rows = read.map_err(|error| error.to_string())?.map_err(|error| format!("{name}: {error}"))?;
        let part = Arc::new(Part { run: run.id.clone(), epoch, shard, rows });
        *kept = Some(Arc::clone(&part));
        Ok(Some(part))
    }
}

/// Images that the part carries, or else those of the input, in one pass over the rows.
async fn images(run: &Run, rows: &[DataRow]) -> Result<BTreeMap<u64, String>, Failed> {
    let mut found = BTreeMap::new();
    let mut bytes = 0;
    let mut take = |row: u64, image: &[u8]| {
        bytes += image.len();
        if let Some(kind) = web_image_kind(image).filter(|_| image.len() <= IMAGE_BYTES && bytes <= IMAGES_BYTES) {
            found.insert(row, format!("data:image/{kind};base64,{}", STANDARD.encode(image)));
        }
    };
    for row in rows {
        if let Some(image) = &row.image {
            take(row.id.row, image);
        }
    }
    let missing = |row: &&DataRow| row.image.is_none();
    if let (Some(first), Some(last)) = (rows.iter().find(missing), rows.iter().rfind(missing))
        && let Some(dataset) = run.recipe.datasets.iter().find(|dataset| dataset.name == *first.id.dataset)
    {
        let failed = |error: quern_corpus::reader::ReadError| {
            tracing::warn!("images can't be shown: {error}");
            "the input can't be read; the coordinator's log says why".to_owned()
        };
        let span = (last.id.row + 1 - first.id.row).min(SPAN);
        let mut input = read_rows(dataset, &first.id.file, first.id.row, span).await.map_err(failed)?;
        while let Some(row) = input.try_next().await.map_err(failed)? {
            if let Some(image) = &row.image {
                take(row.id.row, image);
            }
        }
    }
    Ok(found)
}

impl Row {
    fn of(row: &DataRow) -> Self {
        let rank = |text: &str| row.captions.iter().find(|kept| kept.text == text).map(|kept| kept.rank);
        let mut captions: Vec<Caption> = row
            .candidates
            .iter()
            .map(|candidate| Caption {
                text: candidate.text.clone(),
                source: candidate.source.as_str(),
                score: Some(candidate.score),
                rank: rank(&candidate.text),
            })
            .collect();
        captions.sort_by(|a, b| b.score.unwrap_or(0.0).total_cmp(&a.score.unwrap_or(0.0)));
        if captions.is_empty() {
            captions.extend(row.captions.iter().map(|kept| Caption {
                text: kept.text.clone(),
                source: kept.source.as_str(),
                score: kept.score,
                rank: Some(kept.rank),
            }));
        }
        let (dataset, file) = (row.id.dataset.to_string(), row.id.file.to_string());
        Row { dataset, file, row: row.id.row, key: row.key.clone(), captions }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_reads_back_and_nothing_else_does() {
        let cursor = Cursor { epoch: 7, row: 24 };
        assert_eq!(Cursor::parse(&cursor.said()), Some(cursor));
        for wrong in ["", "7", "7-", "-1", "a-b", "7-2-4", "99999999999999999999-0"] {
            assert_eq!(Cursor::parse(wrong), None, "{wrong}");
        }
    }
}
