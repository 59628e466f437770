//! How many images a worker captions in a second: given by hand, or measured by `quern-worker` on the sample's rows with
//! the device of this machine.

use std::process::Stdio;

use quern_capfilt::calibration::{Answer, Calibration, Request};
use quern_corpus::reader::RawRow;
use quern_recipes::Recipe;
use serde::Serialize;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::Options;
use super::survey::{Captions, DatasetSurvey};
use crate::companion;

/// What a worker does in a second.
#[derive(Debug, Serialize)]
pub struct Throughput {
    pub images_per_second: f64,
    /// How it was measured; none if it was given.
    pub calibration: Option<Calibration>,
}

/// How many rows of each data set are kept to be captioned: `sample` together, as their rows are shared out.
pub fn shares(datasets: &[DatasetSurvey], sample: u64) -> Vec<usize> {
    let captioned = captioned_rows(datasets);
    let share = |dataset: &DatasetSurvey| match dataset.captions {
        Captions::CapFilt if captioned > 0 => {
            (u128::from(sample) * u128::from(dataset.rows)).div_ceil(u128::from(captioned)) as usize
        }
        _ => 0,
    };
    datasets.iter().map(share).collect()
}

fn captioned_rows(datasets: &[DatasetSurvey]) -> u64 {
    datasets.iter().filter(|dataset| dataset.captions == Captions::CapFilt).map(|dataset| dataset.rows).sum()
}

/// The throughput; none where nothing is captioned.
///
/// # Errors
/// Why it is not known, in one sentence: the rest of a plan does without.
pub async fn find(
    recipe: &Recipe,
    datasets: &[DatasetSurvey],
    rows: Vec<RawRow>,
    options: &Options,
) -> Result<Option<Throughput>, String> {
    if captioned_rows(datasets) == 0 {
        return Ok(None);
    }
    if let Some(images_per_second) = options.throughput {
        return Ok(Some(Throughput { images_per_second, calibration: None }));
    }
    if options.no_calibrate {
        return Err("--no-calibrate was given".into());
    }
    if rows.is_empty() {
        return Err("no image of the sample can be decoded".into());
    }
    let calibration = calibrate(recipe, datasets, rows, options).await?;
    Ok(Some(Throughput { images_per_second: calibration.images_per_second, calibration: Some(calibration) }))
}

/// Has the rows captioned and ranked by a `quern-worker`.
async fn calibrate(
    recipe: &Recipe,
    datasets: &[DatasetSurvey],
    mut rows: Vec<RawRow>,
    options: &Options,
) -> Result<Calibration, String> {
    let worker = companion::path().map_err(|_| {
        "quern-worker is not beside quern: run `make build`, install it, or give --throughput".to_owned()
    })?;
    // Data sets are mixed.
    rows.sort_by_cached_key(|row| row.id.key());
    let captioned = datasets.iter().filter(|dataset| dataset.captions == Captions::CapFilt);
    let shards: u64 = captioned.map(|dataset| dataset.shards).sum();
    let request = Request {
        recipe: recipe.clone(),
        shard_rows: captioned_rows(datasets).div_ceil(shards.max(1)),
        seconds: options.calibrate_seconds,
        rows: rows.len() as u64,
    };
    let mut sent = Vec::new();
    request.send(&rows, &mut sent).expect("memory takes all");
    quern_telemetry::say(&format!(
        "captioning {} images of the sample on {}, {} s at most when the models are loaded",
        rows.len(),
        if options.device == "auto" { "this machine's device" } else { &options.device },
        options.calibrate_seconds
    ));
    drop(rows);

    let mut child = Command::from(companion::command(&worker))
        .args(["calibrate", "--device", &options.device])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("{} does not start: {error}", worker.display()))?;
    let mut stdin = child.stdin.take().expect("it is piped");
    let sending = async move {
        // One that has died while it is written to is found out by its answer.
        let _ = stdin.write_all(&sent).await;
    };
    let ((), ended) = tokio::join!(sending, child.wait_with_output());
    let output = ended.map_err(|error| format!("quern-worker is lost: {error}"))?;
    match serde_json::from_slice(&output.stdout) {
        Ok(Answer::Calibrated(calibration)) => Ok(calibration),
        Ok(Answer::Failed(reason)) => Err(reason),
        Err(_) => {
            let said = String::from_utf8_lossy(&output.stderr);
            let first = said.lines().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
            Err(format!("quern-worker calibrate ended with {}: {first}", output.status))
        }
    }
}
