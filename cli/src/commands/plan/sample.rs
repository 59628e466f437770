//! A sample of a data set's rows: read as a worker reads them, and decoded.

use std::collections::BTreeMap;
use std::time::Instant;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use quern_capfilt::calibration::PartBytes;
use quern_capfilt::{PartRow, Provenance, RowOutcome, Stage, decode_row, embedded, pass_through};
use quern_corpus::reader::{RawRow, ReadError, Reader};
use quern_corpus::sample::RowRange;
use quern_corpus::store::{self, Folder};
use quern_recipes::{Dataset, Recipe};
use serde::Serialize;

use super::figures::{mean, median};
use crate::outcome::{Failure, chain};
use crate::progress::Meter;

/// Runs of rows that are read and decoded at a time; a worker decodes on as many threads.
const CONCURRENT_RUNS: usize = 4;
/// Bytes of encoded images of a data set that are kept for the calibration, and for a part.
const KEPT_BYTES: usize = 32 << 20;
/// Rows of the part that tells the output's size.
const PART_ROWS: usize = 10_000;

/// What the sample was like.
#[derive(Debug, Serialize)]
pub struct Sample {
    pub rows: u64,
    /// Rows that CapFilt or training can work with.
    pub usable: u64,
    pub quarantined: Vec<Quarantined>,
    /// Mean bytes of an encoded image.
    pub image_bytes: f64,
    /// Medians of the images that were decoded, in pixels; 0 where there are none.
    pub width: u32,
    pub height: u32,
    /// Time of reading and decoding, in seconds.
    pub seconds: f64,
    /// What the output takes, where captions are kept.
    pub part_bytes: Option<PartBytes>,
}

/// Rows of the sample that would be in quarantine.
#[derive(Debug, Serialize)]
pub struct Quarantined {
    pub stage: String,
    pub reason: String,
    pub rows: u64,
    /// Of the first such row.
    pub detail: String,
}

/// What is gathered of rows.
#[derive(Default)]
struct Gathered {
    rows: u64,
    usable: u64,
    quarantined: BTreeMap<(Stage, String), (u64, String)>,
    image_bytes: Vec<f64>,
    widths: Vec<u32>,
    heights: Vec<u32>,
    /// What becomes of them where captions are kept.
    parts: Vec<PartRow>,
    parts_bytes: usize,
    /// For the calibration.
    kept: Vec<RawRow>,
    kept_bytes: usize,
}

/// A row with its image's size and what its part carries of it, or with what becomes of it.
type Seen = (RawRow, Result<(u32, u32, Option<Bytes>), RowOutcome>);

/// Reads and decodes the rows of `ranges`; keeps `keep` of those that can be captioned, spread over all of them.
pub async fn read(
    recipe: &Recipe,
    dataset: &Dataset,
    reader: &Reader,
    ranges: Vec<RowRange>,
    keep: usize,
) -> Result<(Option<Sample>, Vec<RawRow>), Failure> {
    let total: u64 = ranges.iter().map(|range| range.rows).sum();
    if total == 0 {
        return Ok((None, Vec::new()));
    }
    let failed =
        |error: &dyn std::error::Error| Failure::failed(format!("data set `{}`: {}", dataset.name, chain(error)));
    let folder = store::open(&dataset.path).map_err(|error| failed(&error))?;
    let mut meter = Meter::new(&dataset.name, total, "rows of the sample");
    let begun = Instant::now();
    let mut runs = stream::iter(ranges)
        .map(|range| async {
            let rows = range.rows;
            (rows, look_at(recipe, dataset, reader, &folder, range).await)
        })
        .buffered(CONCURRENT_RUNS);
    let mut gathered = Gathered::default();
    while let Some((rows, run)) = runs.next().await {
        match run {
            Ok(seen) => seen.into_iter().for_each(|seen| gathered.add(seen, dataset, keep as u64, total)),
            // The shard would be quarantined as a whole.
            Err(error) if !error.is_passing() => gathered.fail(Stage::Shard, error.reason(), error.to_string(), rows),
            Err(error) => return Err(failed(&error)),
        }
        meter.set(gathered.rows);
    }
    drop(runs);
    meter.clear();
    let seconds = begun.elapsed().as_secs_f64();
    let parts = std::mem::take(&mut gathered.parts);
    let kept = std::mem::take(&mut gathered.kept);
    let part_bytes = match dataset.capfilt || recipe.captions.is_some() {
        true => None,
        false => Some(PartBytes::of(parts, &Provenance::default()).map_err(|error| failed(&error))?),
    };
    Ok((Some(gathered.sample(seconds, part_bytes)), kept))
}

/// A run of rows with their images' sizes.
async fn look_at(
    recipe: &Recipe,
    dataset: &Dataset,
    reader: &Reader,
    folder: &Folder,
    RowRange { file, row_start, rows }: RowRange,
) -> Result<Vec<Seen>, ReadError> {
    let rows: Vec<RawRow> = reader.rows_in(folder, dataset, &file, row_start, rows).await?.try_collect().await?;
    let limits = recipe.limits;
    // Of what is captioned, the calibration tells what parts carry.
    let embed =
        recipe.capfilt.as_ref().map(|capfilt| capfilt.embed_images).filter(|_| !dataset.capfilt).unwrap_or_default();
    let decode = move |row: RawRow| {
        let decoded =
            decode_row(&row, &limits).and_then(|image| Ok((image.width, image.height, embedded(&row, &image, embed)?)));
        (row, decoded)
    };
    let decoding = tokio::task::spawn_blocking(move || rows.into_iter().map(decode).collect());
    Ok(decoding.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic())))
}

impl Gathered {
    fn add(&mut self, (row, decoded): Seen, dataset: &Dataset, keep: u64, total: u64) {
        if let Some(image) = &row.image {
            self.image_bytes.push(image.len() as f64);
        }
        if let Ok((width, height, _)) = decoded {
            self.widths.push(width);
            self.heights.push(height);
        }
        let decoded = decoded.map(|(_, _, image)| image);
        let failed = match dataset.capfilt {
            true => decoded.err(),
            // A caption that is kept must be there.
            false => {
                let passed = pass_through(row.clone(), decoded);
                let outcome = passed.outcome.clone();
                self.add_to_part(passed);
                Some(outcome)
            }
        };
        match failed {
            Some(RowOutcome::Quarantined { stage, reason, detail }) => self.fail(stage, &reason, detail, 1),
            _ => {
                // The share that is due by now: so they are spread over the whole sample.
                let due = (self.rows + 1) * keep / total;
                let bytes = row.image.as_ref().map_or(0, |image| image.len());
                if (self.kept.len() as u64) < due && self.kept_bytes + bytes <= KEPT_BYTES {
                    self.kept_bytes += bytes;
                    self.kept.push(row);
                }
                self.rows += 1;
                self.usable += 1;
            }
        }
    }

    /// Keeps what becomes of a row, while there is room.
    fn add_to_part(&mut self, row: PartRow) {
        let bytes = row.image.as_ref().map_or(0, |image| image.len());
        if self.parts.len() < PART_ROWS && self.parts_bytes + bytes <= KEPT_BYTES {
            self.parts_bytes += bytes;
            self.parts.push(row);
        }
    }

    fn fail(&mut self, stage: Stage, reason: &str, detail: String, rows: u64) {
        self.rows += rows;
        self.quarantined.entry((stage, reason.to_owned())).or_insert((0, detail)).0 += rows;
    }

    fn sample(self, seconds: f64, part_bytes: Option<PartBytes>) -> Sample {
        let quarantined = self.quarantined.into_iter().map(|((stage, reason), (rows, detail))| Quarantined {
            stage: stage.to_string(),
            reason,
            rows,
            detail,
        });
        Sample {
            rows: self.rows,
            usable: self.usable,
            quarantined: quarantined.collect(),
            image_bytes: mean(&self.image_bytes),
            width: median(self.widths),
            height: median(self.heights),
            seconds,
            part_bytes,
        }
    }
}
