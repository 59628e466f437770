//! The sums: hours, time, cost, output and epochs, from what was counted, sampled and measured.

use quern_capfilt::calibration::{Calibration, PartBytes};
use quern_recipes::{Price, Recipe};
use serde::Serialize;

use super::survey::{Captions, DatasetSurvey};

/// CapFilt as a whole.
#[derive(Debug, PartialEq, Serialize)]
pub struct CapFiltEstimate {
    /// Rows that go through it.
    pub rows: u64,
    /// Of these, the images that can be captioned, as the sample has it.
    pub images: u64,
    pub shards: u64,
    pub workers: u32,
    /// What one worker alone would take; as what follows, only where the throughput is known.
    pub device_hours: Option<f64>,
    /// What the workers take together: as many shards one after the other as the busiest of them has.
    pub hours: Option<f64>,
    pub cost: Option<Cost>,
}

/// What the device-hours cost.
#[derive(Debug, PartialEq, Serialize)]
pub struct Cost {
    pub amount: f64,
    pub currency: String,
}

/// What will be written, without checkpoints.
#[derive(Debug, PartialEq, Serialize)]
pub struct OutputEstimate {
    pub rows: u64,
    pub bytes: u64,
}

/// Training, of which no time is told.
#[derive(Debug, PartialEq, Serialize)]
pub struct StageEstimate {
    pub stage: &'static str,
    pub steps: u64,
    pub batch: u32,
    /// Images that are seen, each as often as it is.
    pub images: u64,
    /// The images that there are, as sample and calibration have it.
    pub rows: u64,
    /// How often each is seen, on average over their weights.
    pub epochs: f64,
}

/// Sums CapFilt up; `images_per_second` of one worker.
pub fn capfilt(
    datasets: &[DatasetSurvey],
    images_per_second: Option<f64>,
    workers: u32,
    price: Option<&Price>,
) -> CapFiltEstimate {
    let captioned = || datasets.iter().filter(|dataset| dataset.captions == Captions::CapFilt);
    let images = captioned().map(usable_rows).sum::<f64>();
    let shards: u64 = captioned().map(|dataset| dataset.shards).sum();
    let device_hours = images_per_second.map(|speed| images / speed / 3600.0);
    CapFiltEstimate {
        rows: captioned().map(|dataset| dataset.rows).sum(),
        images: images.round() as u64,
        shards,
        workers,
        device_hours,
        hours: device_hours.map(|hours| hours * shards.div_ceil(workers.into()) as f64 / shards.max(1) as f64),
        cost: device_hours
            .zip(price)
            .map(|(hours, price)| Cost { amount: hours * price.per_device_hour, currency: price.currency.clone() }),
    }
}

/// What parts take; none where captions would be written whose length nobody has seen.
pub fn output(datasets: &[DatasetSurvey], calibration: Option<&Calibration>) -> Option<OutputEstimate> {
    let mut bytes = 0.0;
    for dataset in datasets {
        bytes += match (dataset.captions, &dataset.sample) {
            (_, None) => 0.0,
            (Captions::CapFilt, Some(_)) => parts(usable_rows(dataset), dataset.shards, calibration?.part_bytes),
            (Captions::Kept | Captions::EarlierRun, Some(sample)) => {
                parts(dataset.rows as f64, dataset.shards, sample.part_bytes?)
            }
        };
    }
    Some(OutputEstimate { rows: trained_rows(datasets, calibration, |_| 1.0), bytes: bytes.round() as u64 })
}

/// Bytes of so many parts with so many rows together.
fn parts(rows: f64, parts: u64, PartBytes { per_shard, per_row }: PartBytes) -> f64 {
    parts as f64 * per_shard + rows * per_row
}

/// What each stage sees.
pub fn training(recipe: &Recipe, datasets: &[DatasetSurvey], calibration: Option<&Calibration>) -> Vec<StageEstimate> {
    let stage1 = recipe.stage1.as_ref().map(|stage| ("stage1", stage.steps, stage.batch));
    let stage2 = recipe.stage2.as_ref().map(|stage| ("stage2", stage.steps, stage.batch));
    let weight = |name: &str| {
        let dataset = recipe.datasets.iter().find(|dataset| dataset.name == name);
        dataset.and_then(|dataset| dataset.weight).unwrap_or(1.0)
    };
    let rows = trained_rows(datasets, calibration, |_| 1.0);
    let samples = trained_rows(datasets, calibration, weight);
    let estimate = |(stage, steps, batch): (_, u64, u32)| {
        let images = steps.saturating_mul(batch.into());
        StageEstimate { stage, steps, batch, images, rows, epochs: images as f64 / samples.max(1) as f64 }
    };
    stage1.into_iter().chain(stage2).map(estimate).collect()
}

/// Rows that have captions in the end, each data set's times its weight.
fn trained_rows(datasets: &[DatasetSurvey], calibration: Option<&Calibration>, weight: impl Fn(&str) -> f64) -> u64 {
    let kept_share = calibration.map_or(1.0, |calibration| calibration.kept_share);
    let rows = datasets.iter().map(|dataset| {
        let captioned = match dataset.captions {
            Captions::CapFilt => usable_rows(dataset) * kept_share,
            Captions::Kept | Captions::EarlierRun => usable_rows(dataset),
        };
        captioned * weight(&dataset.name)
    });
    rows.sum::<f64>().round() as u64
}

/// The data set's rows that are not quarantined, as its sample has it.
fn usable_rows(dataset: &DatasetSurvey) -> f64 {
    let share = dataset.sample.as_ref().map_or(1.0, |sample| sample.usable as f64 / sample.rows as f64);
    dataset.rows as f64 * share
}
