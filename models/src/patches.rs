//! Pixels to tokens: patch convolution, class token, position embedding, and the interpolation of the latter.

use tch::Tensor;

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
pub struct PatchLayout {
    /// Square images of this side.
    pub image_size: i64,
    /// Square patches of this side.
    pub patch_size: i64,
    /// Of a token.
    pub width: i64,
    /// Whether class token and positions carry leading dimensions of one, and the convolution a bias (BLIP).
    pub blip: bool,
    /// How positions are interpolated for other image sizes: LAVIS uses true for CLIP, Hugging Face false.
    pub align_corners: bool,
}

impl PatchEmbedding {
    /// Takes `class_embedding`, `patch_embedding` and `position_embedding` from `scope`.
    pub fn load(scope: &Scope, layout: &PatchLayout) -> Result<Self, WeightsError> {
        let PatchLayout { image_size, patch_size: patch, width, blip, align_corners } = *layout;
        let grid = image_size / patch;
        let tokens = grid * grid + 1;
        let convolution = scope.tensor("patch_embedding.weight", &[width, 3, patch, patch])?;
        let (bias, class, position) = if blip {
            (
                Some(scope.tensor("patch_embedding.bias", &[width])?),
                scope.tensor("class_embedding", &[1, 1, width])?,
                scope.tensor("position_embedding", &[1, tokens, width])?,
            )
        } else {
            (
                None,
                scope.tensor("class_embedding", &[width])?.view([1, 1, width]),
                scope.tensor("position_embedding.weight", &[tokens, width])?.unsqueeze(0),
            )
        };
        Ok(PatchEmbedding { convolution, bias, class, position, patch, grid, align_corners })
    }

    /// `[B, 3, H, W] -> [B, 1 + H/patch · W/patch, width]`
    pub fn forward(&self, pixels: &Tensor) -> Tensor {
        let pixels = pixels.to_device(self.convolution.device()).to_kind(self.convolution.kind());
        let stride = [self.patch, self.patch];
        let patches = pixels.conv2d(&self.convolution, self.bias.as_ref(), stride, [0, 0], [1, 1], 1);
        let (batch, width, rows, columns) = patches.size4().expect("[B, width, rows, columns]");
        let patches = patches.flatten(2, 3).transpose(1, 2);
        let class = self.class.expand([batch, 1, width], false);
        Tensor::cat(&[class, patches], 1) + self.position(rows, columns)
    }

    /// The position embedding for a grid of `rows × columns` patches, bicubic if it is not the native one: `[1, 1 + patches, width]`.
    pub fn position(&self, rows: i64, columns: i64) -> Tensor {
        if (rows, columns) == (self.grid, self.grid) {
            return self.position.shallow_clone();
        }
        let width = self.position.size()[2];
        let class = self.position.narrow(1, 0, 1);
        let patches = self.position.narrow(1, 1, self.grid * self.grid);
        let map = patches.view([1, self.grid, self.grid, width]).permute([0, 3, 1, 2]);
        let map = map.upsample_bicubic2d([rows, columns], self.align_corners, None, None);
        Tensor::cat(&[class, map.permute([0, 2, 3, 1]).reshape([1, rows * columns, width])], 1)
    }
}
