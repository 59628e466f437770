//! EVA-CLIP's image tower, BLIP-2's ViT-g/14 (arXiv 2211.07636), without the last block, final norm, pooling and head.
//!
//! Reproduces LAVIS `eva_vit.py` as `create_eva_vit_g` builds it: 39 of the 40 blocks; queries and values have a bias
//! and keys have none; exact GELU; layer norms with eps 1e-6. Read from two layouts:
//! - LAVIS' own (`eva_vit_g.pth`: `blocks.N.attn.q_bias`, ...), where block 40, `norm.*` and `head.*` may be there and
//!   are left out;
//! - Hugging Face's `Blip2VisionModel`, the `vision_model` of every `Salesforce/blip2-*`: 39 blocks, and the biases as one
//!   tensor `qkv.bias` with zeros for the keys. Its `post_layernorm` is LAVIS' trainable `ln_vision`, a part of the
//!   Q-Former's side of the model: it is not applied here.

use serde::Deserialize;

use crate::layers::Activation;
use crate::patches::{PatchLayout, PatchTensors};
use crate::pre_norm::{BlockShape, QkvTensors};
use crate::tower::TowerShape;
use crate::weights::Weights;

/// `Blip2VisionConfig`; absent fields have its defaults, which are ViT-g/14 at 224 pixels.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct EvaConfig {
    /// Of a token.
    pub hidden_size: i64,
    /// Of the MLP: LAVIS' `int(1408 · 4.3637)`.
    pub intermediate_size: i64,
    /// Blocks that are used, which is one less than EVA-CLIP was trained with.
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
    /// Whether queries and values have a bias.
    pub qkv_bias: bool,
}

impl Default for EvaConfig {
    fn default() -> Self {
        EvaConfig {
            hidden_size: 1408,
            intermediate_size: 6144,
            num_hidden_layers: 39,
            num_attention_heads: 16,
            image_size: 224,
            patch_size: 14,
            hidden_act: Activation::Gelu,
            layer_norm_eps: 1e-6,
            qkv_bias: true,
        }
    }
}

/// How a checkpoint spells the tower.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EvaLayout {
    /// `blocks.0.attn.q_bias`.
    Lavis,
    /// `encoder.layers.0.self_attn.qkv.bias`.
    HuggingFace,
}

/// The name by which [`EvaLayout::Lavis`] is known.
const LAVIS_MARK: &str = "cls_token";

impl EvaLayout {
    /// How `weights` spell the tower.
    pub(crate) fn of(weights: &Weights) -> Self {
        if weights.root().has(LAVIS_MARK) { EvaLayout::Lavis } else { EvaLayout::HuggingFace }
    }
}

impl EvaConfig {
    /// The tower, as a checkpoint of `layout` stores it.
    pub fn tower(&self, layout: EvaLayout) -> TowerShape {
        let qkv = match (self.qkv_bias, layout) {
            (false, _) => QkvTensors::FusedWithoutBias,
            (true, EvaLayout::Lavis) => QkvTensors::FusedWithoutKeyBias,
            (true, EvaLayout::HuggingFace) => QkvTensors::Fused,
        };
        TowerShape {
            patches: PatchLayout {
                image_size: self.image_size,
                patch_size: self.patch_size,
                width: self.hidden_size,
                tensors: PatchTensors::Blip,
                align_corners: false,
            },
            block: BlockShape {
                width: self.hidden_size,
                inner: self.intermediate_size,
                heads: self.num_attention_heads,
                activation: self.hidden_act,
                eps: self.layer_norm_eps,
                qkv,
            },
            depth: self.num_hidden_layers,
            norm_first: false,
        }
    }

    /// The name of `name`, a tensor of a checkpoint of `layout`, in Hugging Face's tower; `None` for what is left out:
    /// the last block of a complete checkpoint, what follows it, and in Hugging Face's layout the other models.
    pub(crate) fn canonical(&self, name: &str, layout: EvaLayout) -> Option<String> {
        match layout {
            EvaLayout::Lavis if name.starts_with(&format!("blocks.{}.", self.num_hidden_layers)) => None,
            EvaLayout::Lavis => from_lavis(name),
            EvaLayout::HuggingFace => from_hugging_face(name),
        }
    }
}

/// LAVIS' names of a block's parts -> Hugging Face's.
const BLOCK_NAMES: [(&str, &str); 5] = [
    ("norm1.", "layer_norm1."),
    ("norm2.", "layer_norm2."),
    ("attn.proj.", "self_attn.projection."),
    ("attn.", "self_attn."),
    ("mlp.", "mlp."),
];

/// The same for what stands before the blocks.
const FIRST_NAMES: [(&str, &str); 3] = [
    (LAVIS_MARK, "embeddings.class_embedding"),
    ("pos_embed", "embeddings.position_embedding"),
    ("patch_embed.proj.", "embeddings.patch_embedding."),
];

fn from_lavis(name: &str) -> Option<String> {
    if name.starts_with("norm.") || name.starts_with("head.") {
        return None;
    }
    let translated = |names: &[(&str, &str)], name: &str| {
        names.iter().find_map(|(theirs, ours)| Some(format!("{ours}{}", name.strip_prefix(theirs)?)))
    };
    let block = name.strip_prefix("blocks.").and_then(|rest| rest.split_once('.'));
    let ours = match block {
        Some((index, rest)) => translated(&BLOCK_NAMES, rest).map(|rest| format!("encoder.layers.{index}.{rest}")),
        None => translated(&FIRST_NAMES, name),
    };
    Some(ours.unwrap_or_else(|| name.to_owned())) // an unknown name is reported as it stands
}

fn from_hugging_face(name: &str) -> Option<String> {
    let own = name.strip_prefix("vision_model.");
    let other = own.is_none() && OTHER_MODELS.iter().any(|part| name.starts_with(part));
    let name = own.unwrap_or(name);
    (!other && !name.starts_with("post_layernorm.")).then(|| name.to_owned())
}

/// What a `blip2-*` checkpoint holds beside the tower.
const OTHER_MODELS: [&str; 9] = [
    "query_tokens",
    "qformer.",
    "language_projection.",
    "language_model.",
    "embeddings.word_embeddings.",
    "embeddings.position_embeddings.",
    "vision_projection.",
    "text_projection.",
    "itm_head.",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn lavis(name: &str) -> Option<String> {
        EvaConfig { num_hidden_layers: 3, ..EvaConfig::default() }.canonical(name, EvaLayout::Lavis)
    }

    #[test]
    fn lavis_names_become_hugging_faces() {
        for (name, expected) in [
            ("cls_token", "embeddings.class_embedding"),
            ("pos_embed", "embeddings.position_embedding"),
            ("patch_embed.proj.bias", "embeddings.patch_embedding.bias"),
            ("blocks.2.norm1.weight", "encoder.layers.2.layer_norm1.weight"),
            ("blocks.2.attn.qkv.weight", "encoder.layers.2.self_attn.qkv.weight"),
            ("blocks.2.attn.q_bias", "encoder.layers.2.self_attn.q_bias"),
            ("blocks.2.attn.proj.bias", "encoder.layers.2.self_attn.projection.bias"),
            ("blocks.0.mlp.fc2.bias", "encoder.layers.0.mlp.fc2.bias"),
        ] {
            assert_eq!(lavis(name).as_deref(), Some(expected));
        }
    }

    #[test]
    fn just_the_last_block_and_what_follows_it_is_left_out() {
        for name in ["blocks.3.norm1.weight", "norm.weight", "head.bias"] {
            assert_eq!(lavis(name), None, "{name}");
        }
        for name in ["blocks.4.norm1.weight", "blocks.0.gamma_1", "rel_pos_bias.table", "fc_norm.weight"] {
            assert!(lavis(name).is_some(), "{name} must stay, to be refused by name");
        }
    }
}
