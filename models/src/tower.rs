//! A vision transformer's body, which CLIP, EVA and BLIP share: patches, perhaps a layer norm, pre-norm blocks.

use std::path::Path;

use tch::Tensor;

use crate::config::{check_heads, config_error};
use crate::layers::{LayerNorm, Mask};
use crate::patches::{PatchEmbedding, PatchLayout};
use crate::pre_norm::{BlockShape, PreNormBlock};
use crate::weights::{Scope, WeightsError};

/// What a tower is made of; its `layers` may be fewer than its checkpoint's.
#[derive(Debug, Clone, Copy)]
pub struct TowerShape {
    /// The first stage.
    pub patches: PatchLayout,
    /// Of every block.
    pub block: BlockShape,
    /// Blocks.
    pub depth: usize,
    /// Whether a layer norm (`pre_layrnorm`, in Hugging Face's spelling) stands before the first block, as in CLIP.
    pub norm_first: bool,
}

impl TowerShape {
    /// Errs where the sizes in `section` of the config at `path` don't fit each other.
    pub(crate) fn check(&self, path: &Path, section: &str) -> Result<(), WeightsError> {
        check_heads(path, section, self.block.width, self.block.heads)?;
        let (image, patch) = (self.patches.image_size, self.patches.patch_size);
        if patch > 0 && image >= patch {
            return Ok(());
        }
        Err(config_error(path, &format!("{section}.image_size should hold a patch of {patch} pixels, found {image}")))
    }
}

/// Pixels to tokens.
pub struct Tower {
    embeddings: PatchEmbedding,
    pre_layrnorm: Option<LayerNorm>,
    layers: Vec<PreNormBlock>,
}

impl Tower {
    /// Takes `embeddings`, `pre_layrnorm` and `encoder.layers` from `scope`.
    pub fn load(scope: &Scope, shape: &TowerShape) -> Result<Self, WeightsError> {
        let norm = || LayerNorm::load(&scope.sub("pre_layrnorm"), shape.block.width, shape.block.eps);
        Ok(Tower {
            embeddings: PatchEmbedding::load(&scope.sub("embeddings"), &shape.patches)?,
            pre_layrnorm: shape.norm_first.then(norm).transpose()?,
            layers: PreNormBlock::load_stack(&scope.sub("encoder"), shape.depth, &shape.block)?,
        })
    }

    /// `pixels [B, 3, H, W] -> [B, N, D]`: all tokens after the last block. Positions are interpolated where the size
    /// is not the native one.
    pub fn forward(&self, pixels: &Tensor) -> Tensor {
        self.layers.iter().fold(self.first(pixels), |x, layer| layer.forward(&x, Mask::None))
    }

    /// `pixels [B, 3, H, W]` -> the tokens `[B, N, D]` before the first block and after every block.
    pub fn hidden_states(&self, pixels: &Tensor) -> Vec<Tensor> {
        let mut states = vec![self.first(pixels)];
        for layer in &self.layers {
            states.push(layer.forward(&states[states.len() - 1], Mask::None));
        }
        states
    }

    /// Patches, class token and positions.
    pub fn embeddings(&self) -> &PatchEmbedding {
        &self.embeddings
    }

    fn first(&self, pixels: &Tensor) -> Tensor {
        let embedded = self.embeddings.forward(pixels);
        match &self.pre_layrnorm {
            Some(norm) => norm.forward(&embedded),
            None => embedded,
        }
    }
}
