//! `quern plan`: what a recipe's run will be, before it begins: rows, bytes, shards, columns, a sample that is read and
//! decoded, throughput, hours, cost. Nothing is written, and no coordinator is started.
//!
//! `survey` looks at the data sets' files, `sample` at some of their rows, `throughput` has the sample captioned, `estimate`
//! does the sums, `page` prints. docs/reference/plan.md has the words and the JSON.

mod estimate;
mod figures;
mod page;
mod sample;
mod survey;
mod throughput;

use std::path::PathBuf;

use quern_corpus::reader::{RawRow, Reader};
use quern_recipes::Recipe;
use serde::Serialize;

use self::estimate::{CapFiltEstimate, OutputEstimate, StageEstimate};
use self::survey::{Captions, DatasetSurvey};
use self::throughput::Throughput;
use crate::outcome::{Done, Failure};
use crate::signals::Signals;

/// Say what a run will be before it begins: rows, bytes, shards, columns, a sample of rows that is read and decoded,
/// throughput, device-hours, time and cost. Nothing is written.
#[derive(clap::Args)]
pub struct Arguments {
    /// The recipe's file.
    recipe: PathBuf,
    #[command(flatten)]
    options: Options,
}

/// How a plan is made.
#[derive(clap::Args)]
pub struct Options {
    /// Workers whose time is told [default: `cluster.kubernetes.capfilt_workers` where the recipe has it, else 1].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    workers: Option<u32>,
    /// Rows of each data set that are read and decoded.
    #[arg(long, value_name = "ROWS", default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    sample: u64,
    /// Images that a worker captions per second, instead of measuring it here: for a device that this machine has not.
    #[arg(long, value_name = "IMAGES_PER_SECOND", value_parser = positive)]
    throughput: Option<f64>,
    /// Measure no throughput.
    #[arg(long, conflicts_with = "throughput")]
    no_calibrate: bool,
    /// How long the throughput is measured, in seconds, when the models are loaded.
    #[arg(long, value_name = "SECONDS", default_value_t = 60.0, value_parser = positive)]
    calibrate_seconds: f64,
    /// Device that it is measured on: auto, cpu or cuda:N.
    #[arg(long, default_value = "auto")]
    device: String,
    /// Print a JSON object.
    #[arg(long)]
    json: bool,
}

/// A plan; its fields are those of `--json`.
#[derive(Debug, Serialize)]
pub struct Plan {
    name: String,
    recipe_hash: String,
    datasets: Vec<DatasetSurvey>,
    /// What a worker does in a second, where it is known.
    throughput: Option<Throughput>,
    /// Why it is not known.
    not_calibrated: Option<String>,
    capfilt: Option<CapFiltEstimate>,
    output: Option<OutputEstimate>,
    training: Vec<StageEstimate>,
}

fn positive(text: &str) -> Result<f64, String> {
    let number = text.parse().map_err(|_| format!("`{text}` is no number"))?;
    if (f64::MIN_POSITIVE..=1e9).contains(&number) { Ok(number) } else { Err("must be above 0".into()) }
}

/// Plans the recipe.
pub async fn plan(Arguments { recipe, options }: Arguments) -> Result<Done, Failure> {
    carry_out(Recipe::read(&recipe)?, options).await
}

/// Plans and prints; a signal ends it with nothing to clean up.
pub async fn carry_out(recipe: Recipe, options: Options) -> Result<Done, Failure> {
    let mut signals = Signals::listen()?;
    let plan = tokio::select! {
        plan = make(&recipe, &options) => plan?,
        signal = signals.next() => {
            return Err(Failure::Stopped { signal, message: "stopped; nothing was written".into() });
        }
    };
    match options.json {
        true => println!("{}", serde_json::to_string_pretty(&plan).expect("a plan is plain data")),
        false => print!("{}", page::page(&plan, &recipe)),
    }
    Ok(Done::Completely)
}

async fn make(recipe: &Recipe, options: &Options) -> Result<Plan, Failure> {
    let mut datasets = Vec::new();
    let mut shards = Vec::new();
    for dataset in &recipe.datasets {
        let (found, of) = survey::survey(recipe, dataset).await?;
        datasets.push(found);
        shards.push(of);
    }
    let kept = throughput::shares(&datasets, options.sample);
    let reader = Reader::with_web(recipe).map_err(|error| Failure::failed(error.to_string()))?;
    let mut rows: Vec<RawRow> = Vec::new();
    for ((index, dataset), kept) in recipe.datasets.iter().enumerate().zip(kept) {
        let ranges = quern_corpus::sample::draw(&shards[index], options.sample, recipe.seed);
        let (sample, kept) = sample::read(recipe, dataset, &reader, ranges, kept).await?;
        datasets[index].sample = sample;
        rows.extend(kept);
    }
    let (throughput, not_calibrated) = match throughput::find(recipe, &datasets, rows, options).await {
        Ok(throughput) => (throughput, None),
        Err(reason) => (None, Some(reason)),
    };
    let workers = options.workers.unwrap_or_else(|| default_workers(recipe));
    let captioned = datasets.iter().any(|dataset| dataset.captions == Captions::CapFilt);
    let calibration = throughput.as_ref().and_then(|throughput| throughput.calibration.as_ref());
    Ok(Plan {
        name: recipe.name.clone(),
        recipe_hash: recipe.hash(),
        capfilt: captioned.then(|| {
            let speed = throughput.as_ref().map(|throughput| throughput.images_per_second);
            estimate::capfilt(&datasets, speed, workers, recipe.cluster.price.as_ref())
        }),
        output: recipe.captions.is_none().then(|| estimate::output(&datasets, calibration)).flatten(),
        training: estimate::training(recipe, &datasets, calibration),
        datasets,
        throughput,
        not_calibrated,
    })
}

fn default_workers(recipe: &Recipe) -> u32 {
    recipe.cluster.kubernetes.as_ref().map_or(1, |kubernetes| kubernetes.capfilt_workers)
}

#[cfg(test)]
mod tests;
