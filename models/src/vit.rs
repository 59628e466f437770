//! The frozen image encoder: CLIP's ViT without its last block (LAVIS `clip_vit.py`, BLIP-2 section 3.1).
//!
//! Its features are all tokens of the penultimate layer, without a layer norm after it. Reads Hugging Face folders
//! (`vision_model.*`, of a `CLIPModel` or a `CLIPVisionModel`) and OpenAI's names, which LAVIS uses.

use std::path::Path;

use serde::Deserialize;
use tch::{Device, Kind, Tensor};

use crate::clip::{ClipVision, ClipVisionConfig};
use crate::weights::{Weights, WeightsError, read_json};

/// OpenAI's names -> Hugging Face's, part by part.
const OPENAI_NAMES: [(&str, &str); 13] = [
    ("conv1.", "embeddings.patch_embedding."),
    ("class_embedding", "embeddings.class_embedding"),
    ("positional_embedding", "embeddings.position_embedding.weight"),
    ("ln_pre.", "pre_layrnorm."),
    ("ln_post.", "post_layernorm."),
    ("transformer.resblocks.", "encoder.layers."),
    (".ln_1.", ".layer_norm1."),
    (".ln_2.", ".layer_norm2."),
    (".attn.in_proj_weight", ".self_attn.qkv.weight"),
    (".attn.in_proj_bias", ".self_attn.qkv.bias"),
    (".attn.", ".self_attn."),
    (".mlp.c_fc.", ".mlp.fc1."),
    (".mlp.c_proj.", ".mlp.fc2."),
];

/// What a CLIP checkpoint holds beside the image tower.
const OTHER_PARTS: [&str; 5] =
    ["text_model.", "text_projection.", "visual_projection.", "logit_scale", "post_layernorm."];

/// The encoder.
pub struct FrozenVit {
    vision: ClipVision,
    config: ClipVisionConfig,
}

/// A `config.json` of a CLIP model or of its image tower alone.
#[derive(Deserialize)]
struct FolderConfig {
    vision_config: Option<ClipVisionConfig>,
    #[serde(flatten)]
    own: ClipVisionConfig,
}

impl FrozenVit {
    /// Reads `config.json` and the weights of a Hugging Face folder.
    pub fn load(folder: &Path, device: Device, kind: Kind) -> Result<Self, WeightsError> {
        let config: FolderConfig = read_json(&folder.join("config.json"))?;
        let config = config.vision_config.unwrap_or(config.own);
        FrozenVit::from_weights(Weights::open(folder, device, kind)?, config)
    }

    /// Takes the encoder out of `weights`; `config` describes the whole tower, last block included.
    pub fn from_weights(weights: Weights, config: ClipVisionConfig) -> Result<Self, WeightsError> {
        let depth = config.num_hidden_layers.checked_sub(1).ok_or_else(|| WeightsError::Config {
            location: "CLIP vision config".into(),
            reason: "num_hidden_layers is 0; the encoder is the tower without its last block".into(),
        })?;
        let last = format!("encoder.layers.{depth}.");
        let weights = weights.rename(|name| {
            let name = canonical(name);
            let dropped = name.starts_with(&last) || OTHER_PARTS.iter().any(|part| name.starts_with(part));
            (!dropped).then_some(name)
        })?;
        let vision = ClipVision::load(&weights.root(), &config, depth, true)?;
        weights.finish()?;
        Ok(FrozenVit { vision, config })
    }

    /// `pixels [B, 3, H, W] -> [B, 1 + H/patch · W/patch, width]`; positions are interpolated (bicubic, corners
    /// aligned) where the size is not the native one.
    pub fn features(&self, pixels: &Tensor) -> Tensor {
        tch::no_grad(|| self.vision.forward(pixels))
    }

    /// The position embedding for images of `side`: `[1 + patches, width]`.
    pub fn position(&self, side: i64) -> Tensor {
        let grid = side / self.config.patch_size;
        self.vision.position(grid, grid).squeeze_dim(0)
    }

    /// Of a token.
    pub fn width(&self) -> i64 {
        self.config.hidden_size
    }

    /// Side of the images that it was trained on.
    pub fn image_size(&self) -> i64 {
        self.config.image_size
    }
}

/// Any spelling of an image tower's tensor -> Hugging Face's, without `vision_model.`; other names are left as they are.
fn canonical(name: &str) -> String {
    if let Some(own) = name.strip_prefix("vision_model.") {
        return own.to_string();
    }
    let name = name.strip_prefix("visual.").unwrap_or(name);
    let rename = |name: String, (from, to): &(&str, &str)| match from.starts_with('.') {
        true => name.replace(from, to),
        false => name.strip_prefix(from).map_or(name.clone(), |rest| format!("{to}{rest}")),
    };
    OPENAI_NAMES.iter().fold(name.to_string(), rename)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openai_names_become_hugging_faces() {
        for (name, expected) in [
            ("conv1.weight", "embeddings.patch_embedding.weight"),
            ("visual.positional_embedding", "embeddings.position_embedding.weight"),
            ("ln_pre.bias", "pre_layrnorm.bias"),
            ("transformer.resblocks.3.attn.in_proj_weight", "encoder.layers.3.self_attn.qkv.weight"),
            ("transformer.resblocks.3.attn.out_proj.bias", "encoder.layers.3.self_attn.out_proj.bias"),
            ("transformer.resblocks.0.mlp.c_proj.weight", "encoder.layers.0.mlp.fc2.weight"),
            ("vision_model.encoder.layers.0.mlp.fc2.weight", "encoder.layers.0.mlp.fc2.weight"),
            ("text_model.final_layer_norm.bias", "text_model.final_layer_norm.bias"),
        ] {
            assert_eq!(canonical(name), expected);
        }
    }
}
