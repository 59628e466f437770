//! quern's side of `make bench-loader`: for every line on standard input it has stage 1's batches of one epoch prepared, read,
//! decoded, cropped and normalised, and answers with a line of JSON. `benches/loader/run.py` drives it in alternation with
//! the peer.

use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, ensure};
use clap::Parser;
use quern_recipes::Recipe;
use quern_trainer::loader::{Caption, Captions, Preparation};
use quern_trainer::vision::ImageTransform;

#[derive(Parser)]
struct Arguments {
    /// A recipe with `stage1` whose captions are written.
    recipe: PathBuf,
    /// Rows of the data set: an epoch.
    #[arg(long)]
    rows: u64,
    /// Threads that decode.
    #[arg(long)]
    threads: usize,
}

/// The captions as they are, as the peer has them.
struct AsTheyAre;

impl Captions for AsTheyAre {
    type Encoded = Vec<String>;

    fn encode(&self, captions: &[Caption]) -> Vec<String> {
        captions.iter().map(|caption| caption.text.to_owned()).collect()
    }
}

fn main() -> anyhow::Result<()> {
    quern_models::memory::keep_freed_memory();
    let Arguments { recipe, rows, threads } = Arguments::parse();
    let recipe = Recipe::read(&recipe)?;
    let mut out = std::io::stdout();
    writeln!(out, "{}", serde_json::json!({ "ready": true }))?;
    for (epoch, line) in (0..).zip(std::io::stdin().lock().lines()) {
        line?;
        writeln!(out, "{}", round(&recipe, rows, threads, epoch)?)?;
        out.flush()?;
    }
    Ok(())
}

/// The batches of an epoch; what they took.
fn round(recipe: &Recipe, rows: u64, threads: usize, epoch: u64) -> anyhow::Result<serde_json::Value> {
    let stage1 = recipe.stage1.as_ref().context("the recipe has no `stage1`")?;
    let images = ImageTransform::load(Path::new(&stage1.image_encoder), stage1.image_size, stage1.augment)?;
    let batch = stage1.batch;
    let steps = rows.div_ceil(u64::from(batch));
    let started = Instant::now();
    let preparation =
        Preparation { recipe: recipe.clone(), texts: AsTheyAre, images, batch, rank: 0, ranks: 1, decoders: threads };
    let mut images = 0;
    for prepared in preparation.start(epoch * steps..(epoch + 1) * steps)? {
        let prepared = prepared?;
        let pixels = prepared.pixels.context("every image is fresh")?;
        ensure!(pixels.size()[0] as usize == prepared.texts.len(), "an image was left out");
        images += prepared.texts.len();
    }
    Ok(serde_json::json!({ "images": images, "seconds": started.elapsed().as_secs_f64() }))
}
