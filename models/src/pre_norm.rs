//! The pre-norm transformer block of CLIP's and BLIP's encoders.

use tch::Tensor;

use crate::layers::{Activation, LayerNorm, Linear, Mask, Mlp, attention, merge_heads};
use crate::weights::{Scope, WeightsError};

/// The sizes of a stack of blocks.
#[derive(Debug, Clone, Copy)]
pub struct BlockShape {
    /// Of a token.
    pub width: i64,
    /// Of the MLP.
    pub inner: i64,
    /// Attention heads.
    pub heads: i64,
    /// In the MLP.
    pub activation: Activation,
    /// Of the layer norms.
    pub eps: f64,
}

/// `x + attention(norm(x))`, then `x + mlp(norm(x))`.
pub struct PreNormBlock {
    layer_norm1: LayerNorm,
    qkv: Linear,
    projection: Linear,
    layer_norm2: LayerNorm,
    mlp: Mlp,
    heads: i64,
}

impl PreNormBlock {
    /// Takes a block from `scope`; queries, keys and values are stored apart (CLIP) or as one product (BLIP, OpenAI).
    pub fn load(scope: &Scope, shape: &BlockShape) -> Result<Self, WeightsError> {
        let BlockShape { width, inner, heads, activation, eps } = *shape;
        let layer_norm1 = LayerNorm::load(&scope.sub("layer_norm1"), width, eps)?;
        let own = scope.sub("self_attn");
        let part = |name| Linear::load(&own.sub(name), width, width);
        let qkv = if own.has("qkv.weight") {
            Linear::load(&own.sub("qkv"), width, 3 * width)?
        } else {
            Linear::load_stacked(&own, &["q_proj", "k_proj", "v_proj"], width, width, true)?
        };
        let projection = part(if own.has("projection.weight") { "projection" } else { "out_proj" })?;
        let layer_norm2 = LayerNorm::load(&scope.sub("layer_norm2"), width, eps)?;
        let mlp = Mlp::load(&scope.sub("mlp.fc1"), &scope.sub("mlp.fc2"), width, inner, activation)?;
        Ok(PreNormBlock { layer_norm1, qkv, projection, layer_norm2, mlp, heads })
    }

    /// The first `count` blocks of the list `layers` of `scope`.
    pub fn load_stack(scope: &Scope, count: usize, shape: &BlockShape) -> Result<Vec<Self>, WeightsError> {
        (0..count).map(|index| PreNormBlock::load(&scope.item("layers", index), shape)).collect()
    }

    /// `[B, L, width] -> [B, L, width]`
    pub fn forward(&self, x: &Tensor, mask: Mask) -> Tensor {
        let (q, k, v) = split_qkv(&self.qkv.forward(&self.layer_norm1.forward(x)), self.heads);
        let x = x + self.projection.forward(&merge_heads(&attention(&q, &k, &v, mask, None)));
        &x + self.mlp.forward(&self.layer_norm2.forward(&x))
    }
}

/// `[B, L, 3 W] -> 3 × [B, H, L, W / H]`: queries, keys, values in this order.
pub fn split_qkv(qkv: &Tensor, heads: i64) -> (Tensor, Tensor, Tensor) {
    let (batch, length, triple) = qkv.size3().expect("[B, L, 3 W]");
    let split = qkv.view([batch, length, 3, heads, triple / 3 / heads]).permute([2, 0, 3, 1, 4]);
    (split.select(0, 0), split.select(0, 1), split.select(0, 2))
}
