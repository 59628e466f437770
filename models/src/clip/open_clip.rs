//! `open_clip_config.json`, of the folders that open_clip pushes to a hub (`factory.py` and `model.py` of open_clip).
//!
//! CLIP's own two towers alone are known: every field of another architecture (`timm_model_name`, `hf_model_name`,
//! attentional pooling, ...) is refused by name.

use std::path::Path;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::config::{ClipConfig, ClipTextConfig, ClipVisionConfig, LEGACY_EOS};
use crate::config::read_config;
use crate::layers::Activation;
use crate::weights::WeightsError;

/// The config's name.
pub(crate) const CONFIG_FILE: &str = "open_clip_config.json";
/// The name of the weights beside it.
pub(crate) const WEIGHTS_FILE: &str = "open_clip_model.safetensors";
/// Of `torch.nn.LayerNorm`.
const LAYER_NORM_EPS: f64 = 1e-5;

#[derive(Deserialize)]
struct File {
    model_cfg: Model,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Model {
    embed_dim: i64,
    vision_cfg: Vision,
    text_cfg: Text,
    #[serde(default)]
    quick_gelu: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Vision {
    image_size: i64,
    layers: usize,
    width: i64,
    patch_size: i64,
    #[serde(default = "head_width")]
    head_width: i64,
    #[serde(default = "mlp_ratio")]
    mlp_ratio: f64,
    #[serde(rename = "pool_type")]
    _pool_type: Option<ImagePool>,
    #[serde(rename = "patch_dropout")]
    _patch_dropout: Option<IgnoredAny>, // in training only
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    context_length: i64,
    vocab_size: i64,
    width: i64,
    heads: i64,
    layers: usize,
    #[serde(default = "mlp_ratio")]
    mlp_ratio: f64,
    #[serde(rename = "pool_type")]
    _pool_type: Option<TextPool>,
    #[serde(rename = "hf_tokenizer_name")]
    _tokenizer: Option<IgnoredAny>,
    #[serde(rename = "tokenizer_kwargs")]
    _tokenizer_options: Option<IgnoredAny>,
}

/// An image is its class token.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum ImagePool {
    Tok,
}

/// A text is its token with the highest id.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum TextPool {
    Argmax,
}

fn head_width() -> i64 {
    64
}

fn mlp_ratio() -> f64 {
    4.0
}

/// Reads the file at `path`.
pub(crate) fn read(path: &Path) -> Result<ClipConfig, WeightsError> {
    let Model { embed_dim, vision_cfg: vision, text_cfg: text, quick_gelu } = read_config::<File>(path)?.model_cfg;
    let hidden_act = if quick_gelu { Activation::QuickGelu } else { Activation::Gelu };
    let inner = |width: i64, ratio: f64| (width as f64 * ratio) as i64;
    Ok(ClipConfig {
        text_config: ClipTextConfig {
            vocab_size: text.vocab_size,
            hidden_size: text.width,
            intermediate_size: inner(text.width, text.mlp_ratio),
            num_hidden_layers: text.layers,
            num_attention_heads: text.heads,
            max_position_embeddings: text.context_length,
            hidden_act,
            layer_norm_eps: LAYER_NORM_EPS,
            eos_token_id: LEGACY_EOS, // the highest id, as `pool_type` says
        },
        vision_config: ClipVisionConfig {
            hidden_size: vision.width,
            intermediate_size: inner(vision.width, vision.mlp_ratio),
            num_hidden_layers: vision.layers,
            num_attention_heads: vision.width / vision.head_width.max(1),
            image_size: vision.image_size,
            patch_size: vision.patch_size,
            hidden_act,
            layer_norm_eps: LAYER_NORM_EPS,
        },
        projection_dim: embed_dim,
    })
}
