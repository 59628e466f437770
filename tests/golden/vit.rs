//! `clip_vit` and `eva_vit`: penultimate features under every layout's names, also for other image sizes.

use quern_models::clip::{ClipImage, ClipLayout, ClipVisionConfig};
use quern_models::eva::EvaConfig;
use quern_models::vit::{FrozenConfig, FrozenVit};
use tch::Tensor;

use crate::case::Case;
use crate::checks::Checks;

/// Checks a case of CLIP.
pub fn check_clip(case: &Case, checks: &mut Checks) -> anyhow::Result<()> {
    let config: ClipVisionConfig = case.value("hf_vision_config")?;
    let frozen = FrozenConfig::Clip(config.clone());
    let openai = FrozenVit::from_weights(case.weights()?, frozen.clone())?;
    let hugging_face = FrozenVit::from_weights(case.weights_file("weights_hf.safetensors")?, frozen)?;
    let pixels = case.input("pixel_values")?;
    checks.states("features", &openai.features(pixels))?;
    checks.states("hf_hidden_states_minus_2", &hugging_face.features(pixels))?;
    for side in case.value::<Vec<i64>>("other_img_sizes")? {
        other_size(case, checks, &openai, side)?;
        checks.states(&format!("positional_embedding_{side}"), &openai.position(side))?;
    }
    whole_tower(case, checks, &config, pixels)
}

/// Checks a case of EVA-CLIP.
pub fn check_eva(case: &Case, checks: &mut Checks) -> anyhow::Result<()> {
    let config = EvaConfig {
        hidden_size: case.value("embed_dim")?,
        intermediate_size: case.value("mlp_hidden_dim")?,
        num_hidden_layers: case.value("depth")?,
        num_attention_heads: case.value("num_heads")?,
        image_size: case.value("img_size")?,
        patch_size: case.value("patch_size")?,
        layer_norm_eps: case.value("layer_norm_eps")?,
        qkv_bias: case.value("qkv_bias")?,
        ..EvaConfig::default()
    };
    let encoder = FrozenVit::from_weights(case.weights()?, FrozenConfig::Eva(config.clone()))?;
    let pixels = case.input("pixel_values")?;
    checks.states("patch_embed", &encoder.tower().embeddings().patches(pixels))?;
    for (block, states) in encoder.tower().hidden_states(pixels)[1..].iter().enumerate() {
        checks.states(&format!("block{block}"), states)?;
    }
    checks.states("features", &encoder.features(pixels))?;
    if case.has_file("weights_hf.safetensors") {
        let weights = case.weights_file("weights_hf.safetensors")?;
        let hugging_face = FrozenVit::from_weights(weights, FrozenConfig::Eva(config.clone()))?;
        checks.states("hf_features", &hugging_face.features(pixels))?;
    }
    let whole = EvaConfig { num_hidden_layers: case.value("checkpoint_depth")?, ..config };
    let whole = FrozenVit::from_weights(case.weights()?, FrozenConfig::Eva(whole))?;
    checks.states("features_all_blocks", &whole.features(pixels))?;
    for side in case.value::<Vec<i64>>("other_img_sizes")? {
        other_size(case, checks, &encoder, side)?;
        checks.states(&format!("pos_embed_{side}"), &encoder.position(side).unsqueeze(0))?;
    }
    Ok(())
}

fn other_size(case: &Case, checks: &mut Checks, encoder: &FrozenVit, side: i64) -> anyhow::Result<()> {
    let pixels = case.input(&format!("pixel_values_{side}"))?;
    checks.states(&format!("features_{side}"), &encoder.features(pixels))
}

/// The last block's states and the pooled class token, which the frozen encoder leaves out and the ranker uses.
fn whole_tower(case: &Case, checks: &mut Checks, config: &ClipVisionConfig, pixels: &Tensor) -> anyhow::Result<()> {
    let weights = case.weights_file("weights_hf.safetensors")?;
    let layout = ClipLayout::of(&weights);
    let tower = ClipImage::load(&weights.root().sub("vision_model"), config, layout.qkv())?;
    weights.finish()?;
    let states = tower.vision.forward(pixels);
    checks.states("hf_last_hidden_state", &states)?;
    checks.states("hf_pooler_output", &tower.pooled(&states))
}
