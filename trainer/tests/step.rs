//! The step itself: what is an optimisation must not be a change.

use quern_collective::Solo;
use quern_models::export;
use quern_models::qformer::foreign::{Absent, Checkpoint};
use quern_models::qformer::{QFormer, QFormerConfig};
use quern_trainer::step::{Batch, Negatives, StepOptions, StepOutput, train_step};
use tch::{Device, Kind, Tensor};

fn config() -> QFormerConfig {
    QFormerConfig {
        vocab_size: 40,
        hidden_size: 32,
        num_hidden_layers: 3,
        num_attention_heads: 4,
        intermediate_size: 64,
        max_position_embeddings: 16,
        layer_norm_eps: 1e-12,
        initializer_range: 0.2,
        hidden_dropout_prob: 0.1,
        attention_probs_dropout_prob: 0.1,
        cross_attention_freq: 2,
        encoder_width: 12,
        num_query_token: 4,
        embed_dim: 16,
        pad_token_id: 0,
        ln_vision_eps: QFormerConfig::LN_VISION_EPS,
    }
}

/// Forty texts of 3 to 15 tokens, padded to 16.
fn batch() -> Batch {
    tch::manual_seed(5);
    let mut ids = vec![0i64; 40 * 16];
    for (row, line) in ids.chunks_mut(16).enumerate() {
        let length = 3 + (row * 5) % 13;
        line[0] = 1;
        for (position, id) in line[1..length - 1].iter_mut().enumerate() {
            *id = 3 + ((row * 11 + position * 7) % 36) as i64;
        }
        line[length - 1] = 2;
    }
    let ids = Tensor::from_slice(&ids).view([40, 16]);
    Batch {
        features: Tensor::randn([40, 5, 12], (Kind::Float, Device::Cpu)),
        mask: ids.ne(0).to_kind(Kind::Int64),
        ids,
        rows: (100..140).collect(),
    }
}

/// The exact step on one rank.
fn step(model: &QFormer, batch: &Batch, probes: bool) -> StepOutput {
    let options = StepOptions {
        semantics: quern_recipes::Semantics::Exact.into(),
        seed: 3,
        step: 8,
        decoder_start: 39,
        negatives: Negatives::Keyed,
        probes,
    };
    train_step(model, batch, &Solo::new(), &options).expect("a world of one")
}

#[test]
fn grouped_by_length_the_gradient_is_the_same() {
    let model = QFormer::init(&config(), 9, Device::Cpu).expect("a valid config");
    let batch = batch();
    let step = |probes: bool| step(&model, &batch, probes);
    let (whole, grouped) = (step(true), step(false));
    assert!(whole.probes.is_some() && grouped.probes.is_none());
    for (whole, grouped) in [
        (whole.losses.itc, grouped.losses.itc),
        (whole.losses.itg, grouped.losses.itg),
        (whole.losses.itm, grouped.losses.itm),
        (whole.local.itg, grouped.local.itg),
    ] {
        assert!(((whole - grouped) / whole).abs() < 1e-5, "{grouped}, not {whole}");
    }
    for (((name, _), whole), grouped) in model.parameters().iter().zip(&whole.gradients).zip(&grouped.gradients) {
        let error = (whole - grouped).norm().double_value(&[]);
        let size = whole.norm().double_value(&[]);
        assert!(error <= 1e-4 * size + 1e-6, "{name}: {error:.1e} off of {size:.1e}");
    }
}

#[test]
fn training_goes_on_from_an_export_with_the_same_losses() {
    let model = QFormer::init(&config(), 9, Device::Cpu).expect("a valid config");
    let folder = tempfile::tempdir().expect("a folder");
    export::qformer(folder.path(), &model, 39).expect("written");
    let read = Checkpoint::open(folder.path(), Device::Cpu).and_then(|read| read.stage1(&config(), Absent::Refused));
    let batch = batch();
    let (own, read) = (step(&model, &batch, false), step(&read.expect("complete"), &batch, false));
    assert_eq!(own.losses, read.losses);
    for (own, read) in own.gradients.iter().zip(&read.gradients) {
        assert!(own.equal(read));
    }
}
