//! quern's side of `make bench-capfilt`: loads the engine once; for every line on standard input it captions and ranks
//! all rows once, and answers with a line of JSON. `benches/capfilt/run.py` drives it in alternation with the peer.

use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, ensure};
use clap::Parser;
use futures::TryStreamExt;
use quern_capfilt::RowOutcome;
use quern_capfilt_engine::Engine;
use quern_corpus::plan::plan_dataset;
use quern_corpus::reader::{RawRow, read_rows};
use quern_recipes::{CapFilt, Dataset, Recipe};
use tch::Device;

#[derive(Parser)]
struct Arguments {
    /// A recipe with one data set and `capfilt`.
    recipe: PathBuf,
    /// Threads of tensor arithmetic.
    #[arg(long, default_value_t = 1)]
    threads: i32,
}

fn main() -> anyhow::Result<()> {
    quern_models::memory::keep_freed_memory();
    let Arguments { recipe, threads } = Arguments::parse();
    tch::set_num_threads(threads);
    let recipe = Recipe::read(&recipe)?;
    let capfilt = recipe.capfilt.as_ref().context("the recipe has no `capfilt`")?;
    let device = Device::cuda_if_available();
    let rows = rows(&recipe.datasets[0])?;
    let engine = Engine::load(capfilt, &recipe.limits, recipe.seed, device)?;
    let mut out = std::io::stdout();
    writeln!(out, "{}", serde_json::json!({ "ready": true, "device": format!("{device:?}") }))?;
    for line in std::io::stdin().lock().lines() {
        line?;
        writeln!(out, "{}", round(&engine, capfilt, &rows)?)?;
        out.flush()?;
    }
    Ok(())
}

/// All rows of a data set.
fn rows(dataset: &Dataset) -> anyhow::Result<Vec<RawRow>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut rows = Vec::new();
        for shard in plan_dataset(dataset, 1_000_000).await?.shards {
            let stream = read_rows(dataset, &shard.file, shard.row_start, shard.rows).await?;
            rows.extend(stream.try_collect::<Vec<_>>().await?);
        }
        Ok(rows)
    })
}

/// Captions and ranks all rows; what it took.
fn round(engine: &Engine, capfilt: &CapFilt, rows: &[RawRow]) -> anyhow::Result<serde_json::Value> {
    let before = engine.written();
    let started = Instant::now();
    let done = engine.run_rows(rows.to_vec())?;
    let seconds = started.elapsed().as_secs_f64();
    let kept = done.iter().filter(|row| matches!(row.outcome, RowOutcome::Kept { .. })).count();
    ensure!(kept == rows.len(), "{} of {} rows were quarantined", rows.len() - kept, rows.len());
    let after = engine.written();
    let captions = after.captions - before.captions;
    ensure!(captions == kept as u64 * u64::from(capfilt.candidates), "{captions} captions for {kept} images");
    let tokens = (after.tokens - before.tokens) as f64 / captions as f64;
    Ok(serde_json::json!({ "images": kept, "seconds": seconds, "tokens_per_caption": tokens }))
}
