//! `stage1::run` and retrieval as the worker calls them: real files in, a checkpoint out.

use std::collections::BTreeMap;
use std::path::Path;
use std::thread;
use std::time::Duration;

use futures::TryStreamExt;
use quern_capfilt::{Manifest, PartEntry, Provenance, encode_part, pass_through};
use quern_collective::{Collective, local_world};
use quern_corpus::plan::plan_dataset;
use quern_corpus::reader::{RawRow, read_rows};
use quern_corpus::store;
use quern_corpus::toy::{SynthOptions, seeds, synth};
use quern_recipes::{Augment, Recipe};
use quern_trainer::eval::{paired_gain, retrieval};
use quern_trainer::stage1::{Control, Flow, Outcome, StepReport, run};
use quern_trainer::{Refused, TrainError};
use serde_json::json;
use tch::Device;
use tempfile::TempDir;

const ROWS: u64 = 90;
const SHARD_ROWS: u64 = 40;

/// A corpus of right captions, passed through into an output as a worker would.
struct Milled {
    folder: TempDir,
    recipe: Recipe,
}

impl Milled {
    /// `break_image`: this row's embedded image is made undecodable.
    fn new(break_image: Option<usize>) -> Self {
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

    fn corpus(&self) -> &str {
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
        let rows = rows.into_iter().map(|row| pass_through(row, break_image.is_some())).collect();
        let part = encode_part(&shard, rows, &provenance).expect("a part");
        let (name, bytes) = part.data.clone().expect("rows with captions");
        output.put(&name, bytes).await.expect("written");
        entries.push(PartEntry::new(&shard, &part));
    }
    let manifest = Manifest::new(recipe, &provenance, BTreeMap::new(), entries, Vec::new());
    manifest.write(&output).await.expect("written");
}

fn recipe(folder: &Path) -> Recipe {
    let zoo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../zoo");
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

#[derive(Default)]
struct Watch {
    losses: Vec<f64>,
    checkpoint: Option<String>,
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

fn train(recipe: &Recipe, ranks: usize) -> Watch {
    let world = local_world(ranks, Duration::from_secs(60)).expect("a world on loopback");
    let mut watches: Vec<Watch> = thread::scope(|scope| {
        let running: Vec<_> = (world.into_iter())
            .map(|collective| scope.spawn(move || rank(recipe, &collective).expect("no error").0))
            .collect();
        running.into_iter().map(|rank| rank.join().expect("no panic")).collect()
    });
    watches.remove(0)
}

fn rank(recipe: &Recipe, collective: &dyn Collective) -> Result<(Watch, Outcome), TrainError> {
    let mut watch = Watch::default();
    let outcome = run(recipe, collective, None, Device::Cpu, &mut watch)?;
    Ok((watch, outcome))
}

fn assert_close(expected: &[f64], actual: &[f64]) {
    assert_eq!(expected.len(), actual.len());
    for (step, (expected, actual)) in expected.iter().zip(actual).enumerate() {
        assert!(((expected - actual) / expected).abs() < 1e-4, "step {step}: {actual}, not {expected}");
    }
}

#[test]
fn real_files_train_alike_on_one_and_two_ranks() {
    let milled = Milled::new(None);
    let alone = train(&milled.recipe, 1);
    assert_eq!(alone.losses.len(), 12);
    assert_close(&alone.losses, &train(&milled.recipe, 2).losses);
}

#[test]
fn remembered_features_are_those_that_would_be_computed() {
    let mut milled = Milled::new(None);
    let stage1 = milled.recipe.stage1.as_mut().expect("stage 1");
    stage1.augment = Augment { min_scale: 1.0, flip: false };
    stage1.steps = 6; // 120 rows of a corpus of 90: the second epoch begins in the fifth step
    let remembered = train(&milled.recipe, 1);
    // Two ranks meet other rows of the second epoch than they encoded in the first, so little is remembered.
    assert_close(&remembered.losses, &train(&milled.recipe, 2).losses);
}

#[test]
fn an_undecodable_image_leaves_its_lane_empty() {
    let milled = Milled::new(Some(5));
    let alone = train(&milled.recipe, 1);
    assert_close(&alone.losses, &train(&milled.recipe, 2).losses);
}

#[test]
fn training_improves_retrieval_of_what_was_trained_on() {
    let mut milled = Milled::new(None);
    let stage1 = milled.recipe.stage1.as_mut().expect("stage 1");
    stage1.augment = Augment { min_scale: 1.0, flip: false };
    stage1.steps = 200;
    stage1.qformer.hidden_dropout_prob = 0.0;
    stage1.qformer.attention_probs_dropout_prob = 0.0;
    let trained = train(&milled.recipe, 1);
    let evaluate = |checkpoint: Option<&str>| {
        retrieval(checkpoint, &milled.recipe, milled.corpus(), None, Device::Cpu).expect("a report")
    };
    let (before, after) = (evaluate(None), evaluate(trained.checkpoint.as_deref()));
    assert_eq!((before.n, before.step, after.step), (ROWS as usize, None, Some(200)));
    let gain = paired_gain(&before.image_to_text, &after.image_to_text, 10);
    assert!(
        gain.value > 2.0 * gain.standard_error,
        "R@10 {:?} to {:?}",
        before.image_to_text.r10,
        after.image_to_text.r10
    );
    let absolute = milled.folder.path().join("out").join(trained.checkpoint.expect("a checkpoint"));
    assert_eq!(evaluate(absolute.to_str()), after, "a checkpoint can also be named from anywhere");
}

#[test]
fn an_output_without_a_manifest_says_what_is_missing() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let recipe = recipe(folder.path());
    let world = local_world(1, Duration::from_secs(60)).expect("a world of one");
    let error = rank(&recipe, &world[0]).err().expect("refused").to_string();
    assert!(error.contains("manifest.json") && error.contains("CapFilt"), "{error}");
}
