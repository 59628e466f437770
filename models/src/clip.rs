//! CLIP: image and text towers with a shared embedding space (arXiv 2103.00020).
//!
//! Reproduces Hugging Face `CLIPModel` (transformers 5.17). Reads its folders and open_clip's.

use std::path::Path;

use tch::{Device, Kind, Tensor};

use crate::config::Role;
use crate::layers::{Embedding, LayerNorm, Linear, Mask, causal_padding_mask};
use crate::pre_norm::{PreNormBlock, QkvTensors};
use crate::tower::Tower;
use crate::weights::{Scope, Weights, WeightsError};

mod config;
mod names;
pub(crate) mod open_clip;

pub(crate) use config::ClipFolder;
use config::LEGACY_EOS;
pub use config::{ClipConfig, ClipTextConfig, ClipVisionConfig};
pub use names::ClipLayout;
use names::load_projection;

/// What ranks captions.
const RANKER: Role = Role { name: "ranker", model_types: &["clip"], architectures: &["CLIPModel"] };

/// `CLIPTextTransformer`.
pub struct ClipText {
    token_embedding: Embedding,
    position_embedding: Embedding,
    layers: Vec<PreNormBlock>,
    final_layer_norm: LayerNorm,
    eos: i64,
}

impl ClipText {
    fn load(scope: &Scope, config: &ClipTextConfig, qkv: QkvTensors) -> Result<Self, WeightsError> {
        let width = config.hidden_size;
        let embeddings = scope.sub("embeddings");
        let positions = config.max_position_embeddings;
        Ok(ClipText {
            token_embedding: Embedding::load(&embeddings.sub("token_embedding"), config.vocab_size, width)?,
            position_embedding: Embedding::load(&embeddings.sub("position_embedding"), positions, width)?,
            layers: PreNormBlock::load_stack(&scope.sub("encoder"), config.num_hidden_layers, &config.block(qkv))?,
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

/// An image tower with the layer norm that reads the class token.
pub struct ClipImage {
    /// All blocks.
    pub vision: Tower,
    post_layernorm: LayerNorm,
}

impl ClipImage {
    /// Takes `vision_model` from `scope`.
    pub fn load(scope: &Scope, config: &ClipVisionConfig, qkv: QkvTensors) -> Result<Self, WeightsError> {
        Ok(ClipImage {
            vision: Tower::load(scope, &config.tower(config.num_hidden_layers, false, qkv))?,
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
    /// Reads config and weights of a Hugging Face folder, or of open_clip's.
    pub fn load(folder: &Path, device: Device, kind: Kind) -> Result<Self, WeightsError> {
        let ClipFolder { config, weights } = ClipFolder::read(folder, &RANKER)?;
        Clip::from_weights(Weights::open(&weights, device, kind)?, config)
    }

    /// Takes the model out of `weights`, in any layout; all of them must be used.
    pub fn from_weights(weights: Weights, config: ClipConfig) -> Result<Self, WeightsError> {
        let layout = ClipLayout::of(&weights);
        let weights = weights.rename(|name| Some(layout.canonical(name)))?;
        let clip = Clip::from_scope(&weights.root(), config, layout.qkv())?;
        weights.finish()?;
        Ok(clip)
    }

    /// Takes the model from `scope`, by Hugging Face's names.
    pub(crate) fn from_scope(scope: &Scope, config: ClipConfig, qkv: QkvTensors) -> Result<Self, WeightsError> {
        let (text, vision, shared) = (&config.text_config, &config.vision_config, config.projection_dim);
        let text_model = ClipText::load(&scope.sub("text_model"), text, qkv)?;
        let vision_model = ClipImage::load(&scope.sub("vision_model"), vision, qkv)?;
        let text_projection = load_projection(&scope.sub("text_projection"), text.hidden_size, shared)?;
        let visual_projection = load_projection(&scope.sub("visual_projection"), vision.hidden_size, shared)?;
        let _ = scope.tensor("logit_scale", &[])?; // scales all similarities alike: no rank depends on it
        Ok(Clip { config, text_model, vision_model, text_projection, visual_projection })
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
mod tests;
