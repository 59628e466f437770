//! The spellings of CLIP's tensors, all mapped to Hugging Face's here and nowhere else.

use crate::layers::Linear;
use crate::pre_norm::QkvTensors;
use crate::weights::{Scope, Weights, WeightsError};

/// How a checkpoint spells CLIP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClipLayout {
    /// `text_model.*` and `vision_model.*`, or the parts of the latter alone.
    HuggingFace,
    /// `visual.*`, and the text tower at the root if there is one: OpenAI, open_clip.
    OpenAi,
    /// OpenAI's image tower alone, at the root: LAVIS.
    OpenAiVision,
}

/// OpenAI's names in an image tower -> Hugging Face's; those that end in a dot are prefixes.
pub(super) const VISION_NAMES: [(&str, &str); 7] = [
    ("conv1.", "vision_model.embeddings.patch_embedding."),
    ("class_embedding", "vision_model.embeddings.class_embedding"),
    ("positional_embedding", "vision_model.embeddings.position_embedding.weight"),
    ("ln_pre.", "vision_model.pre_layrnorm."),
    ("transformer.resblocks.", "vision_model.encoder.layers."),
    ("ln_post.", "vision_model.post_layernorm."),
    ("proj", "visual_projection.transposed"),
];

/// The same of a text tower.
pub(super) const TEXT_NAMES: [(&str, &str); 5] = [
    ("token_embedding.", "text_model.embeddings.token_embedding."),
    ("positional_embedding", "text_model.embeddings.position_embedding.weight"),
    ("transformer.resblocks.", "text_model.encoder.layers."),
    ("ln_final.", "text_model.final_layer_norm."),
    ("text_projection", "text_projection.transposed"),
];

/// The same of a block's parts.
pub(super) const BLOCK_NAMES: [(&str, &str); 6] = [
    (".ln_1.", ".layer_norm1."),
    (".ln_2.", ".layer_norm2."),
    (".attn.in_proj_", ".self_attn.qkv."),
    (".attn.out_proj.", ".self_attn.projection."),
    (".mlp.c_fc.", ".mlp.fc1."),
    (".mlp.c_proj.", ".mlp.fc2."),
];

/// What begins the names of an image tower that Hugging Face saved alone.
const VISION_PARTS: [&str; 4] = ["embeddings.", "pre_layrnorm.", "encoder.", "post_layernorm."];

impl ClipLayout {
    /// How `weights` spell CLIP.
    pub fn of(weights: &Weights) -> Self {
        let root = weights.root();
        match (root.has("visual.conv1.weight"), root.has("conv1.weight")) {
            (true, _) => ClipLayout::OpenAi,
            (false, true) => ClipLayout::OpenAiVision,
            (false, false) => ClipLayout::HuggingFace,
        }
    }

    /// Hugging Face's name of `name`, a tensor of a checkpoint of this layout; an unknown name stays as it is.
    pub fn canonical(self, name: &str) -> String {
        let ours = match (self, name.strip_prefix("visual.")) {
            (ClipLayout::HuggingFace, _) => {
                VISION_PARTS.iter().any(|part| name.starts_with(part)).then(|| format!("vision_model.{name}"))
            }
            (ClipLayout::OpenAi, Some(own)) => translated(own, &VISION_NAMES),
            (ClipLayout::OpenAi, None) => translated(name, &TEXT_NAMES),
            (ClipLayout::OpenAiVision, _) => translated(name, &VISION_NAMES),
        };
        ours.unwrap_or_else(|| name.to_owned())
    }

    /// How its blocks store queries, keys and values.
    pub fn qkv(self) -> QkvTensors {
        match self {
            ClipLayout::HuggingFace => QkvTensors::Apart,
            ClipLayout::OpenAi | ClipLayout::OpenAiVision => QkvTensors::Fused,
        }
    }
}

/// A projection to the shared space: Hugging Face stores it as a layer without bias, OpenAI as its transpose.
pub(super) fn load_projection(scope: &Scope, inputs: i64, outputs: i64) -> Result<Linear, WeightsError> {
    if !scope.has("transposed") {
        return Linear::load_without_bias(scope, inputs, outputs);
    }
    let weight = scope.tensor("transposed", &[inputs, outputs])?.transpose(0, 1).contiguous();
    Ok(Linear { weight, bias: None })
}

fn translated(name: &str, names: &[(&str, &str)]) -> Option<String> {
    let (rest, ours) = names.iter().find_map(|(theirs, ours)| {
        let rest = name.strip_prefix(theirs)?;
        (theirs.ends_with('.') || rest.is_empty()).then_some((rest, ours))
    })?;
    let whole = format!("{ours}{rest}");
    Some(BLOCK_NAMES.iter().fold(whole, |name, (theirs, ours)| name.replace(theirs, ours)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openais_names_become_hugging_faces() {
        for (name, expected) in [
            ("visual.conv1.weight", "vision_model.embeddings.patch_embedding.weight"),
            ("visual.positional_embedding", "vision_model.embeddings.position_embedding.weight"),
            ("visual.ln_pre.bias", "vision_model.pre_layrnorm.bias"),
            (
                "visual.transformer.resblocks.3.attn.in_proj_weight",
                "vision_model.encoder.layers.3.self_attn.qkv.weight",
            ),
            ("visual.proj", "visual_projection.transposed"),
            ("positional_embedding", "text_model.embeddings.position_embedding.weight"),
            ("token_embedding.weight", "text_model.embeddings.token_embedding.weight"),
            ("transformer.resblocks.3.attn.out_proj.bias", "text_model.encoder.layers.3.self_attn.projection.bias"),
            ("transformer.resblocks.0.mlp.c_proj.weight", "text_model.encoder.layers.0.mlp.fc2.weight"),
            ("ln_final.bias", "text_model.final_layer_norm.bias"),
            ("text_projection", "text_projection.transposed"),
            ("logit_scale", "logit_scale"),
            ("unheard_of", "unheard_of"),
        ] {
            assert_eq!(ClipLayout::OpenAi.canonical(name), expected);
        }
    }

    #[test]
    fn a_bare_tower_is_the_image_tower() {
        for (layout, name, expected) in [
            (ClipLayout::OpenAiVision, "positional_embedding", "vision_model.embeddings.position_embedding.weight"),
            (
                ClipLayout::OpenAiVision,
                "transformer.resblocks.0.ln_1.bias",
                "vision_model.encoder.layers.0.layer_norm1.bias",
            ),
            (
                ClipLayout::HuggingFace,
                "encoder.layers.0.mlp.fc2.weight",
                "vision_model.encoder.layers.0.mlp.fc2.weight",
            ),
            (ClipLayout::HuggingFace, "text_model.final_layer_norm.bias", "text_model.final_layer_norm.bias"),
        ] {
            assert_eq!(layout.canonical(name), expected);
        }
    }
}
