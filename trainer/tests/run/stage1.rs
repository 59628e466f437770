//! Stage 1, and retrieval with what it makes.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use quern_collective::local_world;
use quern_recipes::{Augment, Recipe};
use quern_trainer::eval::paired_gain;
use quern_trainer::eval::retrieval::{RetrievalOptions, RetrievalReport, retrieval};
use quern_trainer::stage1::run;
use tch::Device;

use crate::milled::{Milled, ROWS, Watch, assert_close, on_ranks, recipe};

fn train(recipe: &Recipe, ranks: usize) -> Watch {
    on_ranks(ranks, &|collective, watch| run(recipe, collective, None, Device::Cpu, watch))
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
        let options = RetrievalOptions { limit: None, rerank: 20 };
        retrieval(checkpoint, &milled.recipe, milled.corpus(), options, Device::Cpu, &AtomicBool::new(false))
            .expect("a report")
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
    let elsewhere = RetrievalReport { checkpoint: after.checkpoint.clone(), ..evaluate(absolute.to_str()) };
    assert_eq!(elsewhere, after, "a checkpoint can also be named from anywhere");
}

#[test]
fn an_output_without_a_manifest_says_what_is_missing() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let recipe = recipe(folder.path());
    let world = local_world(1, Duration::from_secs(60)).expect("a world of one");
    let error = run(&recipe, &world[0], None, Device::Cpu, &mut Watch::default()).expect_err("refused").to_string();
    assert!(error.contains("manifest.json") && error.contains("CapFilt"), "{error}");
}
