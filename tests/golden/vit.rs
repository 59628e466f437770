//! `clip_vit`: penultimate features under OpenAI's and Hugging Face's names, also for other image sizes.

use quern_models::clip::{ClipImage, ClipVisionConfig};
use quern_models::vit::FrozenVit;
use tch::Tensor;

use crate::case::Case;
use crate::checks::{Checks, STATES};

/// Checks a case.
pub fn check(case: &Case, checks: &mut Checks) -> anyhow::Result<()> {
    let config: ClipVisionConfig = case.value("hf_vision_config")?;
    let openai = FrozenVit::from_weights(case.weights()?, config.clone())?;
    let hugging_face = FrozenVit::from_weights(case.weights_file("weights_hf.safetensors")?, config.clone())?;
    let pixels = case.input("pixel_values")?;
    checks.compare("features", &openai.features(pixels), STATES)?;
    checks.compare("hf_hidden_states_minus_2", &hugging_face.features(pixels), STATES)?;
    for side in case.value::<Vec<i64>>("other_img_sizes")? {
        let pixels = case.input(&format!("pixel_values_{side}"))?;
        checks.compare(&format!("features_{side}"), &openai.features(pixels), STATES)?;
        checks.compare(&format!("positional_embedding_{side}"), &openai.position(side), STATES)?;
    }
    whole_tower(case, checks, &config, pixels)
}

/// The last block's states and the pooled class token, which the frozen encoder leaves out and the ranker uses.
fn whole_tower(case: &Case, checks: &mut Checks, config: &ClipVisionConfig, pixels: &Tensor) -> anyhow::Result<()> {
    let weights = case.weights_file("weights_hf.safetensors")?;
    let tower = ClipImage::load(&weights.root().sub("vision_model"), config)?;
    weights.finish()?;
    let states = tower.vision.forward(pixels);
    checks.compare("hf_last_hidden_state", &states, STATES)?;
    checks.compare("hf_pooler_output", &tower.pooled(&states), STATES)
}
