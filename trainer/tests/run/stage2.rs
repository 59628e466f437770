//! Stage 2 after a stage 1.

use std::path::Path;

use quern_collective::Solo;
use quern_corpus::store;
use quern_models::export::LavisFile;
use quern_models::qformer::{QFormer, QFormerConfig};
use quern_recipes::{Augment, Optimiser, Precision, Recipe, Stage2};
use quern_trainer::checkpoint::{self, Identity, Trained};
use quern_trainer::export::{Form, Request, export};
use quern_trainer::optimiser::AdamWOptions;
use quern_trainer::stage1::Stage1;
use quern_trainer::stage2::{Beginning, run};
use quern_trainer::training::{Outcome, Trainee};
use quern_trainer::{TrainError, stage1};
use serde_json::json;
use tch::Device;

use crate::milled::{Milled, Watch, assert_close, on_ranks, zoo};

/// The recipe of `milled` with a stage 2 towards a model of the zoo.
pub fn with_stage2(milled: &Milled, language_model: &str) -> Recipe {
    let mut recipe = milled.recipe.clone();
    let stage2 = json!({
        "language_model": zoo().join(language_model),
        "batch": 20,
        "steps": 8,
        "max_text_length": 24,
        "checkpoint_every": 5,
        "optimiser": { "peak_lr": 1e-3, "warmup_steps": 2 },
        "augment": { "min_scale": 0.7, "flip": false },
    });
    recipe.stage2 = Some(serde_json::from_value::<Stage2>(stage2).expect("a valid section"));
    recipe
}

/// Stage 2 of `recipe` on `ranks` ranks.
pub fn train(recipe: &Recipe, ranks: usize, beginning: Beginning) -> Watch {
    on_ranks(ranks, &|collective, watch| run(recipe, collective, beginning, Device::Cpu, watch))
}

/// LAVIS' file of a checkpoint, in `folder`.
pub fn to_lavis(recipe: &Recipe, checkpoint: &str, folder: &Path) -> String {
    let out = folder.join(checkpoint.replace('/', "-"));
    let form = Form::Lavis(LavisFile::Pickle);
    let request = Request { checkpoint, recipe, out: &out, form, max_shard_bytes: u64::MAX, metrics: None };
    export(request).expect("an export");
    out.join("model.pth").display().to_string()
}

fn refusal(recipe: &Recipe, beginning: Beginning) -> String {
    let refused: Result<Outcome, TrainError> = run(recipe, &Solo::new(), beginning, Device::Cpu, &mut Watch::default());
    refused.expect_err("refused").to_string()
}

/// A corpus with a stage-1 checkpoint of three steps.
pub fn after_stage1() -> (Milled, String) {
    let mut milled = Milled::new(None);
    let section = milled.recipe.stage1.as_mut().expect("stage 1");
    section.steps = 3;
    section.optimiser = Optimiser { warmup_steps: 1, ..section.optimiser };
    let trained = on_ranks(1, &|collective, watch| stage1::run(&milled.recipe, collective, None, Device::Cpu, watch));
    (milled, trained.checkpoint.expect("a checkpoint"))
}

#[test]
fn real_files_train_alike_on_one_and_two_ranks_and_from_a_checkpoint_on() {
    let (milled, stage1) = after_stage1();
    for language_model in ["opt", "t5"] {
        let recipe = with_stage2(&milled, language_model);
        let alone = train(&recipe, 1, Beginning::Stage1(&stage1));
        assert_eq!(alone.losses.len(), 8, "{language_model}");
        let (earlier, later) = alone.losses.split_at(4);
        assert!(later.iter().sum::<f64>() < earlier.iter().sum(), "{language_model}: {:?}", alone.losses);
        assert_eq!(alone.checkpoint.as_deref(), Some("stage2/step-000008"));
        let both = train(&recipe, 2, Beginning::Stage1(&stage1));
        assert_close(&alone.losses, &both.losses);
        let resumed = train(&recipe, 1, Beginning::Checkpoint("stage2/step-000005"));
        assert_close(&alone.losses[5..], &resumed.losses);
    }
}

#[test]
fn stage_2_begins_with_what_lavis_trained() {
    let (milled, stage1) = after_stage1();
    let recipe = with_stage2(&milled, "opt");
    let exports = tempfile::tempdir().expect("a folder");
    let lavis = to_lavis(&recipe, &stage1, exports.path());
    let own = train(&recipe, 1, Beginning::Stage1(&stage1));
    assert_eq!(train(&recipe, 1, Beginning::Stage1(&lavis)).losses, own.losses);
    let nowhere = refusal(&recipe, Beginning::Stage1("stage1/step-000099"));
    assert!(nowhere.contains("stage1/step-000099") && nowhere.contains("nor below"), "{nowhere}");
}

#[test]
fn half_precision_and_images_of_constant_size_go_through() {
    let (milled, stage1) = after_stage1();
    let mut recipe = with_stage2(&milled, "opt");
    let stage2 = recipe.stage2.as_mut().expect("stage 2");
    stage2.precision.language_model = Precision::BFloat16;
    stage2.augment = Augment { min_scale: 1.0, flip: false };
    let coarse = train(&recipe, 1, Beginning::Stage1(&stage1)).losses;
    recipe.stage2.as_mut().expect("stage 2").precision.language_model = Precision::Float;
    let fine = train(&recipe, 1, Beginning::Stage1(&stage1)).losses;
    assert_ne!(coarse, fine);
    assert!(((coarse[0] - fine[0]) / fine[0]).abs() < 2e-2, "{} and {}", coarse[0], fine[0]);
}

#[test]
fn what_does_not_fit_is_one_sentence() {
    let (milled, stage1) = after_stage1();
    let recipe = with_stage2(&milled, "opt");
    train(&recipe, 1, Beginning::Stage1(&stage1));

    let towards_t5 = refusal(&with_stage2(&milled, "t5"), Beginning::Checkpoint("stage2/step-000008"));
    assert!(towards_t5.contains("stage2/step-000008") && towards_t5.contains("trained towards"), "{towards_t5}");
    let of_stage2 = refusal(&recipe, Beginning::Stage1("stage2/step-000008"));
    assert!(of_stage2.contains("no text side") && of_stage2.contains("stage 1"), "{of_stage2}");
    let of_stage1 = refusal(&recipe, Beginning::Checkpoint(&stage1));
    assert!(of_stage1.contains("no projection") && of_stage1.contains("stage 2"), "{of_stage1}");
}

#[test]
fn a_stage_1_of_another_encoder_is_refused_with_both_widths() {
    let (milled, stage1) = after_stage1();
    let recipe = with_stage2(&milled, "opt");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let output = store::open(&recipe.output).expect("a local folder");
    let config = runtime.block_on(checkpoint::open(&output, &stage1)).expect("a checkpoint").state.qformer;
    let encoder_width = config.encoder_width;
    let narrower = QFormerConfig { encoder_width: encoder_width - 16, ..config };
    let stage = Stage1 {
        model: QFormer::init(&narrower, 1, Device::Cpu).expect("valid sizes"),
        semantics: quern_recipes::Semantics::Exact.into(),
        seed: 1,
        decoder_start: 1,
    };
    let trained = Trained::QFormer { config: narrower, decoder_start: 1 };
    let identity = Identity { seed: 1, batch: 2, recipe_hash: "another".into(), trained };
    let options = AdamWOptions::from(&Optimiser::default());
    let written = runtime.block_on(checkpoint::write(&output, &Trainee::new(stage, options), &identity));
    let error = refusal(&recipe, Beginning::Stage1(&written.expect("written").0));
    let [found, given] = [encoder_width - 16, encoder_width].map(|width| width.to_string());
    assert!(error.contains("stage1/step-000000") && error.contains(&found) && error.contains(&given), "{error}");
}
