use std::collections::BTreeMap;

use tch::Device::Cpu;

use super::*;
use crate::clip::names::{BLOCK_NAMES, TEXT_NAMES, VISION_NAMES};
use crate::testing::{arbitrary, declared, distance, message, model_folder};
use crate::vit::FrozenVit;

const VISION: &str = r#""hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
    "image_size": 16, "patch_size": 8, "hidden_act": "quick_gelu""#;
const TEXT: &str = r#""hidden_size": 24, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2,
    "vocab_size": 30, "max_position_embeddings": 9, "hidden_act": "quick_gelu", "eos_token_id": 29"#;
const OPEN_CLIP: &str = r#"{"model_cfg": {"embed_dim": 12, "quick_gelu": true,
    "vision_cfg": {"image_size": 16, "layers": 2, "width": 32, "patch_size": 8, "head_width": 16},
    "text_cfg": {"context_length": 9, "vocab_size": 30, "width": 24, "heads": 2, "layers": 2}},
    "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}}"#;

fn config() -> String {
    format!(
        r#"{{"model_type": "clip", "projection_dim": 12, "text_config": {{{TEXT}}}, "vision_config": {{{VISION}}}}}"#
    )
}

fn tensors() -> BTreeMap<String, Tensor> {
    let config = serde_json::from_str(&config()).unwrap();
    declared(|scope| Clip::from_scope(scope, config, ClipLayout::HuggingFace.qkv()))
}

/// Hugging Face's tensors as open_clip stores them.
fn open_clip(tensors: &BTreeMap<String, Tensor>) -> BTreeMap<String, Tensor> {
    let stored = |name: &str, tensor: &Tensor| match name.split_once(".q_proj.") {
        Some((block, part)) => {
            let parts = ["q_proj", "k_proj", "v_proj"].map(|which| &tensors[&format!("{block}.{which}.{part}")]);
            (format!("{block}.qkv.{part}"), Tensor::cat(&parts, 0))
        }
        None if name.ends_with("_projection.weight") => {
            (name.replace(".weight", ".transposed"), tensor.transpose(0, 1))
        }
        None => (name.replace("out_proj", "projection"), tensor.shallow_clone()),
    };
    let fused = tensors.iter().filter(|(name, _)| !name.contains("k_proj.") && !name.contains("v_proj."));
    let fused = fused.map(|(name, tensor)| stored(name, tensor));
    fused.map(|(name, tensor)| (open_clip_name(&name), tensor)).collect()
}

fn open_clip_name(name: &str) -> String {
    let visual = VISION_NAMES.map(|(theirs, ours)| (format!("visual.{theirs}"), ours));
    let text = TEXT_NAMES.map(|(theirs, ours)| (theirs.to_string(), ours));
    let names = visual.iter().chain(&text);
    let top = names.fold(name.to_string(), |name, (theirs, ours)| name.replace(ours, theirs));
    BLOCK_NAMES.iter().fold(top, |name, (theirs, ours)| name.replace(ours, theirs))
}

fn inputs() -> (Tensor, Tensor, Tensor) {
    let ids = Tensor::from_slice2(&[[28, 3, 4, 29, 29], [28, 7, 29, 29, 29]]);
    let mask = Tensor::from_slice2(&[[1i64, 1, 1, 1, 0], [1, 1, 1, 0, 0]]);
    (arbitrary(3, &[2, 3, 16, 16]), ids.to_kind(Kind::Int64), mask)
}

#[test]
fn open_clips_folder_is_the_same_model() {
    let tensors = tensors();
    let theirs = open_clip(&tensors);
    assert!(theirs.contains_key("visual.transformer.resblocks.1.attn.in_proj_bias"), "{:?}", theirs.keys());
    let config = config();
    let hugging_face = model_folder(&[("config.json", &config)], "model.safetensors", &tensors);
    let open_clip = model_folder(&[("open_clip_config.json", OPEN_CLIP)], "open_clip_model.safetensors", &theirs);
    let (pixels, ids, mask) = inputs();
    let [a, b] = [&hugging_face, &open_clip].map(|folder| Clip::load(folder.path(), Cpu, Kind::Float).unwrap());
    assert!(distance(&b.image_embeds(&pixels), &a.image_embeds(&pixels)) < 1e-6);
    assert!(distance(&b.text_embeds(&ids, &mask), &a.text_embeds(&ids, &mask)) < 1e-6);
    let [a, b] = [&hugging_face, &open_clip].map(|folder| FrozenVit::load(folder.path(), Cpu, Kind::Float).unwrap());
    assert!(distance(&b.features(&pixels), &a.features(&pixels)) < 1e-6);
}

#[test]
fn half_precision_is_near_full() {
    let config = config();
    let folder = model_folder(&[("config.json", &config)], "model.safetensors", &tensors());
    let [full, half, other] =
        [Kind::Float, Kind::BFloat16, Kind::Half].map(|kind| Clip::load(folder.path(), Cpu, kind).unwrap());
    let (pixels, ids, mask) = inputs();
    for half in [half, other] {
        let images = distance(&half.image_embeds(&pixels), &full.image_embeds(&pixels));
        let texts = distance(&half.text_embeds(&ids, &mask), &full.text_embeds(&ids, &mask));
        assert!(images > 0.0 && images < 0.03 && texts > 0.0 && texts < 0.03, "{images} {texts}");
    }
}

#[test]
fn another_model_is_no_ranker() {
    let folder = model_folder(&[("config.json", r#"{"model_type": "blip"}"#)], "model.safetensors", &tensors());
    let text = message(Clip::load(folder.path(), Cpu, Kind::Float));
    assert!(
        ["config.json", "model_type of the ranker", "be clip", "found blip"].iter().all(|part| text.contains(part)),
        "{text}"
    );
}

#[test]
fn open_clips_other_architectures_are_refused_by_the_field_that_asks_for_them() {
    for (from, to, part) in [
        (r#""layers": 2, "width": 32"#, r#""layers": 2, "timm_model_name": "vit", "width": 32"#, "timm_model_name"),
        (r#""layers": 2, "width": 32"#, r#""layers": [3, 4, 6, 3], "width": 32"#, "sequence"),
        (r#""heads": 2"#, r#""heads": 2, "hf_model_name": "roberta""#, "hf_model_name"),
        (r#""heads": 2"#, r#""heads": 2, "pool_type": "last""#, "last"),
        (r#""heads": 2"#, r#""heads": 5"#, "multiple of num_attention_heads 5"),
    ] {
        let json = OPEN_CLIP.replace(from, to);
        assert_ne!(json, OPEN_CLIP);
        let folder = model_folder(&[("open_clip_config.json", &json)], "open_clip_model.safetensors", &tensors());
        let text = message(Clip::load(folder.path(), Cpu, Kind::Float));
        assert!(text.contains("open_clip_config.json") && text.contains(part), "{text}");
    }
}
