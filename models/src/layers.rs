//! The layers that every model shares: linear, layer norm, embedding, MLP, and the one attention.
//!
//! Shapes: `B` batch, `L` length, `H` heads, `D` head width, `W` model width.

use serde::Deserialize;
use tch::{Kind, Tensor};

use crate::weights::{Scope, WeightsError};

/// `x Wᵀ + b`, PyTorch's layout: `weight [out, in]`, `bias [out]`.
pub struct Linear {
    /// `[out, in]`
    pub weight: Tensor,
    /// `[out]`
    pub bias: Option<Tensor>,
}

impl Linear {
    /// Takes `weight` and `bias` from `scope`.
    pub fn load(scope: &Scope, inputs: i64, outputs: i64) -> Result<Self, WeightsError> {
        let weight = scope.tensor("weight", &[outputs, inputs])?;
        let bias = Some(scope.tensor("bias", &[outputs])?);
        Ok(Linear { weight, bias })
    }

    /// Takes `weight` from `scope`, and `bias` where `biased`.
    pub fn load_biased(scope: &Scope, inputs: i64, outputs: i64, biased: bool) -> Result<Self, WeightsError> {
        let load = if biased { Linear::load } else { Linear::load_without_bias };
        load(scope, inputs, outputs)
    }

    /// Takes `weight` alone from `scope`.
    pub fn load_without_bias(scope: &Scope, inputs: i64, outputs: i64) -> Result<Self, WeightsError> {
        Ok(Linear { weight: scope.tensor("weight", &[outputs, inputs])?, bias: None })
    }

    /// Takes the layers `names` of `scope`, each `inputs -> outputs`, as one whose product serves them all:
    /// `weight [names · out, in]`.
    pub fn load_stacked(
        scope: &Scope,
        names: &[&str],
        inputs: i64,
        outputs: i64,
        biased: bool,
    ) -> Result<Self, WeightsError> {
        let each = |tensor: &str| names.iter().map(|name| format!("{name}.{tensor}")).collect::<Vec<_>>();
        let weight = scope.stacked(&each("weight"), &[outputs, inputs])?;
        let bias = biased.then(|| scope.stacked(&each("bias"), &[outputs])).transpose()?;
        Ok(Linear { weight, bias })
    }

    /// `[.., in] -> [.., out]`
    pub fn forward(&self, x: &Tensor) -> Tensor {
        x.linear(&self.weight, self.bias.as_ref())
    }
}

/// Layer normalisation over the last dimension.
pub struct LayerNorm {
    /// `[W]`
    pub weight: Tensor,
    /// `[W]`
    pub bias: Tensor,
    eps: f64,
    shape: [i64; 1],
}

impl LayerNorm {
    /// Takes `weight` and `bias` from `scope`.
    pub fn load(scope: &Scope, width: i64, eps: f64) -> Result<Self, WeightsError> {
        let weight = scope.tensor("weight", &[width])?;
        let bias = scope.tensor("bias", &[width])?;
        Ok(LayerNorm { weight, bias, eps, shape: [width] })
    }

    /// `[.., W] -> [.., W]`
    pub fn forward(&self, x: &Tensor) -> Tensor {
        x.layer_norm(&self.shape[..], Some(&self.weight), Some(&self.bias), self.eps, true)
    }
}

/// Root-mean-square normalisation over the last dimension: scaled, neither centred nor shifted (T5's `T5LayerNorm`).
pub struct RmsNorm {
    /// `[W]`
    pub weight: Tensor,
    eps: f64,
    shape: [i64; 1],
}

impl RmsNorm {
    /// Takes `weight` from `scope`.
    pub fn load(scope: &Scope, width: i64, eps: f64) -> Result<Self, WeightsError> {
        Ok(RmsNorm { weight: scope.tensor("weight", &[width])?, eps, shape: [width] })
    }

    /// `[.., W] -> [.., W]`
    pub fn forward(&self, x: &Tensor) -> Tensor {
        x.rms_norm(&self.shape[..], Some(&self.weight), self.eps)
    }
}

/// A lookup table.
pub struct Embedding {
    /// `[entries, W]`
    pub weight: Tensor,
}

impl Embedding {
    /// Takes `weight` from `scope`.
    pub fn load(scope: &Scope, entries: i64, width: i64) -> Result<Self, WeightsError> {
        Ok(Embedding { weight: scope.tensor("weight", &[entries, width])? })
    }

    /// `ids [..] -> [.., W]`
    pub fn forward(&self, ids: &Tensor) -> Tensor {
        Tensor::embedding(&self.weight, ids, -1, false, false)
    }
}

/// The activations that public configs name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Activation {
    /// `gelu`: Gaussian error linear unit with the exact error function.
    Gelu,
    /// `gelu_new`, `gelu_pytorch_tanh`: its tanh approximation.
    GeluTanh,
    /// `quick_gelu`: `x sigmoid(1.702 x)`, OpenAI CLIP's.
    QuickGelu,
    /// `relu`: rectifier.
    Relu,
}

impl TryFrom<String> for Activation {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        match name.as_str() {
            "gelu" => Ok(Activation::Gelu),
            "gelu_new" | "gelu_pytorch_tanh" => Ok(Activation::GeluTanh),
            "quick_gelu" => Ok(Activation::QuickGelu),
            "relu" => Ok(Activation::Relu),
            _ => Err(format!(
                "the activation should be one of gelu, gelu_new, gelu_pytorch_tanh, quick_gelu, relu; found {name}"
            )),
        }
    }
}

impl Activation {
    /// As configs name it.
    pub fn name(self) -> &'static str {
        match self {
            Activation::Gelu => "gelu",
            Activation::GeluTanh => "gelu_new",
            Activation::QuickGelu => "quick_gelu",
            Activation::Relu => "relu",
        }
    }

    /// Applies it, element by element.
    pub fn forward(self, x: &Tensor) -> Tensor {
        match self {
            Activation::Gelu => x.gelu("none"),
            Activation::GeluTanh => x.gelu("tanh"),
            Activation::QuickGelu => x * (x * 1.702).sigmoid(),
            Activation::Relu => x.relu(),
        }
    }
}

/// Two linear layers with an activation between, which a gate may multiply.
pub struct Mlp {
    /// `W -> inner`
    pub up: Linear,
    /// `W -> inner`: the activated `up` is multiplied by it (arXiv 2002.05202).
    pub gate: Option<Linear>,
    /// `inner -> W`
    pub down: Linear,
    /// Between the two.
    pub activation: Activation,
}

impl Mlp {
    /// Takes the two layers from the scopes `up` and `down`.
    pub fn load(
        up: &Scope,
        down: &Scope,
        width: i64,
        inner: i64,
        activation: Activation,
    ) -> Result<Self, WeightsError> {
        let (up, down) = (Linear::load(up, width, inner)?, Linear::load(down, inner, width)?);
        Ok(Mlp { up, gate: None, down, activation })
    }

    /// `[.., W] -> [.., W]`
    pub fn forward(&self, x: &Tensor) -> Tensor {
        let activated = self.activation.forward(&self.up.forward(x));
        match &self.gate {
            Some(gate) => self.down.forward(&(activated * gate.forward(x))),
            None => self.down.forward(&activated),
        }
    }
}

/// Which keys a query may see.
#[derive(Clone, Copy, Default)]
pub enum Mask<'a> {
    /// All of them.
    #[default]
    None,
    /// Those at or before its own position; queries and keys are of the same length.
    Causal,
    /// True = visible, or a floating tensor that is added to the scores; broadcasts to `[B, H, Lq, Lk]`.
    Given(&'a Tensor),
}

/// `softmax(q kᵀ / √D + mask) v` with `q [B, H, Lq, D]`, `k` and `v [B, H, Lk, D]` -> `[B, H, Lq, D]`.
///
/// With `dropout`, a tensor `[B, H, Lq, Lk]` of zeros and `1 / (1 - p)`, the probabilities are multiplied by it (keyed
/// dropout: the caller draws it); without, the fused kernel is used.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, mask: Mask, dropout: Option<&Tensor>) -> Tensor {
    scaled_attention(q, k, v, 1.0 / (q.size()[3] as f64).sqrt(), mask, dropout)
}

/// [`attention`] with another factor than `1 / √D` on the scores (T5's is 1).
pub fn scaled_attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    scale: f64,
    mask: Mask,
    dropout: Option<&Tensor>,
) -> Tensor {
    let Some(dropout) = dropout else {
        return match mask {
            Mask::None => Tensor::scaled_dot_product_attention::<&Tensor>(q, k, v, None, 0.0, false, scale, false),
            Mask::Causal => Tensor::scaled_dot_product_attention::<&Tensor>(q, k, v, None, 0.0, true, scale, false),
            Mask::Given(mask) => Tensor::scaled_dot_product_attention(q, k, v, Some(mask), 0.0, false, scale, false),
        };
    };
    let scores = q.matmul(&k.transpose(-2, -1)) * scale; // [B, H, Lq, Lk]
    let scores = match mask {
        Mask::None => scores,
        Mask::Causal => {
            let visible = Tensor::ones(&scores.size()[2..], (Kind::Bool, scores.device())).tril(0);
            scores.masked_fill(&visible.logical_not(), f64::NEG_INFINITY)
        }
        Mask::Given(mask) if mask.kind() == Kind::Bool => scores.masked_fill(&mask.logical_not(), f64::NEG_INFINITY),
        Mask::Given(mask) => scores + mask,
    };
    (scores.softmax(-1, None) * dropout).matmul(v)
}

/// Cross-attention of lanes that share their image's keys: the lanes of an image are further queries of its one set.
///
/// `queries [lanes, L, W]`, keys and values `[B, H, N, D]` with `lanes` a multiple of `B`, a mask that broadcasts to
/// `[B, H, .., N]` -> `[lanes, L, W]`.
pub fn shared_attention(queries: &Tensor, keys: &Tensor, values: &Tensor, scale: f64, mask: Mask) -> Tensor {
    let (lanes, length, width) = queries.size3().expect("[lanes, L, W]");
    let (images, heads) = (keys.size()[0], keys.size()[1]);
    let queries = split_heads(&queries.view([images, lanes / images * length, width]), heads);
    merge_heads(&scaled_attention(&queries, keys, values, scale, mask, None)).view([lanes, length, width])
}

/// `[B, L, W] -> [B, H, L, D]`
pub fn split_heads(x: &Tensor, heads: i64) -> Tensor {
    let (batch, length, width) = x.size3().expect("[B, L, W]");
    x.view([batch, length, heads, width / heads]).transpose(1, 2)
}

/// `[B, H, L, D] -> [B, L, W]`
pub fn merge_heads(x: &Tensor) -> Tensor {
    let (batch, heads, length, head_width) = x.size4().expect("[B, H, L, D]");
    x.transpose(1, 2).reshape([batch, length, heads * head_width])
}

/// The visible keys of padded sequences: `mask [B, L]` of 0 and 1 -> bool `[B, 1, 1, L]`.
pub fn padding_mask(mask: &Tensor) -> Tensor {
    mask.to_kind(Kind::Bool).unsqueeze(1).unsqueeze(1)
}

/// What a token of a padded sequence may see, itself and the tokens before it: `mask [B, L]` of 0 and 1 -> bool `[B, 1, L, L]`.
pub fn causal_padding_mask(mask: &Tensor) -> Tensor {
    let length = mask.size()[1];
    let causal = Tensor::ones([length, length], (Kind::Bool, mask.device())).tril(0);
    causal.logical_and(&padding_mask(mask))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::Weights;
    use tch::Device;

    fn random(shape: &[i64]) -> Tensor {
        Tensor::randn(shape, (Kind::Double, Device::Cpu))
    }

    #[test]
    fn the_dropout_path_equals_the_fused_kernel_where_nothing_is_dropped() {
        let (q, k, v) = (random(&[2, 3, 5, 4]), random(&[2, 3, 5, 4]), random(&[2, 3, 5, 4]));
        let keep = Tensor::ones([2, 3, 5, 5], (Kind::Double, Device::Cpu));
        let visible = Tensor::ones([5, 5], (Kind::Bool, Device::Cpu)).tril(1);
        for mask in [Mask::None, Mask::Causal, Mask::Given(&visible)] {
            let fused = attention(&q, &k, &v, mask, None);
            let explicit = attention(&q, &k, &v, mask, Some(&keep));
            assert!(fused.allclose(&explicit, 1e-9, 1e-12, false));
        }
    }

    #[test]
    fn dropped_probabilities_do_not_count() {
        let (q, k, v) = (random(&[1, 1, 2, 4]), random(&[1, 1, 3, 4]), random(&[1, 1, 3, 4]));
        let nothing = Tensor::zeros([1, 1, 2, 3], (Kind::Double, Device::Cpu));
        assert_eq!(attention(&q, &k, &v, Mask::None, Some(&nothing)).abs().max().double_value(&[]), 0.0);
    }

    #[test]
    fn heads_split_and_merge_back() {
        let x = random(&[2, 5, 12]);
        let split = split_heads(&x, 3);
        assert_eq!(split.size(), [2, 3, 5, 4]);
        assert!(merge_heads(&split).equal(&x));
    }

    #[test]
    fn stacked_layers_compute_what_each_does() {
        let tensors = ["a.weight", "a.bias", "b.weight", "b.bias"].map(|name| {
            let shape: &[i64] = if name.ends_with("bias") { &[3] } else { &[3, 4] };
            (name.to_string(), random(shape))
        });
        let x = random(&[7, 4]);
        let load = |take: fn(&Scope) -> Result<Linear, WeightsError>| {
            let tensors = tensors.iter().map(|(name, tensor)| (name.clone(), tensor.shallow_clone()));
            let weights = Weights::from_tensors(tensors, "case", Device::Cpu, Kind::Double).expect("four names");
            take(&weights.root()).expect("declared as stored").forward(&x)
        };
        let a = load(|scope| Linear::load(&scope.sub("a"), 4, 3));
        let b = load(|scope| Linear::load(&scope.sub("b"), 4, 3));
        let both = load(|scope| Linear::load_stacked(scope, &["a", "b"], 4, 3, true));
        assert!(both.allclose(&Tensor::cat(&[a, b], 1), 1e-9, 1e-12, false));
    }

    #[test]
    fn activations_have_their_known_values_at_one() {
        let one = Tensor::from_slice(&[1.0f64]);
        let values = [
            (Activation::Gelu, 0.841_344_746),
            (Activation::GeluTanh, 0.841_191_991),
            (Activation::QuickGelu, 0.845_795_766),
            (Activation::Relu, 1.0),
        ];
        for (activation, expected) in values {
            assert!((activation.forward(&one).double_value(&[0]) - expected).abs() < 1e-6, "{activation:?}");
        }
    }
}
