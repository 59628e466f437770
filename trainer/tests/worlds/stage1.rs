//! Stage 1.

use quern_models::qformer::{QFormer, QFormerConfig};
use quern_recipes::Optimiser;
use quern_trainer::TrainError;
use quern_trainer::checkpoint::{Identity, Saved, Trained};
use quern_trainer::stage1::Stage1;
use quern_trainer::step::Batch;
use quern_trainer::training::Plan;
use tch::{Device, Kind, Tensor};
use tokio::runtime::Runtime;

use crate::world::{BATCH, Course, SEED, STEPS, assert_close, folder, refusal, resumes_exactly, world, worlds_agree};

const VOCABULARY: i64 = 30;
const DECODER_START: i64 = VOCABULARY - 1;
const TEXT_LENGTH: i64 = 8;
const WIDTH: i64 = 12;

fn config(dropout: f64) -> QFormerConfig {
    QFormerConfig {
        vocab_size: VOCABULARY,
        hidden_size: 32,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        intermediate_size: 64,
        max_position_embeddings: TEXT_LENGTH,
        layer_norm_eps: 1e-12,
        initializer_range: 0.02,
        hidden_dropout_prob: dropout,
        attention_probs_dropout_prob: dropout,
        cross_attention_freq: 2,
        encoder_width: WIDTH,
        num_query_token: 4,
        embed_dim: 16,
        pad_token_id: 0,
        ln_vision_eps: QFormerConfig::LN_VISION_EPS,
    }
}

struct Contrast {
    dropout: f64,
}

impl Contrast {
    fn stage(&self, model: QFormer) -> Stage1 {
        let semantics = quern_recipes::Semantics::Exact.into();
        Stage1 { model, semantics, seed: SEED, decoder_start: DECODER_START }
    }
}

impl Course for Contrast {
    type Stage = Stage1;

    fn begin(&self) -> Stage1 {
        self.stage(QFormer::init(&config(self.dropout), SEED, Device::Cpu).expect("a valid config"))
    }

    fn taken_up(&self, saved: &Saved, runtime: &Runtime) -> Result<Stage1, TrainError> {
        Ok(self.stage(runtime.block_on(saved.qformer(Device::Cpu))?))
    }

    fn plan(&self) -> Plan {
        let trained = Trained::QFormer { config: config(self.dropout), decoder_start: DECODER_START };
        Plan {
            steps: STEPS,
            checkpoint_every: 10,
            optimiser: Optimiser { peak_lr: 5e-3, warmup_steps: 5, ..Optimiser::default() },
            identity: Identity { seed: SEED, batch: BATCH, recipe_hash: "of a test".into(), trained },
        }
    }

    fn batch(&self, rows: &[u64], _epochs: &[u64]) -> Batch {
        let (features, texts): (Vec<Tensor>, Vec<Tensor>) = rows.iter().map(|&row| (image(row), text(row))).unzip();
        let ids = Tensor::stack(&texts, 0);
        let features = Tensor::stack(&features, 0);
        Batch { features, mask: ids.ne(0).to_kind(Kind::Int64), ids, rows: rows.to_vec() }
    }
}

fn image(row: u64) -> Tensor {
    let values: Vec<f32> = (0..5 * WIDTH as u64).map(|index| ((row * 37 + index * 11) as f32 * 0.73).sin()).collect();
    Tensor::from_slice(&values).view([5, WIDTH])
}

fn text(row: u64) -> Tensor {
    let words = 2 + row as i64 % 4;
    let mut ids = vec![0i64; TEXT_LENGTH as usize];
    ids[0] = 1;
    for word in 0..words {
        ids[1 + word as usize] = 3 + (row as i64 * 7 + word * 5) % (VOCABULARY - 4);
    }
    ids[1 + words as usize] = 2;
    Tensor::from_slice(&ids)
}

#[test]
fn losses_do_not_depend_on_the_number_of_ranks() {
    worlds_agree(&Contrast { dropout: 0.0 }, "without dropout");
}

#[test]
fn nor_do_they_with_dropout() {
    worlds_agree(&Contrast { dropout: 0.1 }, "with dropout");
}

#[test]
fn dropout_drops_something() {
    let first = |dropout| world(&Contrast { dropout }, 1, &folder(), None, Some(0))[0].watch.losses[0].clone();
    assert_ne!(first(0.1), first(0.0));
}

#[test]
fn a_resumed_run_repeats_the_uninterrupted_one_bit_by_bit() {
    resumes_exactly(&Contrast { dropout: 0.1 }, "stage1");
}

#[test]
fn a_run_goes_on_with_another_number_of_ranks() {
    let (output, course) = (folder(), Contrast { dropout: 0.1 });
    let whole = world(&course, 1, &folder(), None, None);
    let stopped = world(&course, 3, &output, None, Some(6));
    for rank in &stopped {
        assert_eq!(rank.outcome.step, 7, "all ranks stop after the step in which one asked");
        assert!(!rank.outcome.complete);
    }
    assert_eq!(stopped[0].watch.offers, [(7, "stage1/step-000007".into(), false)]);
    let resumed = world(&course, 2, &output, Some("stage1/step-000007"), None);
    assert!(resumed[0].outcome.complete);
    let losses: Vec<_> = stopped[0].watch.losses.iter().chain(&resumed[0].watch.losses).cloned().collect();
    assert_close(&whole[0].watch.losses, &losses, "3 ranks, then 2");
}

#[test]
fn another_runs_checkpoint_is_refused() {
    let (output, course) = (folder(), Contrast { dropout: 0.0 });
    world(&course, 1, &output, None, Some(0));
    let other = Identity { seed: SEED + 1, ..course.plan().identity };
    let error = refusal(&course, &output, "stage1/step-000001", &other);
    assert!(error.contains("belongs to another run"), "{error}");
}

#[test]
fn a_damaged_checkpoint_names_the_file() {
    let (output, course) = (folder(), Contrast { dropout: 0.0 });
    world(&course, 1, &output, None, Some(0));
    let refused = || refusal(&course, &output, "stage1/step-000001", &course.plan().identity);
    let path = output.path().join("stage1/step-000001/optimiser.safetensors");
    let whole = std::fs::read(&path).expect("a checkpoint");
    std::fs::write(&path, &whole[..whole.len() / 2]).expect("truncated");
    assert!(refused().contains("step-000001/optimiser.safetensors"), "{}", refused());
    std::fs::remove_file(&path).expect("removed");
    assert!(refused().contains("step-000001/optimiser.safetensors"), "{}", refused());
}

/// As the version before stage 2 wrote it: without the name of the stage.
#[test]
fn a_checkpoint_of_an_older_version_is_resumed() {
    let (output, course) = (folder(), Contrast { dropout: 0.0 });
    world(&course, 1, &output, None, Some(0));
    let path = output.path().join("stage1/step-000001/state.json");
    let mut state: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).expect("a state")).expect("JSON");
    assert_eq!(state.as_object_mut().expect("an object").remove("stage"), Some("stage1".into()));
    std::fs::write(&path, state.to_string()).expect("written");
    assert_eq!(world(&course, 1, &output, Some("stage1/step-000001"), Some(1))[0].outcome.step, 2);
}
