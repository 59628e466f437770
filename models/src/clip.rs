//! CLIP: image and text towers with a shared embedding space (arXiv 2103.00020).
//!
//! Reproduces Hugging Face `CLIPModel` (transformers 5.17), whose weights and `config.json` it reads.

use std::path::Path;

use serde::Deserialize;
use tch::{Device, Kind, Tensor};

use crate::layers::{Activation, Embedding, LayerNorm, Linear, Mask, causal_padding_mask};
use crate::patches::{PatchEmbedding, PatchLayout};
use crate::pre_norm::{BlockShape, PreNormBlock};
use crate::weights::{Scope, Weights, WeightsError, parameter_count, read_json};

/// `config.json`; absent fields have Hugging Face's defaults.
#[derive(Debug, Clone, Deserialize)]
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
#[derive(Debug, Clone, Deserialize)]
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
#[derive(Debug, Clone, Deserialize)]
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
const LEGACY_EOS: i64 = 2;

/// `CLIPTextTransformer`.
pub struct ClipText {
    token_embedding: Embedding,
    position_embedding: Embedding,
    layers: Vec<PreNormBlock>,
    final_layer_norm: LayerNorm,
    eos: i64,
}

impl ClipText {
    fn load(scope: &Scope, config: &ClipTextConfig) -> Result<Self, WeightsError> {
        let width = config.hidden_size;
        let shape = BlockShape {
            width,
            inner: config.intermediate_size,
            heads: config.num_attention_heads,
            activation: config.hidden_act,
            eps: config.layer_norm_eps,
        };
        let embeddings = scope.sub("embeddings");
        let positions = config.max_position_embeddings;
        Ok(ClipText {
            token_embedding: Embedding::load(&embeddings.sub("token_embedding"), config.vocab_size, width)?,
            position_embedding: Embedding::load(&embeddings.sub("position_embedding"), positions, width)?,
            layers: PreNormBlock::load_stack(&scope.sub("encoder"), config.num_hidden_layers, &shape)?,
            final_layer_norm: LayerNorm::load(&scope.sub("final_layer_norm"), width, config.layer_norm_eps)?,
            eos: config.eos_token_id,
        })
    }

    /// `ids` and `mask` `[T, L]` -> the state at each text's end, `[T, W]`.
    fn pooled(&self, ids: &Tensor, mask: &Tensor) -> Tensor {
        let length = ids.size()[1];
        let visible = causal_padding_mask(mask);
        let embedded = self.token_embedding.forward(ids) + self.position_embedding.weight.narrow(0, 0, length);
        let last = self.layers.iter().fold(embedded, |x, layer| layer.forward(&x, Mask::Given(&visible)));
        let end = match self.eos {
            LEGACY_EOS => ids.argmax(-1, true),
            eos => ids.eq(eos).to_kind(Kind::Int).argmax(-1, true), // the first
        };
        let width = last.size()[2];
        let end = end.unsqueeze(-1).expand([-1, 1, width], false);
        self.final_layer_norm.forward(&last.gather(1, &end, false).squeeze_dim(1))
    }
}

/// `CLIPVisionTransformer`, cut after any block.
pub struct ClipVision {
    embeddings: PatchEmbedding,
    pre_layrnorm: LayerNorm,
    layers: Vec<PreNormBlock>,
}

impl ClipVision {
    /// Takes the first `depth` blocks from `scope`; `align_corners` says how positions are interpolated for images of another size.
    pub fn load(
        scope: &Scope,
        config: &ClipVisionConfig,
        depth: usize,
        align_corners: bool,
    ) -> Result<Self, WeightsError> {
        let width = config.hidden_size;
        let layout = PatchLayout {
            image_size: config.image_size,
            patch_size: config.patch_size,
            width,
            blip: false,
            align_corners,
        };
        let shape = BlockShape {
            width,
            inner: config.intermediate_size,
            heads: config.num_attention_heads,
            activation: config.hidden_act,
            eps: config.layer_norm_eps,
        };
        Ok(ClipVision {
            embeddings: PatchEmbedding::load(&scope.sub("embeddings"), &layout)?,
            // Hugging Face's spelling
            pre_layrnorm: LayerNorm::load(&scope.sub("pre_layrnorm"), width, config.layer_norm_eps)?,
            layers: PreNormBlock::load_stack(&scope.sub("encoder"), depth, &shape)?,
        })
    }

    /// `pixels [B, 3, H, W] -> [B, N, D]`: all tokens after the last block that was loaded.
    pub fn forward(&self, pixels: &Tensor) -> Tensor {
        let embedded = self.pre_layrnorm.forward(&self.embeddings.forward(pixels));
        self.layers.iter().fold(embedded, |x, layer| layer.forward(&x, Mask::None))
    }

    /// The position embedding for another grid: `[1, 1 + rows · columns, D]`.
    pub fn position(&self, rows: i64, columns: i64) -> Tensor {
        self.embeddings.position(rows, columns)
    }
}

/// An image tower with the layer norm that reads the class token.
pub struct ClipImage {
    /// All blocks.
    pub vision: ClipVision,
    post_layernorm: LayerNorm,
}

impl ClipImage {
    /// Takes `vision_model` from `scope`.
    pub fn load(scope: &Scope, config: &ClipVisionConfig) -> Result<Self, WeightsError> {
        Ok(ClipImage {
            vision: ClipVision::load(scope, config, config.num_hidden_layers, false)?,
            post_layernorm: LayerNorm::load(&scope.sub("post_layernorm"), config.hidden_size, config.layer_norm_eps)?,
        })
    }

    /// States `[B, N, D]` after the last block -> `[B, D]`.
    pub fn pooled(&self, states: &Tensor) -> Tensor {
        self.post_layernorm.forward(&states.select(1, 0))
    }
}

/// The ranker. It is frozen: nothing here records gradients.
pub struct Clip {
    /// As read.
    pub config: ClipConfig,
    text_model: ClipText,
    vision_model: ClipImage,
    text_projection: Linear,
    visual_projection: Linear,
}

impl Clip {
    /// Reads `config.json` and the weights of a Hugging Face folder.
    pub fn load(folder: &Path, device: Device, kind: Kind) -> Result<Self, WeightsError> {
        let config = read_json(&folder.join("config.json"))?;
        Clip::from_weights(&Weights::open(folder, device, kind)?, config)
    }

    /// Takes the model out of `weights`, all of which must be used.
    pub fn from_weights(weights: &Weights, config: ClipConfig) -> Result<Self, WeightsError> {
        let model = Clip::from_scope(&weights.root(), config)?;
        weights.finish()?;
        Ok(model)
    }

    /// Takes the model out of `scope`.
    pub fn from_scope(scope: &Scope, config: ClipConfig) -> Result<Self, WeightsError> {
        let (text, vision, shared) = (&config.text_config, &config.vision_config, config.projection_dim);
        let text_model = ClipText::load(&scope.sub("text_model"), text)?;
        let vision_model = ClipImage::load(&scope.sub("vision_model"), vision)?;
        let text_projection = Linear::load_without_bias(&scope.sub("text_projection"), text.hidden_size, shared)?;
        let visual_projection = Linear::load_without_bias(&scope.sub("visual_projection"), vision.hidden_size, shared)?;
        let _ = scope.tensor("logit_scale", &[])?; // scales all similarities alike: no rank depends on it
        Ok(Clip { config, text_model, vision_model, text_projection, visual_projection })
    }

    /// Parameters of a model of `config`.
    pub fn parameter_count(config: &ClipConfig) -> Result<i64, WeightsError> {
        parameter_count(|scope| Clip::from_scope(scope, config.clone()))
    }

    /// `pixels [B, 3, S, S] -> [B, E]`, not normalised.
    pub fn image_embeds(&self, pixels: &Tensor) -> Tensor {
        tch::no_grad(|| {
            let states = self.vision_model.vision.forward(pixels);
            self.visual_projection.forward(&self.vision_model.pooled(&states))
        })
    }

    /// `ids` and `mask` `[T, L]` -> `[T, E]`, not normalised.
    pub fn text_embeds(&self, ids: &Tensor, mask: &Tensor) -> Tensor {
        tch::no_grad(|| self.text_projection.forward(&self.text_model.pooled(ids, mask)))
    }
}

/// Cosine similarities of two sets of embeddings, `[A, E]` and `[B, E] -> [A, B]`, in fp32.
pub fn cosine(a: &Tensor, b: &Tensor) -> Tensor {
    unit(a).matmul(&unit(b).transpose(0, 1))
}

/// Embeddings `[.., E]` at length one, in fp32.
pub fn unit(embeds: &Tensor) -> Tensor {
    let embeds = embeds.to_kind(Kind::Float);
    let norm = embeds.norm_scalaropt_dim(2, [-1i64], true);
    embeds / norm
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `CLIPConfig(projection_dim=768, text_config=dict(hidden_size=768, intermediate_size=3072, num_attention_heads=12),
    /// vision_config=dict(hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, patch_size=14))`
    /// on the meta device: `sum(p.numel() for p in CLIPModel(config).parameters())` (transformers 5.17).
    #[test]
    fn clip_large_has_as_many_parameters_as_in_transformers() {
        let text_config = ClipTextConfig {
            hidden_size: 768,
            intermediate_size: 3072,
            num_attention_heads: 12,
            ..ClipTextConfig::default()
        };
        let vision_config = ClipVisionConfig {
            hidden_size: 1024,
            intermediate_size: 4096,
            num_hidden_layers: 24,
            num_attention_heads: 16,
            patch_size: 14,
            ..ClipVisionConfig::default()
        };
        let config = ClipConfig { text_config, vision_config, projection_dim: 768 };
        assert_eq!(Clip::parameter_count(&config).unwrap(), 427_616_513);
    }
}
