//! Pixels to tokens: patch convolution, class token, position embedding, and the interpolation of the latter.

use tch::{Kind, Tensor};

use crate::weights::{Scope, WeightsError};

/// A vision transformer's first stage: `pixels [B, 3, H, W] -> [B, 1 + patches, width]`.
pub struct PatchEmbedding {
    convolution: Tensor,
    bias: Option<Tensor>,
    /// `[1, 1, width]`
    class: Tensor,
    /// `[1, 1 + grid², width]`
    position: Tensor,
    patch: i64,
    grid: i64,
    align_corners: bool,
}

/// How a checkpoint stores the stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatchTensors {
    /// No bias; class token `[width]`, positions `[tokens, width]` (CLIP).
    Clip,
    /// The convolution has a bias; class token and positions carry leading dimensions of one (BLIP, EVA).
    Blip,
}

/// The stage's sizes, and how it is stored and stretched.
#[derive(Debug, Clone, Copy)]
pub struct PatchLayout {
    /// Square images of this side.
    pub image_size: i64,
    /// Square patches of this side.
    pub patch_size: i64,
    /// Of a token.
    pub width: i64,
    /// How it is stored.
    pub tensors: PatchTensors,
    /// How positions are interpolated for other image sizes: true for CLIP in LAVIS, false for EVA and in Hugging Face.
    pub align_corners: bool,
}

impl PatchEmbedding {
    /// Takes `class_embedding`, `patch_embedding` and `position_embedding` from `scope`.
    pub fn load(scope: &Scope, layout: &PatchLayout) -> Result<Self, WeightsError> {
        let PatchLayout { image_size, patch_size: patch, width, tensors, align_corners } = *layout;
        let grid = image_size / patch;
        let positions = grid * grid + 1;
        let convolution = scope.tensor("patch_embedding.weight", &[width, 3, patch, patch])?;
        let (bias, class, position) = match tensors {
            PatchTensors::Blip => (
                Some(scope.tensor("patch_embedding.bias", &[width])?),
                scope.tensor("class_embedding", &[1, 1, width])?,
                scope.tensor("position_embedding", &[1, positions, width])?,
            ),
            PatchTensors::Clip => (
                None,
                scope.tensor("class_embedding", &[width])?.view([1, 1, width]),
                scope.tensor("position_embedding.weight", &[positions, width])?.unsqueeze(0),
            ),
        };
        Ok(PatchEmbedding { convolution, bias, class, position, patch, grid, align_corners })
    }

    /// `[B, 3, H, W] -> [B, 1 + H/patch · W/patch, width]`
    pub fn forward(&self, pixels: &Tensor) -> Tensor {
        let map = self.convolve(pixels);
        let (batch, width, rows, columns) = map.size4().expect("[B, width, rows, columns]");
        let class = self.class.expand([batch, 1, width], false);
        Tensor::cat(&[class, flat(&map)], 1) + self.position(rows, columns)
    }

    /// `[B, 3, H, W] -> [B, H/patch · W/patch, width]`: the patches alone, without positions.
    pub fn patches(&self, pixels: &Tensor) -> Tensor {
        flat(&self.convolve(pixels))
    }

    /// `[B, 3, H, W] -> [B, width, H/patch, W/patch]`
    fn convolve(&self, pixels: &Tensor) -> Tensor {
        let pixels = pixels.to_device(self.convolution.device()).to_kind(self.convolution.kind());
        let stride = [self.patch, self.patch];
        pixels.conv2d(&self.convolution, self.bias.as_ref(), stride, [0, 0], [1, 1], 1)
    }

    /// The position embedding for a grid of `rows × columns` patches, if it is not the native one then interpolated
    /// (bicubic, in fp32): `[1, 1 + patches, width]`.
    pub fn position(&self, rows: i64, columns: i64) -> Tensor {
        if (rows, columns) == (self.grid, self.grid) {
            return self.position.shallow_clone();
        }
        let width = self.position.size()[2];
        let class = self.position.narrow(1, 0, 1);
        let patches = self.position.narrow(1, 1, self.grid * self.grid);
        let map = patches.view([1, self.grid, self.grid, width]).permute([0, 3, 1, 2]).to_kind(Kind::Float);
        let map = map.upsample_bicubic2d([rows, columns], self.align_corners, None, None).to_kind(class.kind());
        Tensor::cat(&[class, map.permute([0, 2, 3, 1]).reshape([1, rows * columns, width])], 1)
    }
}

/// `[B, width, rows, columns] -> [B, rows · columns, width]`
fn flat(map: &Tensor) -> Tensor {
    map.flatten(2, 3).transpose(1, 2)
}
