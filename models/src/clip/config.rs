//! CLIP's config, and where a folder of either layout has it.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use super::open_clip;
use crate::config::{CONFIG_FILE, Role, check_heads};
use crate::layers::Activation;
use crate::patches::{PatchLayout, PatchTensors};
use crate::pre_norm::{BlockShape, QkvTensors};
use crate::tower::TowerShape;
use crate::weights::{WeightsError, read_json};

/// `config.json`; absent fields have Hugging Face's defaults.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct ClipConfig {
    /// The text tower's.
    pub text_config: ClipTextConfig,
    /// The image tower's.
    pub vision_config: ClipVisionConfig,
    /// Of the shared space.
    #[serde(default = "default_projection")]
    pub projection_dim: i64,
}

fn default_projection() -> i64 {
    512
}

/// `CLIPTextConfig`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct ClipTextConfig {
    /// Ids.
    pub vocab_size: i64,
    /// Of a token.
    pub hidden_size: i64,
    /// Of the MLP.
    pub intermediate_size: i64,
    /// Blocks.
    pub num_hidden_layers: usize,
    /// Heads.
    pub num_attention_heads: i64,
    /// The longest text.
    pub max_position_embeddings: i64,
    /// In the MLP.
    pub hidden_act: Activation,
    /// Of the layer norms.
    pub layer_norm_eps: f64,
    /// Where a text is read off. 2, which OpenAI's old configs say wrongly, means the highest id instead.
    pub eos_token_id: i64,
}

impl Default for ClipTextConfig {
    fn default() -> Self {
        ClipTextConfig {
            vocab_size: 49408,
            hidden_size: 512,
            intermediate_size: 2048,
            num_hidden_layers: 12,
            num_attention_heads: 8,
            max_position_embeddings: 77,
            hidden_act: Activation::QuickGelu,
            layer_norm_eps: 1e-5,
            eos_token_id: 49407,
        }
    }
}

/// `CLIPVisionConfig`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct ClipVisionConfig {
    /// Of a token.
    pub hidden_size: i64,
    /// Of the MLP.
    pub intermediate_size: i64,
    /// Blocks.
    pub num_hidden_layers: usize,
    /// Heads.
    pub num_attention_heads: i64,
    /// Side of the images.
    pub image_size: i64,
    /// Side of the patches.
    pub patch_size: i64,
    /// In the MLP.
    pub hidden_act: Activation,
    /// Of the layer norms.
    pub layer_norm_eps: f64,
}

impl Default for ClipVisionConfig {
    fn default() -> Self {
        ClipVisionConfig {
            hidden_size: 768,
            intermediate_size: 3072,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            image_size: 224,
            patch_size: 32,
            hidden_act: Activation::QuickGelu,
            layer_norm_eps: 1e-5,
        }
    }
}

/// The value with which OpenAI's first configs name the end wrongly.
pub(super) const LEGACY_EOS: i64 = 2;

impl ClipTextConfig {
    pub(super) fn block(&self, qkv: QkvTensors) -> BlockShape {
        BlockShape {
            width: self.hidden_size,
            inner: self.intermediate_size,
            heads: self.num_attention_heads,
            activation: self.hidden_act,
            eps: self.layer_norm_eps,
            qkv,
        }
    }
}

impl ClipVisionConfig {
    /// The public model of OpenAI's with tokens of `width` and patches of `patch`, at 224 pixels.
    pub(crate) fn public(width: i64, patch: i64) -> Option<Self> {
        let (num_hidden_layers, num_attention_heads) = match (width, patch) {
            (768, 32 | 16) => (12, 12),
            (1024, 14) => (24, 16),
            _ => return None,
        };
        Some(ClipVisionConfig {
            hidden_size: width,
            intermediate_size: 4 * width,
            num_hidden_layers,
            num_attention_heads,
            patch_size: patch,
            ..ClipVisionConfig::default()
        })
    }

    /// Blocks without the last.
    pub(crate) fn penultimate(&self) -> usize {
        self.num_hidden_layers.saturating_sub(1)
    }

    /// The tower cut after `depth` blocks; `align_corners` says how positions are interpolated for other image sizes.
    pub fn tower(&self, depth: usize, align_corners: bool, qkv: QkvTensors) -> TowerShape {
        TowerShape {
            patches: PatchLayout {
                image_size: self.image_size,
                patch_size: self.patch_size,
                width: self.hidden_size,
                tensors: PatchTensors::Clip,
                align_corners,
            },
            block: BlockShape {
                width: self.hidden_size,
                inner: self.intermediate_size,
                heads: self.num_attention_heads,
                activation: self.hidden_act,
                eps: self.layer_norm_eps,
                qkv,
            },
            depth,
            norm_first: true,
        }
    }
}

/// A folder's config and where its weights are.
pub(crate) struct ClipFolder {
    pub(crate) config: ClipConfig,
    pub(crate) weights: PathBuf,
}

impl ClipFolder {
    /// Whether `folder` is open_clip's rather than Hugging Face's (some hold both: then it is Hugging Face's).
    pub(crate) fn is_open_clip(folder: &Path) -> bool {
        let model_type = || read_json::<Value>(&folder.join(CONFIG_FILE)).ok()?.get("model_type").cloned();
        folder.join(open_clip::CONFIG_FILE).is_file() && model_type().is_none()
    }

    /// Reads the config of a folder in Hugging Face's or open_clip's layout.
    pub(crate) fn read(folder: &Path, role: &Role) -> Result<Self, WeightsError> {
        if Self::is_open_clip(folder) {
            let path = folder.join(open_clip::CONFIG_FILE);
            let config = open_clip::read(&path)?;
            config.check(&path)?;
            return Ok(ClipFolder { config, weights: open_clip::weights(folder) });
        }
        let config: ClipConfig = role.config(folder)?;
        config.check(&folder.join(CONFIG_FILE))?;
        Ok(ClipFolder { config, weights: folder.to_owned() })
    }
}

impl ClipConfig {
    fn check(&self, path: &Path) -> Result<(), WeightsError> {
        let text = &self.text_config;
        check_heads(path, "text_config", text.hidden_size, text.num_attention_heads)?;
        self.vision_config.check(path)
    }
}

impl ClipVisionConfig {
    pub(crate) fn check(&self, path: &Path) -> Result<(), WeightsError> {
        self.tower(self.num_hidden_layers, false, QkvTensors::Apart).check(path, "vision_config")
    }
}
