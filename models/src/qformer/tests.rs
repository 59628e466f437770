use std::collections::BTreeMap;

use tch::{Device, Kind, Tensor, no_grad};

use super::*;

pub(crate) fn config() -> QFormerConfig {
    QFormerConfig {
        vocab_size: 20,
        hidden_size: 8,
        num_hidden_layers: 3,
        num_attention_heads: 2,
        intermediate_size: 16,
        max_position_embeddings: 10,
        layer_norm_eps: 1e-12,
        initializer_range: 0.02,
        hidden_dropout_prob: 0.1,
        attention_probs_dropout_prob: 0.1,
        cross_attention_freq: 2,
        encoder_width: 6,
        num_query_token: 3,
        embed_dim: 4,
        pad_token_id: 0,
        ln_vision_eps: QFormerConfig::LN_VISION_EPS,
    }
}

pub(super) fn model() -> QFormer {
    QFormer::init(&config(), 7, Device::Cpu).expect("a valid config")
}

/// A model's tensors by name.
pub(super) fn saved(model: &QFormer) -> BTreeMap<String, Tensor> {
    model.parameters().iter().map(|(name, tensor)| (name.to_string(), tensor.detach())).collect()
}

/// Whether two models have the same tensors, to the bit.
pub(super) fn assert_same(one: &QFormer, other: &QFormer) {
    assert_eq!(one.parameters().len(), other.parameters().len());
    for ((name, a), (other_name, b)) in one.parameters().iter().zip(other.parameters().iter()) {
        assert!(name == other_name && a.equal(b), "{name}");
    }
}

fn text() -> (Tensor, Tensor) {
    let ids = Tensor::from_slice2(&[[2i64, 5, 6, 3, 0], [2, 9, 3, 0, 0]]);
    let mask = ids.not_equal(0).to_kind(Kind::Int64);
    (ids, mask)
}

#[test]
fn names_follow_lavis_and_cross_attention_sits_in_every_second_block() {
    let model = model();
    let names: Vec<&str> = model.parameters().iter().map(|(name, _)| name).collect();
    assert_eq!(&names[..4], ["query_tokens", "temp", "ln_vision.weight", "ln_vision.bias"]);
    for (layer, cross) in [(0, true), (1, false), (2, true)] {
        let name = format!("Qformer.bert.encoder.layer.{layer}.crossattention.self.key.weight");
        assert_eq!(names.contains(&name.as_str()), cross, "{name}");
    }
}

#[test]
fn initial_weights_follow_the_seed_alone() {
    let (one, same) = (model(), model());
    let other = QFormer::init(&config(), 8, Device::Cpu).expect("a valid config");
    for ((name, a), (_, b)) in one.parameters().iter().zip(same.parameters().iter()) {
        assert!(a.equal(b), "{name}");
    }
    let queries = |model: &QFormer| model.parameters().iter().next().expect("query tokens").1.shallow_clone();
    assert!(!queries(&one).equal(&queries(&other)));
}

#[test]
fn saved_parameters_load_again_and_a_surplus_tensor_is_refused() {
    let model = model();
    let mut saved = saved(&model);
    let weights = Weights::from_tensors(saved.clone_shallow(), "saved", Device::Cpu, Kind::Float).expect("plain");
    let again = QFormer::from_weights(&weights, &config()).expect("complete");
    assert_eq!(again.parameters().count(), model.parameters().count());
    saved.insert("itm_head.extra".into(), Tensor::zeros([1], (Kind::Float, Device::Cpu)));
    let weights = Weights::from_tensors(saved, "saved", Device::Cpu, Kind::Float).expect("plain");
    assert!(matches!(QFormer::from_weights(&weights, &config()), Err(WeightsError::Extra { .. })));
}

pub(super) trait CloneShallow {
    fn clone_shallow(&self) -> Self;
}

impl CloneShallow for BTreeMap<String, Tensor> {
    fn clone_shallow(&self) -> Self {
        self.iter().map(|(name, tensor)| (name.clone(), tensor.shallow_clone())).collect()
    }
}

#[test]
fn later_text_is_invisible_to_earlier_text_in_the_language_pass_only() {
    no_grad(|| {
        let model = model();
        let features = Tensor::randn([2, 4, 6], (Kind::Float, Device::Cpu));
        let images = model.image_memory(&features);
        let past = model.queries(&images, &Dropout::OFF).past;
        let (ids, mask) = text();
        let changed = ids.copy();
        let _ = changed.narrow(1, 2, 1).fill_(11);
        let first = |hidden: &Tensor| hidden.narrow(1, 0, 2).copy();
        let causal = |ids: &Tensor| first(&model.language(ids, &mask, &past, &Dropout::OFF));
        assert!(causal(&ids).allclose(&causal(&changed), 1e-5, 1e-6, false));
        let unimodal = |ids: &Tensor| first(&model.text(ids, &mask, Outputs::All, &Dropout::OFF));
        assert!(!unimodal(&ids).allclose(&unimodal(&changed), 1e-5, 1e-6, false));
    });
}

#[test]
fn queries_see_text_in_matching_and_padding_is_seen_by_nobody() {
    no_grad(|| {
        let model = model();
        let images = model.image_memory(&Tensor::randn([2, 4, 6], (Kind::Float, Device::Cpu)));
        let (ids, mask) = text();
        let queries =
            |ids: &Tensor| model.matching_logits(&model.matching(&images, ids, &mask, Outputs::Read, &Dropout::OFF));
        let (token, padding) = (ids.copy(), ids.copy());
        let _ = token.narrow(1, 1, 1).fill_(11);
        let _ = padding.narrow(1, 4, 1).fill_(11);
        assert!(!queries(&ids).allclose(&queries(&token), 1e-7, 1e-8, false));
        assert!(queries(&ids).allclose(&queries(&padding), 1e-5, 1e-6, false));
    });
}

#[test]
fn dropout_follows_the_lane_not_the_batch() {
    no_grad(|| {
        let model = model();
        let features = Tensor::randn([3, 4, 6], (Kind::Float, Device::Cpu));
        let run = |rows: &[i64], keys: &[u64]| {
            let images = model.image_memory(&features.index_select(0, &Tensor::from_slice(rows)));
            model.queries(&images, &Dropout::keyed(&model.config, keys.to_vec())).hidden
        };
        let together = run(&[0, 1, 2], &[10, 20, 30]);
        assert!(together.get(2).allclose(&run(&[2], &[30]).get(0), 1e-5, 1e-6, false));
        assert!(!together.get(2).allclose(&run(&[2], &[31]).get(0), 1e-3, 1e-4, false));
    });
}

#[test]
fn neither_padding_nor_unread_outputs_change_what_is_read() {
    no_grad(|| {
        let model = model();
        let images = model.image_memory(&Tensor::randn([2, 4, 6], (Kind::Float, Device::Cpu)));
        let (ids, mask) = text();
        let dropout = Dropout::keyed(&model.config, vec![10, 20]);
        let past = model.queries(&images, &dropout).past;
        let trimmed = (ids.narrow(1, 0, 4), mask.narrow(1, 0, 4)); // the longest text has 4 tokens
        let close = |a: Tensor, b: Tensor| assert!(a.allclose(&b, 1e-5, 1e-6, false));
        close(
            model.text_features(&model.text(&ids, &mask, Outputs::All, &dropout)),
            model.text_features(&model.text(&trimmed.0, &trimmed.1, Outputs::Read, &dropout)),
        );
        close(
            model.matching_logits(&model.matching(&images, &ids, &mask, Outputs::All, &dropout)),
            model.matching_logits(&model.matching(&images, &trimmed.0, &trimmed.1, Outputs::Read, &dropout)),
        );
        close(
            model.language(&ids, &mask, &past, &dropout).narrow(1, 0, 4),
            model.language(&trimmed.0, &trimmed.1, &past, &dropout),
        );
    });
}

#[test]
fn a_bridge_is_the_query_side_of_a_stage_1_model_and_a_projection() {
    no_grad(|| {
        let model = model();
        let bridge = Bridge::from_stage1(&model, Projection::T5, 10, 7).expect("the same sizes");
        let names: Vec<&str> = bridge.parameters().iter().map(|(name, _)| name).collect();
        assert_eq!(names[..3], ["query_tokens", "ln_vision.weight", "ln_vision.bias"]);
        assert_eq!(names[names.len() - 2..], ["t5_proj.weight", "t5_proj.bias"]);
        assert!(names.contains(&"Qformer.bert.embeddings.LayerNorm.weight"));
        for of_text in ["word_embeddings", "position_embeddings", ".intermediate.", ".output.dense", "cls"] {
            let found = names.iter().find(|name| name.contains(of_text) && !name.contains("attention"));
            assert_eq!(found, None, "{of_text}");
        }
        let features = Tensor::randn([2, 4, 6], (Kind::Float, Device::Cpu));
        let dropout = Dropout::keyed(&model.config, vec![3, 4]);
        let hidden = model.queries(&model.image_memory(&features), &dropout).hidden;
        let projection = |name| bridge.parameters().iter().find(|(known, _)| *known == name).expect("there").1;
        let expected = hidden.linear(projection("t5_proj.weight"), Some(projection("t5_proj.bias")));
        assert!(bridge.visual_tokens(&features, &dropout).allclose(&expected, 1e-6, 1e-7, false));
        let bound = 1.0 / (model.config.hidden_size as f64).sqrt();
        let largest = projection("t5_proj.weight").abs().max().double_value(&[]);
        assert!(largest <= bound && largest > 0.8 * bound, "uniform in ±{bound}: {largest}");
    });
}

#[test]
fn a_saved_bridge_loads_again_and_a_stage_1_model_is_none() {
    let model = model();
    let bridge = Bridge::from_stage1(&model, Projection::Opt, 10, 7).expect("the same sizes");
    let load = |parameters: &Parameters| {
        let saved: BTreeMap<String, Tensor> =
            parameters.iter().map(|(name, tensor)| (name.to_string(), tensor.detach())).collect();
        let weights = Weights::from_tensors(saved, "saved", Device::Cpu, Kind::Float).expect("plain");
        Bridge::from_weights(&weights, &bridge.config)
    };
    let again = load(bridge.parameters()).expect("complete");
    assert_eq!(again.parameters().count(), bridge.parameters().count());
    let error = load(model.parameters()).err().expect("refused").to_string();
    assert!(error.contains("opt_proj.weight"), "{error}");
}

#[test]
fn sizes_that_do_not_fit_are_named() {
    let error = QFormer::init(&QFormerConfig { num_attention_heads: 3, ..config() }, 1, Device::Cpu).err();
    assert!(error.expect("refused").to_string().contains("num_attention_heads 3"));
}
