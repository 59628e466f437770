//! Stage 2, towards the zoo's OPT and T5.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use quern_collective::{Collective, Solo, local_world};
use quern_corpus::{Keyed, Purpose};
use quern_models::language::{self, LanguageModel};
use quern_models::opt::{Opt, OptConfig};
use quern_models::qformer::{Bridge, QFormer, QFormerConfig};
use quern_models::t5::T5Gelu;
use quern_models::weights::{Scope, TensorSource, Weights, WeightsError, read_json};
use quern_recipes::Optimiser;
use quern_trainer::TrainError;
use quern_trainer::checkpoint::{Identity, LanguageIdentity, Saved, Trained};
use quern_trainer::language_texts::LanguageTexts;
use quern_trainer::loader::{Caption, Captions};
use quern_trainer::optimiser::AdamWOptions;
use quern_trainer::stage2::Stage2;
use quern_trainer::step::LanguageMean;
use quern_trainer::step::bridge::{BridgeBatch, BridgeOptions, bridge_step};
use quern_trainer::training::{Plan, Trainee};
use tch::{Device, Kind, Tensor};
use tokio::runtime::Runtime;

use crate::world::{BATCH, Course, SEED, STEPS, folder, resumes_exactly, world, worlds_agree};

const WIDTH: i64 = 12;

/// What captions are made of.
const WORDS: [&str; 9] = ["a", "red", "square", "above", "green", "circle", "small", "blue", "triangle"];

fn zoo(model: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../zoo").join(model)
}

fn loaded(model: &str) -> Box<dyn LanguageModel> {
    language::load(&zoo(model), Device::Cpu, Kind::Float, T5Gelu::Config).expect("a model of the zoo")
}

/// Captions for images, in the words of a model of the zoo.
struct Captioning {
    model: &'static str,
    recompute: bool,
    texts: LanguageTexts,
    identity: LanguageIdentity,
}

impl Captioning {
    fn towards(model: &'static str, recompute: bool) -> Self {
        let language_model = loaded(model);
        let texts = LanguageTexts::load(&zoo(model), &*language_model, "a picture of", 24).expect("its tokenizer");
        let identity = LanguageIdentity {
            name: model.into(),
            projection: language_model.family().into(),
            width: language_model.width(),
            vocabulary: language_model.vocabulary(),
        };
        Captioning { model, recompute, texts, identity }
    }

    fn config(&self) -> QFormerConfig {
        QFormerConfig {
            vocab_size: 30,
            hidden_size: 32,
            num_hidden_layers: 2,
            num_attention_heads: 4,
            intermediate_size: 64,
            max_position_embeddings: 8,
            layer_norm_eps: 1e-12,
            initializer_range: 0.02,
            hidden_dropout_prob: 0.1,
            attention_probs_dropout_prob: 0.1,
            cross_attention_freq: 2,
            encoder_width: WIDTH,
            num_query_token: 4,
            embed_dim: 16,
            pad_token_id: 0,
            ln_vision_eps: QFormerConfig::LN_VISION_EPS,
        }
    }

    fn bridge(&self) -> Bridge {
        let stage1 = QFormer::init(&self.config(), SEED, Device::Cpu).expect("a valid config");
        Bridge::from_stage1(&stage1, self.identity.projection, self.identity.width, SEED).expect("the same sizes")
    }

    fn stage(&self, bridge: Bridge) -> Stage2 {
        let language_model = loaded(self.model);
        Stage2 { bridge, language_model, mean: LanguageMean::Tokens, seed: SEED, recompute: self.recompute }
    }
}

impl Course for Captioning {
    type Stage = Stage2;

    fn begin(&self) -> Stage2 {
        self.stage(self.bridge())
    }

    fn taken_up(&self, saved: &Saved, runtime: &Runtime) -> Result<Stage2, TrainError> {
        Ok(self.stage(runtime.block_on(saved.bridge(Device::Cpu))?))
    }

    fn plan(&self) -> Plan {
        let trained = Trained::Bridge { config: self.config(), language_model: self.identity.clone() };
        Plan {
            steps: STEPS,
            checkpoint_every: 10,
            // At 1e-2 the run is chaotic: rounding grows a thousandfold in 20 steps.
            optimiser: Optimiser { peak_lr: 3e-3, warmup_steps: 5, ..Optimiser::default() },
            identity: Identity { seed: SEED, batch: BATCH, recipe_hash: "of a test".into(), trained },
        }
    }

    fn batch(&self, rows: &[u64], epochs: &[u64]) -> BridgeBatch {
        let texts: Vec<String> = rows.iter().map(|&row| caption(row)).collect();
        let captions: Vec<Caption> = (texts.iter().zip(rows).zip(epochs))
            .map(|((text, &row), &epoch)| Caption { text, split: Keyed::new(SEED, row, Purpose::PrefixSplit, epoch) })
            .collect();
        let features = Tensor::stack(&rows.iter().map(|&row| image(row)).collect::<Vec<_>>(), 0);
        BridgeBatch { features, texts: self.texts.encode(&captions), rows: rows.to_vec() }
    }
}

fn image(row: u64) -> Tensor {
    let values: Vec<f32> = (0..5 * WIDTH as u64).map(|index| ((row * 37 + index * 11) as f32 * 0.73).sin()).collect();
    Tensor::from_slice(&values).view([5, WIDTH])
}

/// Two to eight words.
fn caption(row: u64) -> String {
    let words = 2 + row % 7;
    (0..words).map(|word| WORDS[((row * 5 + word * 2) % 9) as usize]).collect::<Vec<_>>().join(" ")
}

#[test]
fn losses_towards_an_opt_do_not_depend_on_the_number_of_ranks() {
    worlds_agree(&Captioning::towards("opt", false), "OPT");
}

#[test]
fn nor_do_they_towards_a_t5() {
    worlds_agree(&Captioning::towards("t5", false), "T5");
}

#[test]
fn a_resumed_run_repeats_the_uninterrupted_one_bit_by_bit() {
    resumes_exactly(&Captioning::towards("opt", false), "stage2");
}

#[test]
fn computing_layers_again_changes_nothing() {
    for model in ["opt", "t5"] {
        let losses = |recompute| {
            world(&Captioning::towards(model, recompute), 1, &folder(), None, Some(2))[0].watch.losses.clone()
        };
        assert_eq!(losses(true), losses(false), "{model}");
    }
}

#[test]
fn the_mean_is_over_the_batchs_tokens_or_of_the_ranks_means() {
    let course = Captioning::towards("opt", false);
    let batches = [course.batch(&[0, 1, 2], &[0; 3]), course.batch(&[5, 6], &[0; 2])];
    let targets: Vec<f64> =
        batches.iter().map(|batch| batch.texts.labels.ge(0).sum(Kind::Int64).double_value(&[])).collect();
    assert_ne!(targets[0], targets[1], "or the two means would be one");
    for mean in [LanguageMean::Tokens, LanguageMean::Ranks] {
        let options = BridgeOptions { mean, seed: SEED, step: 3, recompute: false, probes: false };
        let members = local_world(2, Duration::from_secs(60)).expect("a world on loopback");
        let outputs: Vec<_> = thread::scope(|scope| {
            let running: Vec<_> = (members.into_iter())
                .map(|collective| {
                    let (batch, stage) = (&batches[collective.rank()], course.begin());
                    let batch = BridgeBatch {
                        features: batch.features.shallow_clone(),
                        texts: language::Texts {
                            ids: batch.texts.ids.shallow_clone(),
                            mask: batch.texts.mask.shallow_clone(),
                            labels: batch.texts.labels.shallow_clone(),
                        },
                        rows: batch.rows.clone(),
                    };
                    scope.spawn(move || {
                        bridge_step(&stage.bridge, &*stage.language_model, &batch, &collective, &options)
                            .expect("no peer is lost")
                    })
                })
                .collect();
            running.into_iter().map(|rank| rank.join().expect("no panic")).collect()
        });
        let weights = match mean {
            LanguageMean::Tokens => [targets[0], targets[1]].map(|own| own / (targets[0] + targets[1])),
            LanguageMean::Ranks => [0.5, 0.5],
        };
        let expected = weights[0] * outputs[0].local + weights[1] * outputs[1].local;
        for output in &outputs {
            assert!((output.loss - expected).abs() < 1e-5 * expected, "{mean:?}: {} is not {expected}", output.loss);
        }
    }
}

/// Remembers every tensor that a model takes.
struct Watched<'a> {
    source: &'a Weights,
    taken: RefCell<Vec<(String, Tensor)>>,
}

impl TensorSource for Watched<'_> {
    fn tensor(&self, name: &str, shape: &[i64]) -> Result<Tensor, WeightsError> {
        let tensor = self.source.tensor(name, shape)?;
        self.taken.borrow_mut().push((name.to_string(), tensor.shallow_clone()));
        Ok(tensor)
    }

    fn has(&self, name: &str) -> bool {
        self.source.has(name)
    }

    fn tied(&self, name: &str, tied_to: &str, value: &Tensor) -> Result<(), WeightsError> {
        self.source.tied(name, tied_to, value)
    }
}

#[test]
fn frozen_weights_hold_no_gradient_no_optimiser_state_and_do_not_change() {
    let weights = Weights::open(&zoo("opt"), Device::Cpu, Kind::Float).expect("the zoo's OPT");
    let watched = Watched { source: &weights, taken: RefCell::default() };
    let config: OptConfig = read_json(&zoo("opt").join("config.json")).expect("its config");
    let language_model = Opt::from_scope(&Scope::root(&watched), config).expect("complete");
    let course = Captioning::towards("opt", false);
    let stage = Stage2 { language_model: Box::new(language_model), ..course.begin() };
    let frozen = watched.taken.into_inner();
    assert!(frozen.len() > 20, "the whole model was watched");
    let before: Vec<Tensor> = frozen.iter().map(|(_, tensor)| tensor.copy()).collect();

    let mut trainee = Trainee::new(stage, AdamWOptions::from(&course.plan().optimiser));
    let options = BridgeOptions { mean: LanguageMean::Tokens, seed: SEED, step: 0, recompute: false, probes: false };
    let Stage2 { bridge, language_model, .. } = &trainee.stage;
    let batch = course.batch(&[0, 1, 2, 3], &[0; 4]);
    let output = bridge_step(bridge, &**language_model, &batch, &Solo::new(), &options).expect("a world of one");
    trainee.optimiser.step(&output.gradients, 1e-2);

    for ((name, tensor), before) in frozen.iter().zip(&before) {
        assert!(!tensor.requires_grad() && !tensor.grad().defined(), "{name} holds a gradient");
        assert!(tensor.equal(before), "{name} has changed");
    }
    let slots: Vec<&str> = trainee.optimiser.slots().iter().map(|slot| slot.name.as_str()).collect();
    let trained: Vec<&str> = trainee.stage.bridge.parameters().iter().map(|(name, _)| name).collect();
    assert_eq!(slots, trained);
    assert!(trained.iter().all(|name| !name.contains("opt_model")));
    for (name, gradient) in trained.iter().zip(&output.gradients) {
        let expected_zero = name.ends_with("self.key.bias"); // a softmax does not see it
        assert!(expected_zero || gradient.abs().max().double_value(&[]) > 0.0, "{name} is not reached");
    }
}

#[test]
fn an_opts_prompt_and_padding_are_no_targets_and_a_newline_ends_the_caption() {
    let course = Captioning::towards("opt", false);
    let texts = course.batch(&[0, 6], &[0; 2]).texts; // two words, eight words
    let tokenizer = &course.texts.tokenizer;
    let prompt = tokenizer.encode("a picture of", 24);
    for (row, caption) in [(0, caption(0)), (1, caption(6))] {
        let read = |tensor: &Tensor| Vec::<i64>::try_from(tensor.get(row)).expect("a vector of integers");
        let (ids, mask, labels) = (read(&texts.ids), read(&texts.mask), read(&texts.labels));
        let length = mask.iter().sum::<i64>() as usize;
        assert_eq!(ids[..length], tokenizer.encode(&format!("a picture of {caption}\n"), 24));
        assert!(ids[length..].iter().all(|&id| id == tokenizer.pad_id()));
        assert!(labels[..prompt.len()].iter().chain(&labels[length..]).all(|&label| label == language::IGNORED));
        assert_eq!(labels[prompt.len()..length], ids[prompt.len()..length]);
    }
}

#[test]
fn a_t5s_caption_is_cut_anew_in_every_epoch_and_its_second_part_is_never_empty() {
    let course = Captioning::towards("t5", false);
    let tokenizer = &course.texts.tokenizer;
    let mut prefixes = BTreeSet::new();
    for epoch in 0..40 {
        let texts = course.batch(&[6, 0], &[epoch; 2]).texts;
        for (row, caption) in [(0, caption(6)), (1, caption(0))] {
            let read = |tensor: &Tensor| Vec::<i64>::try_from(tensor.get(row)).expect("a vector of integers");
            let said: Vec<i64> = read(&texts.labels).into_iter().filter(|&id| id != language::IGNORED).collect();
            let (prefix, suffix) = (tokenizer.decode(&read(&texts.ids)), tokenizer.decode(&said));
            assert!(said.len() > 1, "more than the end");
            assert_eq!(format!("{prefix} {suffix}"), format!("a picture of {caption}"));
            if row == 0 {
                prefixes.insert(prefix);
            }
        }
    }
    assert_eq!(prefixes.len(), 8, "of eight words, none to seven are the prefix: {prefixes:?}");
}

#[test]
fn a_prompt_without_room_and_a_foreign_tokenizer_are_one_sentence() {
    let opt = loaded("opt");
    let load = |folder: &str, prompt: &str, length| {
        LanguageTexts::load(&zoo(folder), &*opt, prompt, length).err().expect("refused").to_string()
    };
    let error = load("opt", "a picture of", 4);
    assert!(error.contains("stage2.prompt") && error.contains("stage2.max_text_length is 4"), "{error}");
    let error = load("t5", "", 24);
    assert!(error.contains("zoo/t5") && error.contains("does not belong to this language model"), "{error}");
}
