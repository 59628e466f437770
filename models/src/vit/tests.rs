use std::collections::BTreeMap;

use tch::Device::Cpu;

use super::*;
use crate::testing::{arbitrary, declared, distance, message, model_folder};
use crate::weights::Scope;

/// Sizes that no public model has.
const SIZES: &str = r#""hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 3,
    "image_size": 28, "patch_size": 7"#;

fn config(model_type: &str) -> String {
    match model_type {
        "blip-2" | "clip" => format!(r#"{{"model_type": "{model_type}", "vision_config": {{{SIZES}}}}}"#),
        _ => format!(r#"{{"model_type": "{model_type}", {SIZES}}}"#),
    }
}

fn eva() -> EvaConfig {
    serde_json::from_str(&format!("{{{SIZES}}}")).unwrap()
}

fn clip() -> ClipVisionConfig {
    serde_json::from_str(&format!("{{{SIZES}}}")).unwrap()
}

fn tower(shape: &TowerShape) -> BTreeMap<String, Tensor> {
    declared(|scope: &Scope| Tower::load(scope, shape))
}

fn renamed(tensors: BTreeMap<String, Tensor>, rename: impl Fn(String) -> String) -> BTreeMap<String, Tensor> {
    tensors.into_iter().map(|(name, tensor)| (rename(name), tensor)).collect()
}

/// Tensors under LAVIS' names: 4 blocks, of which 3 are used, and what follows them.
fn lavis() -> BTreeMap<String, Tensor> {
    let config = EvaConfig { num_hidden_layers: 4, ..eva() };
    let replaced = [
        ("embeddings.class_embedding", "cls_token"),
        ("embeddings.position_embedding", "pos_embed"),
        ("embeddings.patch_embedding", "patch_embed.proj"),
        ("encoder.layers", "blocks"),
        ("layer_norm", "norm"),
        ("self_attn.projection", "attn.proj"),
        ("self_attn", "attn"),
    ];
    let lavis = |name: String| replaced.iter().fold(name, |name, (ours, theirs)| name.replace(ours, theirs));
    let mut tensors = renamed(tower(&config.tower(EvaLayout::Lavis)), lavis);
    tensors.extend(["norm.weight", "norm.bias", "head.bias"].map(|name| (name.into(), arbitrary(1, &[24]))));
    tensors
}

/// The same encoder as in a `blip2-*` folder.
fn hugging_face(lavis: &BTreeMap<String, Tensor>) -> BTreeMap<String, Tensor> {
    let mut tensors = BTreeMap::new();
    for (name, tensor) in lavis {
        if let Some(name) = eva().canonical(name, EvaLayout::Lavis) {
            tensors.insert(format!("vision_model.{name}"), tensor.shallow_clone());
        }
    }
    for block in 0..3 {
        let own = format!("vision_model.encoder.layers.{block}.self_attn");
        let [q, v] = ["q_bias", "v_bias"].map(|name| tensors.remove(&format!("{own}.{name}")).expect("a bias"));
        tensors.insert(format!("{own}.qkv.bias"), Tensor::cat(&[&q, &q.zeros_like(), &v], 0));
    }
    tensors.extend(["vision_model.post_layernorm.weight", "query_tokens", "qformer.layernorm.weight"].map(|name| {
        (name.to_string(), arbitrary(2, &[5])) // of other models
    }));
    tensors
}

fn load(folder: &tempfile::TempDir, kind: Kind) -> Result<FrozenVit, WeightsError> {
    FrozenVit::load(folder.path(), Cpu, kind)
}

#[test]
fn eva_is_the_same_from_lavis_and_from_hugging_faces_folders() {
    let lavis = lavis();
    let files = |model_type| [("config.json", config(model_type))].map(|(name, text)| (name, text));
    let [(name, text)] = files("blip_2_vision_model");
    let one = load(&model_folder(&[(name, &text)], "model.safetensors", &lavis), Kind::Float).unwrap();
    let [(name, text)] = files("blip-2");
    let other = load(&model_folder(&[(name, &text)], "model.safetensors", &hugging_face(&lavis)), Kind::Float).unwrap();
    for side in [28, 35, 14] {
        let pixels = arbitrary(7, &[2, 3, side, side]);
        let features = one.features(&pixels);
        assert_eq!(features.size(), [2, 1 + (side / 7) * (side / 7), 24]);
        assert!(features.equal(&other.features(&pixels)), "{side}");
    }
    assert_eq!((one.width(), one.image_size()), (24, 28));
}

#[test]
fn whatever_is_not_the_encoder_is_refused_by_name() {
    let config = config("blip_2_vision_model");
    let files = [("config.json", config.as_str())];
    for surplus in ["blocks.0.gamma_1", "blocks.4.norm1.weight", "rel_pos_bias.relative_position_bias_table"] {
        let mut tensors = lavis();
        tensors.insert(surplus.into(), arbitrary(0, &[24]));
        let text = message(load(&model_folder(&files, "model.safetensors", &tensors), Kind::Float));
        assert!(text.contains(surplus.rsplit('.').next().unwrap()), "{text}");
    }
    let mut tensors = lavis();
    tensors.remove("blocks.2.attn.v_bias");
    let text = message(load(&model_folder(&files, "model.safetensors", &tensors), Kind::Float));
    assert!(text.contains("layers.2.self_attn.v_bias"), "{text}");
}

#[test]
fn the_last_block_may_be_missing() {
    let mut tensors = lavis();
    tensors.retain(|name, _| !name.starts_with("blocks.3.") && !name.starts_with("norm") && !name.starts_with("head"));
    let config = config("blip_2_vision_model");
    load(&model_folder(&[("config.json", &config)], "model.safetensors", &tensors), Kind::Float).unwrap();
}

#[test]
fn clips_whole_checkpoint_and_its_tower_alone_give_the_same_features() {
    let shape = clip().tower(3, true, QkvTensors::Apart);
    let mut whole = renamed(tower(&shape), |name| format!("vision_model.{name}"));
    let mut alone = renamed(tower(&shape), |name| name);
    alone.retain(|name, _| !name.contains("layers.2."));
    whole.extend(
        ["text_model.x", "logit_scale", "visual_projection.weight"].map(|name| (name.into(), arbitrary(0, &[1]))),
    );
    let [whole, alone] = [("clip", whole), ("clip_vision_model", alone)].map(|(model_type, tensors)| {
        let config = config(model_type);
        load(&model_folder(&[("config.json", &config)], "model.safetensors", &tensors), Kind::Float).unwrap()
    });
    let pixels = arbitrary(7, &[1, 3, 28, 28]);
    assert!(whole.features(&pixels).equal(&alone.features(&pixels)));
}

#[test]
fn half_precision_is_near_full_for_both_families() {
    let eva = (config("blip_2_vision_model"), lavis());
    let clip = (config("clip_vision_model"), tower(&clip().tower(2, true, QkvTensors::Apart)));
    for (config, tensors) in [eva, clip] {
        let folder = model_folder(&[("config.json", &config)], "model.safetensors", &tensors);
        let [full, half, other] = [Kind::Float, Kind::BFloat16, Kind::Half].map(|kind| load(&folder, kind).unwrap());
        for side in [28, 42] {
            let pixels = arbitrary(7, &[2, 3, side, side]);
            for (half, kind) in [(&half, Kind::BFloat16), (&other, Kind::Half)] {
                let features = half.features(&pixels);
                assert_eq!(features.kind(), kind);
                let off = distance(&features, &full.features(&pixels));
                assert!(off > 0.0 && off < 0.03, "{config}: {off} in {kind:?}");
            }
        }
    }
}

#[test]
fn a_model_that_is_no_image_encoder_is_refused() {
    let text =
        message(load(&model_folder(&[("config.json", &config("t5"))], "model.safetensors", &lavis()), Kind::Float));
    for part in ["config.json", "model_type of the image encoder", "clip or", "blip-2", "found t5"] {
        assert!(text.contains(part), "{part:?} not in {text:?}");
    }
}

#[test]
fn sizes_that_do_not_fit_are_refused_with_file_field_expected_and_found() {
    for (from, to, parts) in [
        (r#""num_attention_heads": 3"#, r#""num_attention_heads": 5"#, ["hidden_size", "multiple of", "5", "found 24"]),
        (r#""image_size": 28"#, r#""image_size": 5"#, ["image_size", "patch of 7", "config.json", "found 5"]),
        (
            r#""patch_size": 7"#,
            r#""patch_size": 7, "hidden_act": "silu""#,
            ["activation", "gelu", "config.json", "found silu"],
        ),
    ] {
        let config = config("blip-2").replace(from, to);
        let text =
            message(load(&model_folder(&[("config.json", &config)], "model.safetensors", &lavis()), Kind::Float));
        assert!(parts.iter().all(|part| text.contains(part)), "{text}");
    }
}

#[test]
fn a_bare_file_of_no_public_size_asks_for_a_config() {
    let folder = model_folder(&[], "tower.safetensors", &lavis());
    let text = message(FrozenVit::load(&folder.path().join("tower.safetensors"), Cpu, Kind::Float));
    assert!(text.contains("tower.safetensors") && text.contains("config.json"), "{text}");
}

/// ViT-g/14's tensors over storages of one element: no config, so names and shapes must do.
#[test]
fn bare_files_of_public_sizes_are_recognised() {
    let zeros = |shape: &[i64]| Tensor::zeros([1], (Kind::Float, Cpu)).expand(shape, false);
    let recognised = |tensors: Vec<(&str, Tensor)>| {
        let tensors = tensors.into_iter().map(|(name, tensor)| (name.to_string(), tensor));
        let weights = Weights::from_tensors(tensors, "case", Cpu, Kind::Float).unwrap();
        FrozenConfig::of_public(&weights, Path::new("case")).unwrap()
    };
    let eva = |side: i64, positions: i64| {
        let found = recognised(vec![("cls_token", zeros(&[1, 1, 1408])), ("pos_embed", zeros(&[1, positions, 1408]))]);
        assert_eq!(found, FrozenConfig::Eva(EvaConfig { image_size: side, ..EvaConfig::default() }));
    };
    eva(224, 257);
    eva(364, 677);
    for (prefix, side, positions) in [("", 224, 257), ("visual.", 336, 577)] {
        let name = |name: &str| format!("{prefix}{name}");
        let (convolution, position) = (name("conv1.weight"), name("positional_embedding"));
        let found = recognised(vec![(&convolution, zeros(&[1024, 3, 14, 14])), (&position, zeros(&[positions, 1024]))]);
        let FrozenConfig::Clip(found) = found else { panic!("{found:?} is not CLIP") };
        assert_eq!((found.num_hidden_layers, found.num_attention_heads, found.image_size), (24, 16, side));
        assert_eq!(found.intermediate_size, 4096);
    }
}
