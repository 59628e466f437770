//! `open_clip_config.json`, of the folders that open_clip pushes to a hub (`factory.py` and `model.py` of open_clip).
//!
//! CLIP's own two towers alone are known: every field of another architecture (`timm_model_name`, `hf_model_name`,
//! attentional pooling, ...) is refused by name.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::config::{ClipConfig, ClipTextConfig, ClipVisionConfig, LEGACY_EOS};
use crate::config::{config_error, read_config};
use crate::layers::Activation;
use crate::preprocessor::{CLIP_MEAN, CLIP_STD, PreprocessorConfig, Resize};
use crate::weights::WeightsError;

/// The config's name.
pub(crate) const CONFIG_FILE: &str = "open_clip_config.json";
/// The names of the weights beside it, in the order of preference. Such a folder may hold other weights, timm's.
const WEIGHTS_FILES: [&str; 2] = ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"];
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

/// `PreprocessCfg`; absent fields have open_clip's defaults.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Preprocess {
    size: Option<Size>,
    mean: [f32; 3],
    std: [f32; 3],
    resize_mode: ResizeMode,
    #[serde(rename = "mode")]
    _mode: Mode,
    #[serde(rename = "interpolation")]
    _interpolation: Interpolation,
    #[serde(rename = "fill_color")]
    _fill_color: Option<IgnoredAny>, // where an image is padded
}

impl Default for Preprocess {
    fn default() -> Self {
        Preprocess {
            size: None,
            mean: CLIP_MEAN,
            std: CLIP_STD,
            resize_mode: ResizeMode::Shortest,
            _mode: Mode::Rgb,
            _interpolation: Interpolation::Bicubic,
            _fill_color: None,
        }
    }
}

#[derive(Deserialize, Clone, Copy)]
#[serde(untagged)]
enum Size {
    Side(u32),
    Sides([u32; 2]),
    Shape([u32; 3]),
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum ResizeMode {
    Shortest,
    Squash,
}

#[derive(Deserialize)]
enum Mode {
    #[serde(rename = "RGB")]
    Rgb,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Interpolation {
    Bicubic,
}

#[derive(Deserialize)]
struct PreprocessFile {
    model_cfg: PreprocessedModel,
    #[serde(default)]
    preprocess_cfg: Preprocess,
}

#[derive(Deserialize)]
struct PreprocessedModel {
    vision_cfg: PreprocessedVision,
}

#[derive(Deserialize)]
struct PreprocessedVision {
    image_size: Size,
}

/// Reads how images are prepared, from the same file.
pub(crate) fn read_preprocessing(path: &Path) -> Result<PreprocessorConfig, WeightsError> {
    let PreprocessFile { model_cfg, preprocess_cfg } = read_config(path)?;
    let Preprocess { size, mean, std, resize_mode, .. } = preprocess_cfg;
    let (width, height) = match size.unwrap_or(model_cfg.vision_cfg.image_size) {
        Size::Side(side) => (side, side),
        Size::Sides([height, width]) | Size::Shape([_, height, width]) => (width, height),
    };
    let resize = match resize_mode {
        ResizeMode::Squash => Resize::Squash { width, height },
        ResizeMode::Shortest if width == height => Resize::ShortestSide { size: width, crop: width },
        ResizeMode::Shortest => {
            let reason = format!("preprocess_cfg.size should be a square, found {width} by {height}");
            return Err(config_error(path, &reason));
        }
    };
    Ok(PreprocessorConfig { mean, std, resize })
}

/// The weights of `folder`.
pub(crate) fn weights(folder: &Path) -> PathBuf {
    let [preferred, other] = WEIGHTS_FILES.map(|name| folder.join(name));
    if !preferred.is_file() && other.is_file() { other } else { preferred }
}

/// Reads the model's config at `path`.
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
