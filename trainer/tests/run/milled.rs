//! A corpus of the toy world with its captions, and what runs over it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use futures::TryStreamExt;
use quern_capfilt::{Manifest, PartEntry, Provenance, encode_part, pass_through};
use quern_collective::{Collective, local_world};
use quern_corpus::plan::plan_dataset;
use quern_corpus::reader::{RawRow, read_rows};
use quern_corpus::store;
use quern_corpus::toy::{SynthOptions, seeds, synth};
use quern_recipes::Recipe;
use quern_trainer::training::{Control, Flow, Outcome, StepReport};
use quern_trainer::{Refused, TrainError};
use serde_json::json;
use tempfile::TempDir;

/// Rows of the corpus.
pub const ROWS: u64 = 90;
const SHARD_ROWS: u64 = 40;

/// A corpus of right captions, passed through into an output as a worker would.
pub struct Milled {
    /// Where everything is.
    pub folder: TempDir,
    /// The run's.
    pub recipe: Recipe,
}

impl Milled {
    /// `break_image`: this row's embedded image is made undecodable.
    pub fn new(break_image: Option<usize>) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let recipe = recipe(folder.path());
        runtime.block_on(async {
            let options = SynthOptions {
                rows: ROWS,
                junk: 0.0,
                seed: seeds::HELD_OUT,
                out: recipe.datasets[0].path.clone(),
                image_side_px: Some(64),
                distinct_captions: true,
                ..SynthOptions::default()
            };
            synth(options, |_| {}).await.expect("a corpus");
            mill(&recipe, break_image).await;
        });
        Milled { folder, recipe }
    }

    /// The corpus' folder.
    pub fn corpus(&self) -> &str {
        &self.recipe.datasets[0].path
    }
}

async fn mill(recipe: &Recipe, break_image: Option<usize>) {
    let output = store::open(&recipe.output).expect("a local folder");
    let provenance = Provenance { run_id: "test".into(), recipe_hash: recipe.hash(), ..Provenance::default() };
    let plan = plan_dataset(&recipe.datasets[0], SHARD_ROWS).await.expect("a plan");
    let mut entries = Vec::new();
    for shard in plan.shards {
        let rows = read_rows(&recipe.datasets[0], &shard.file, shard.row_start, shard.rows).await.expect("rows");
        let mut rows: Vec<RawRow> = rows.try_collect().await.expect("rows");
        if let Some(index) = break_image {
            rows[index].image = Some(b"no image at all".as_slice().into());
        }
        let rows = rows
            .into_iter()
            .map(|row| {
                let image = row.image.clone().filter(|_| break_image.is_some());
                pass_through(row, Ok(image))
            })
            .collect();
        let part = encode_part(&shard, rows, &provenance).expect("a part");
        let (name, bytes) = part.data.clone().expect("rows with captions");
        output.put(&name, bytes).await.expect("written");
        entries.push(PartEntry::new(&shard, &part));
    }
    let manifest = Manifest::new(recipe, &provenance, BTreeMap::new(), entries, Vec::new());
    manifest.write(&output).await.expect("written");
}

/// The folder of a model of the zoo.
pub fn zoo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../zoo")
}

/// Twelve steps of stage 1 on the corpus in `folder`.
pub fn recipe(folder: &Path) -> Recipe {
    let zoo = zoo();
    let recipe = json!({
        "name": "test",
        "seed": 3,
        "output": folder.join("out"),
        "datasets": [{ "name": "toy", "path": folder.join("corpus"), "capfilt": false }],
        "stage1": {
            "image_encoder": zoo.join("clip"),
            "tokenizer": zoo.join("blip"),
            "qformer": {
                "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128,
                "max_position_embeddings": 48, "num_query_token": 4, "embed_dim": 32,
            },
            "batch": 20,
            "steps": 12,
            "max_text_length": 40,
            "optimiser": { "peak_lr": 1e-3, "warmup_steps": 4 },
            "augment": { "min_scale": 0.7, "flip": true },
        },
    });
    Recipe::from_json(&recipe.to_string()).expect("a valid recipe")
}

/// Every step's loss, and the last checkpoint.
#[derive(Default)]
pub struct Watch {
    /// Summed where there are more than one.
    pub losses: Vec<f64>,
    /// Its path below the output.
    pub checkpoint: Option<String>,
}

impl Control for Watch {
    fn steps(&mut self, report: &StepReport) -> Result<Flow, Refused> {
        self.losses.push(report.losses.total());
        Ok(Flow::Continue)
    }

    fn checkpoint(&mut self, _step: u64, path: &str, _digest: &str, _last: bool) -> Result<(), Refused> {
        self.checkpoint = Some(path.to_string());
        Ok(())
    }
}

/// What one rank does.
pub type RankRun<'a> = &'a (dyn Fn(&dyn Collective, &mut Watch) -> Result<Outcome, TrainError> + Sync);

/// What rank 0 of `ranks` saw.
pub fn on_ranks(ranks: usize, run: RankRun) -> Watch {
    let world = local_world(ranks, Duration::from_secs(60)).expect("a world on loopback");
    let mut watches: Vec<Watch> = thread::scope(|scope| {
        let running: Vec<_> = (world.into_iter())
            .map(|collective| {
                scope.spawn(move || {
                    let mut watch = Watch::default();
                    run(&collective, &mut watch).expect("no error");
                    watch
                })
            })
            .collect();
        running.into_iter().map(|rank| rank.join().expect("no panic")).collect()
    });
    watches.remove(0)
}

/// The same losses, to a ten-thousandth.
pub fn assert_close(expected: &[f64], actual: &[f64]) {
    assert_eq!(expected.len(), actual.len());
    for (step, (expected, actual)) in expected.iter().zip(actual).enumerate() {
        assert!(((expected - actual) / expected).abs() < 1e-4, "step {step}: {actual}, not {expected}");
    }
}
