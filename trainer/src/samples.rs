//! The rows that can be trained on: CapFilt's captions beside the input's images, shard by shard.
//!
//! A shard is read when a batch first needs it and kept while the sample order is near it: the order shuffles within
//! windows of a few shards, so a few are in memory at a time, however large the corpus is.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;
use quern_capfilt::{Manifest, PartEntry, read_data};
use quern_corpus::RowId;
use quern_corpus::order::{SampleOrder, WINDOW_SHARDS};
use quern_corpus::reader::Reader;
use quern_corpus::store::Folder;
use quern_recipes::{Dataset, Images, Recipe};

use crate::error::TrainError;

/// Shards that are always kept: two windows, since a batch may straddle them.
const MIN_KEPT_SHARDS: usize = 2 * WINDOW_SHARDS;
/// Beyond those, shards are kept while the images of all stay below this.
const KEPT_BYTES: usize = 1 << 30;

/// A row that can be trained on.
pub struct SampleRow {
    /// Who it is.
    pub id: RowId,
    /// Its captions, best first; at least one.
    pub captions: Vec<String>,
    /// The encoded image.
    pub image: Bytes,
}

/// The usable rows of a shard, in the shard's order.
pub type ShardRows = Arc<Vec<SampleRow>>;

/// Reads shards as they are needed.
pub struct Samples {
    output: Folder,
    reader: Reader,
    datasets: BTreeMap<String, Dataset>,
    parts: Vec<PartEntry>,
    kept: Vec<Kept>,
}

struct Kept {
    shard: usize,
    bytes: usize,
    rows: ShardRows,
}

impl Samples {
    /// The samples that the manifest in `output` lists.
    ///
    /// # Errors
    /// When there is no manifest, or it was made of other data sets than the recipe's.
    pub async fn open(recipe: &Recipe, output: Folder) -> Result<Self, TrainError> {
        let manifest = Manifest::read(&output).await?;
        let parts: Vec<PartEntry> = manifest.parts.into_iter().filter(|part| part.data.is_some()).collect();
        let datasets = recipe.datasets.iter().map(|dataset| (dataset.name.clone(), dataset.clone())).collect();
        let reader = Reader::new(&recipe.limits);
        let samples = Samples { output, reader, datasets, parts, kept: Vec::new() };
        for part in &samples.parts {
            samples.dataset(part)?;
        }
        match samples.order(recipe.seed).rows_per_epoch() {
            0 => Err(TrainError::Corpus(format!(
                "{} lists no row with a caption, or none that a data set's `weight` leaves",
                samples.output.url_of("manifest.json")
            ))),
            _ => Ok(samples),
        }
    }

    /// The order in which they are trained on.
    pub fn order(&self, seed: u64) -> SampleOrder {
        let weight = |part: &PartEntry| self.datasets.get(&part.dataset).and_then(|dataset| dataset.weight);
        let shards = self.parts.iter().map(|part| (part.kept + part.passed, weight(part).unwrap_or(1.0)));
        SampleOrder::weighted(shards, seed)
    }

    /// The rows of shard `shard`, as the order counts them.
    ///
    /// # Errors
    /// When the part or the input can't be read, or they don't fit together.
    pub async fn shard(&mut self, shard: usize) -> Result<ShardRows, TrainError> {
        if let Some(position) = self.kept.iter().position(|kept| kept.shard == shard) {
            let kept = self.kept.remove(position); // to the end: the most recently used
            let rows = kept.rows.clone();
            self.kept.push(kept);
            return Ok(rows);
        }
        let rows = Arc::new(self.read(&self.parts[shard]).await?);
        let bytes = rows.iter().map(|row| row.image.len()).sum();
        self.kept.push(Kept { shard, bytes, rows: rows.clone() });
        while self.kept.len() > MIN_KEPT_SHARDS && self.kept.iter().map(|kept| kept.bytes).sum::<usize>() > KEPT_BYTES {
            self.kept.remove(0);
        }
        Ok(rows)
    }

    fn dataset(&self, part: &PartEntry) -> Result<&Dataset, TrainError> {
        self.datasets.get(&part.dataset).ok_or_else(|| {
            TrainError::Corpus(format!(
                "{} has a part of the data set `{}`, which the recipe does not have; train with the recipe that \
                 CapFilt ran",
                self.output.url_of("manifest.json"),
                part.dataset
            ))
        })
    }

    async fn read(&self, part: &PartEntry) -> Result<Vec<SampleRow>, TrainError> {
        let name = part.data.as_deref().expect("parts without data were left out");
        let captioned = read_data(self.output.get(name).await?)
            .map_err(|source| TrainError::Part { url: self.output.url_of(name), source })?;
        if captioned.len() as u64 != part.kept + part.passed {
            return Err(TrainError::Corpus(format!(
                "{} has {} rows, but the manifest says {}; run `quern capfilt verify` on the output",
                self.output.url_of(name),
                captioned.len(),
                part.kept + part.passed
            )));
        }
        let mut images = match captioned.iter().all(|row| row.image.is_some()) {
            true => BTreeMap::new(),
            false => self.read_images(part).await?,
        };
        let rows = captioned.into_iter().map(|row| {
            let image = row.image.or_else(|| images.remove(&row.id.row)).ok_or_else(|| {
                TrainError::Corpus(format!(
                    "row {} has captions, but no image in the data set: was it changed?",
                    row.id
                ))
            })?;
            let captions = row.captions.into_iter().map(|caption| caption.text).collect();
            Ok(SampleRow { id: row.id, captions, image })
        });
        rows.collect()
    }

    async fn read_images(&self, part: &PartEntry) -> Result<BTreeMap<u64, Bytes>, TrainError> {
        let dataset = self.dataset(part)?;
        if dataset.images == Images::Urls {
            return Err(TrainError::Corpus(format!(
                "{} carries no images, and those of the data set `{}` are fetched from URLs by CapFilt alone; run CapFilt \
                 with `embed_images: true`",
                self.output.url_of(part.data.as_deref().unwrap_or_default()),
                dataset.name
            )));
        }
        let rows = self.reader.rows(dataset, &part.file, part.row_start, part.rows).await?;
        let images = rows.try_filter_map(async |row| Ok(row.image.map(|image| (row.id.row, image))));
        Ok(images.try_collect().await?)
    }
}
