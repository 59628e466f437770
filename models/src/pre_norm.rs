//! The pre-norm transformer block of CLIP's, EVA's and BLIP's encoders.

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
    /// How queries, keys and values are stored.
    pub qkv: QkvTensors,
}

/// How a block's queries, keys and values are stored, and what the layer after the attention is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QkvTensors {
    /// `q_proj`, `k_proj`, `v_proj`; `out_proj` (CLIP).
    Apart,
    /// `qkv`; `projection` (BLIP, OpenAI, EVA in Hugging Face's layout).
    Fused,
    /// `qkv.weight`, `q_bias` and `v_bias`; `projection` (EVA in LAVIS' layout).
    FusedWithoutKeyBias,
    /// `qkv.weight` alone; `projection`.
    FusedWithoutBias,
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
    /// Takes a block from `scope`.
    pub fn load(scope: &Scope, shape: &BlockShape) -> Result<Self, WeightsError> {
        let BlockShape { width, inner, heads, activation, eps, qkv } = *shape;
        let layer_norm1 = LayerNorm::load(&scope.sub("layer_norm1"), width, eps)?;
        let own = scope.sub("self_attn");
        let projection = if qkv == QkvTensors::Apart { "out_proj" } else { "projection" };
        let projection = Linear::load(&own.sub(projection), width, width)?;
        let qkv = load_qkv(&own, width, qkv)?;
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

/// Queries, keys and values as one product: `[3 W, W]`.
fn load_qkv(scope: &Scope, width: i64, tensors: QkvTensors) -> Result<Linear, WeightsError> {
    let fused = scope.sub("qkv");
    match tensors {
        QkvTensors::Apart => Linear::load_stacked(scope, &["q_proj", "k_proj", "v_proj"], width, width, true),
        QkvTensors::Fused => Linear::load(&fused, width, 3 * width),
        QkvTensors::FusedWithoutBias => Linear::load_without_bias(&fused, width, 3 * width),
        QkvTensors::FusedWithoutKeyBias => {
            let weight = fused.tensor("weight", &[3 * width, width])?;
            let (queries, values) = (scope.tensor("q_bias", &[width])?, scope.tensor("v_bias", &[width])?);
            Ok(Linear { weight, bias: Some(Tensor::cat(&[&queries, &queries.zeros_like(), &values], 0)) })
        }
    }
}

/// `[B, L, 3 W] -> 3 × [B, H, L, W / H]`: queries, keys, values in this order.
pub fn split_qkv(qkv: &Tensor, heads: i64) -> (Tensor, Tensor, Tensor) {
    let (batch, length, triple) = qkv.size3().expect("[B, L, 3 W]");
    let split = qkv.view([batch, length, 3, heads, triple / 3 / heads]).permute([2, 0, 3, 1, 4]);
    (split.select(0, 0), split.select(0, 1), split.select(0, 2))
}
