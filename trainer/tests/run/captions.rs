//! What the stages' checkpoints write, and how it is measured.

use std::sync::atomic::AtomicBool;

use quern_corpus::images::{RgbImage, decode};
use quern_corpus::toy::seeds;
use quern_models::generate::{GenerationOptions, Strategy};
use quern_recipes::{ImageLimits, Recipe};
use quern_trainer::captioner::{Captioner, Subject, Weights};
use quern_trainer::eval::captions::{CaptionOptions, CaptionReport, captions};
use quern_trainer::eval::retrieval::{RetrievalOptions, retrieval};
use quern_trainer::stage2::Beginning;
use tch::Device;

use crate::milled::Milled;
use crate::stage2::{after_stage1, to_lavis, train, with_stage2};

const SAMPLE: Strategy = Strategy::Nucleus { top_p: 0.95, top_k: None, temperature: 1.5 };

fn options(strategy: Strategy) -> GenerationOptions {
    GenerationOptions { strategy, max_length: 10, ..GenerationOptions::default() }
}

fn evaluate(milled: &Milled, recipe: &Recipe, weights: Weights) -> CaptionReport {
    let generation = options(Strategy::Greedy);
    let options = CaptionOptions { limit: Some(12), prompt: None, generation, seed: 1 };
    captions(weights, recipe, milled.corpus(), &options, Device::Cpu, &AtomicBool::new(false)).expect("a report")
}

#[test]
fn either_stage_writes_and_is_measured() {
    let (milled, stage1) = after_stage1();
    for language_model in ["opt", "t5"] {
        let recipe = with_stage2(&milled, language_model);
        let stage2 = train(&recipe, 1, Beginning::Stage1(&stage1)).checkpoint.expect("a checkpoint");
        let [written, before, stage1] =
            [Weights::Trained(&stage2), Weights::BeforeStage2(&stage1), Weights::Trained(&stage1)]
                .map(|weights| evaluate(&milled, &recipe, weights));
        assert_eq!((written.n, written.step, before.step, stage1.step), (12, Some(8), None, Some(3)));
        let mean = written.captions.iter().map(|one| one.cider).sum::<f64>() / 12.0;
        assert!((written.cider.value - mean).abs() < 1e-12);
        for one in &written.captions {
            assert_eq!((one.references.len(), one.key.is_some()), (1, true), "{one:?}");
        }
        let texts =
            |report: &CaptionReport| -> Vec<String> { report.captions.iter().map(|one| one.caption.clone()).collect() };
        assert!(texts(&written).iter().any(|text| !text.is_empty()), "{language_model} says nothing");
        assert_ne!(texts(&written), texts(&before), "{language_model} learnt nothing");
        assert_ne!(texts(&written), texts(&stage1), "both stages speak through the same decoder");
    }
}

#[test]
fn a_checkpoint_that_went_to_lavis_and_back_says_and_finds_the_same() {
    let (milled, stage1) = after_stage1();
    let recipe = with_stage2(&milled, "opt");
    let stage2 = train(&recipe, 1, Beginning::Stage1(&stage1)).checkpoint.expect("a checkpoint");
    let exports = tempfile::tempdir().expect("a folder");
    let (lavis1, lavis2) = (to_lavis(&recipe, &stage1, exports.path()), to_lavis(&recipe, &stage2, exports.path()));
    for (checkpoint, foreign) in [(&stage1, &lavis1), (&stage2, &lavis2)] {
        let own = evaluate(&milled, &recipe, Weights::Trained(checkpoint));
        let back = evaluate(&milled, &recipe, Weights::Trained(foreign));
        assert_eq!(own.captions, back.captions);
        assert_eq!((back.checkpoint.as_deref(), back.step), (Some(foreign.as_str()), None));
    }
    let options = RetrievalOptions { limit: Some(12), rerank: 4 };
    let find = |checkpoint: &str| {
        retrieval(Some(checkpoint), &recipe, milled.corpus(), options, Device::Cpu, &AtomicBool::new(false))
    };
    let (own, back) = (find(&stage1).expect("a report"), find(&lavis1).expect("a report"));
    assert_eq!((own.image_to_text, own.reranked), (back.image_to_text, back.reranked));
}

/// The first images of the corpus.
fn images(milled: &Milled, count: usize) -> Vec<RgbImage> {
    use futures::TryStreamExt;
    use quern_corpus::annotated::{AnnotatedColumns, read_annotated};
    let columns = AnnotatedColumns { image: "jpg".into(), texts: Vec::new(), key: "key".into() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let rows: Vec<_> = runtime
        .block_on(async { read_annotated(milled.corpus(), &columns).await?.try_collect().await })
        .expect("annotated images");
    let bytes = rows.into_iter().take(count).map(|row| row.image.expect("an image"));
    bytes.map(|bytes| decode(&bytes, &ImageLimits::default()).expect("a picture")).collect()
}

#[test]
fn a_text_does_not_depend_on_the_other_images_and_prompts_of_its_batch() {
    let (milled, stage1) = after_stage1();
    let images = images(&milled, 4);
    let prompts = [None, Some("question: what colour is it? answer:"), Some("a"), Some("")];
    for language_model in ["opt", "t5"] {
        let recipe = with_stage2(&milled, language_model);
        let stage2 = train(&recipe, 1, Beginning::Stage1(&stage1)).checkpoint.expect("a checkpoint");
        let captioner = Captioner::load(&recipe, Weights::Trained(&stage2), Device::Cpu).expect("a captioner");
        let subjects: Vec<Subject> = (images.iter().zip(prompts).zip(1..))
            .map(|((image, prompt), row)| Subject { image, prompt, key: seeds::DEMO + row })
            .collect();
        for strategy in [Strategy::Greedy, GenerationOptions::default().strategy, SAMPLE] {
            let options = options(strategy);
            let together = captioner.caption(&subjects, &options, 5).expect("texts");
            let alone: Vec<String> = subjects
                .chunks(1)
                .flat_map(|subject| captioner.caption(subject, &options, 5).expect("a text"))
                .collect();
            assert_eq!(together, alone, "{language_model}, {strategy:?}");
            let other_seed = captioner.caption(&subjects, &options, 6).expect("texts");
            assert_eq!(together != other_seed, strategy == SAMPLE, "{language_model}, {strategy:?}");
        }
    }
}

#[test]
fn prompts_that_the_model_can_not_take_are_refused() {
    let (milled, stage1) = after_stage1();
    let recipe = with_stage2(&milled, "opt");
    let options = options(Strategy::Greedy);
    let load = |weights| Captioner::load(&recipe, weights, Device::Cpu).expect("a captioner");
    let only_captions = load(Weights::Trained(&stage1)).check_prompt(Some("what?"), &options).unwrap_err().to_string();
    assert!(only_captions.contains("stage 1's") && only_captions.contains("what?"), "{only_captions}");
    let opt = load(Weights::BeforeStage2(&stage1));
    let endless = "colour ".repeat(200);
    let error = opt.check_prompt(Some(&endless), &options).unwrap_err().to_string();
    assert!(error.contains("128 positions") && error.contains("shorten the prompt"), "{error}");
    opt.check_prompt(Some("what?"), &options).expect("there is room");
}
