//! T5's encoder and decoder: blocks with RMS norms before each part, and a table of relative positions that all blocks
//! of a stack share. `modeling_t5.py` of transformers; field names are the checkpoint's.

use tch::{Kind, Tensor};

use super::{FeedForward, T5Config};
use crate::generate::KvCache;
use crate::layers::{
    Embedding, Linear, Mask, Mlp, RmsNorm, merge_heads, scaled_attention, shared_attention, split_heads,
};
use crate::pre_norm::split_qkv;
use crate::weights::{Scope, WeightsError};

/// T5 does not scale scores: its initialisation did.
const SCALE: f64 = 1.0;
/// Added to the scores of what may not be seen: far below every score, and finite, so that a row without anything to
/// see (padding) stays a number.
const HIDDEN: f64 = -3e4;

/// `T5Stack`, without its embedding.
pub(super) struct Stack {
    pub block: Vec<Block>,
    pub final_layer_norm: RmsNorm,
    /// Of the first block in the checkpoint, for all blocks.
    pub bias: RelativeBias,
}

impl Stack {
    pub fn encoder(scope: &Scope, config: &T5Config, feed_forward: FeedForward) -> Result<Self, WeightsError> {
        Self::load(scope, config, feed_forward, config.num_layers, false)
    }

    pub fn decoder(
        scope: &Scope,
        config: &T5Config,
        feed_forward: FeedForward,
        depth: usize,
    ) -> Result<Self, WeightsError> {
        // a leftover in the first checkpoints, which no model uses
        let unused = scope.sub("block.0.layer.1.EncDecAttention.relative_attention_bias");
        if unused.has("weight") {
            let _ = unused.tensor("weight", &[config.relative_attention_num_buckets, config.num_heads])?;
        }
        Self::load(scope, config, feed_forward, depth, true)
    }

    fn load(
        scope: &Scope,
        config: &T5Config,
        feed_forward: FeedForward,
        depth: usize,
        decodes: bool,
    ) -> Result<Self, WeightsError> {
        if depth == 0 {
            return Err(config.refusal("a stack without blocks".into()));
        }
        let block = |index| Block::load(&scope.item("block", index), config, feed_forward, decodes);
        let table = scope.sub("block.0.layer.0.SelfAttention.relative_attention_bias");
        Ok(Stack {
            block: (0..depth).map(block).collect::<Result<_, _>>()?,
            final_layer_norm: norm(&scope.sub("final_layer_norm"), config)?,
            bias: RelativeBias {
                relative_attention_bias: Embedding::load(
                    &table,
                    config.relative_attention_num_buckets,
                    config.num_heads,
                )?,
                max_distance: config.relative_attention_max_distance,
                bidirectional: !decodes,
            },
        })
    }
}

fn norm(scope: &Scope, config: &T5Config) -> Result<RmsNorm, WeightsError> {
    RmsNorm::load(scope, config.d_model, config.layer_norm_epsilon)
}

/// What a decoder block reads of the encoder: keys and values `[B, H, N, D]`.
pub(super) struct Memory {
    keys: Tensor,
    values: Tensor,
}

/// `T5Block`.
pub(super) struct Block {
    own: SelfAttention,
    cross: Option<CrossAttention>,
    feed_forward_norm: RmsNorm,
    feed_forward: Mlp,
}

struct SelfAttention {
    layer_norm: RmsNorm,
    qkv: Linear,
    o: Linear,
    heads: i64,
}

struct CrossAttention {
    layer_norm: RmsNorm,
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    heads: i64,
}

impl Block {
    fn load(scope: &Scope, config: &T5Config, feed_forward: FeedForward, decodes: bool) -> Result<Self, WeightsError> {
        let (width, inner) = (config.d_model, config.num_heads * config.d_kv);
        let linear =
            |scope: &Scope, name: &str, inputs, outputs| Linear::load_without_bias(&scope.sub(name), inputs, outputs);
        let heads = config.num_heads;
        let own = scope.sub("layer.0");
        let attention = own.sub("SelfAttention");
        let own = SelfAttention {
            layer_norm: norm(&own.sub("layer_norm"), config)?,
            qkv: Linear::load_stacked(&attention, &["q", "k", "v"], width, inner, false)?,
            o: linear(&attention, "o", inner, width)?,
            heads,
        };
        let cross = scope.sub("layer.1");
        let part = |name: &str| linear(&cross, &format!("EncDecAttention.{name}"), width, inner);
        let cross = decodes.then(|| {
            Ok(CrossAttention {
                layer_norm: norm(&cross.sub("layer_norm"), config)?,
                q: part("q")?,
                k: part("k")?,
                v: part("v")?,
                o: linear(&cross, "EncDecAttention.o", inner, width)?,
                heads,
            })
        });
        let last = scope.item("layer", if decodes { 2 } else { 1 });
        let dense = last.sub("DenseReluDense");
        let up = |name: &str| linear(&dense, name, width, config.d_ff);
        let feed_forward = Mlp {
            up: up(if feed_forward.gated { "wi_0" } else { "wi" })?,
            gate: feed_forward.gated.then(|| up("wi_1")).transpose()?,
            down: linear(&dense, "wo", config.d_ff, width)?,
            activation: feed_forward.activation,
        };
        Ok(Block {
            own,
            cross: cross.transpose()?,
            feed_forward_norm: norm(&last.sub("layer_norm"), config)?,
            feed_forward,
        })
    }

    /// Keys and values of `encoded [B, N, W]` for this decoder block.
    pub fn memory(&self, encoded: &Tensor) -> Memory {
        let cross = self.cross.as_ref().expect("a block of the decoder");
        let heads = |linear: &Linear| split_heads(&linear.forward(encoded), cross.heads);
        Memory { keys: heads(&cross.k), values: heads(&cross.v) }
    }

    /// `x [lanes, L, W]`, in the decoder with a memory of `B` images, `lanes` a multiple of it -> `[lanes, L, W]`.
    pub fn forward(
        &self,
        x: &Tensor,
        mask: Mask,
        memory: Option<(&Memory, Mask)>,
        cache: Option<&mut KvCache>,
    ) -> Tensor {
        let mut x = x + self.own.forward(x, mask, cache);
        if let (Some(cross), Some((memory, mask))) = (&self.cross, memory) {
            x = &x + cross.forward(&x, memory, mask);
        }
        &x + self.feed_forward.forward(&self.feed_forward_norm.forward(&x))
    }
}

impl SelfAttention {
    fn forward(&self, x: &Tensor, mask: Mask, cache: Option<&mut KvCache>) -> Tensor {
        let (q, k, v) = split_qkv(&self.qkv.forward(&self.layer_norm.forward(x)), self.heads);
        let (k, v) = match cache {
            Some(cache) => cache.append(&k, &v),
            None => (k, v),
        };
        self.o.forward(&merge_heads(&scaled_attention(&q, &k, &v, SCALE, mask, None)))
    }
}

impl CrossAttention {
    fn forward(&self, x: &Tensor, memory: &Memory, mask: Mask) -> Tensor {
        let queries = self.q.forward(&self.layer_norm.forward(x));
        self.o.forward(&shared_attention(&queries, &memory.keys, &memory.values, SCALE, mask))
    }
}

/// Scores by relative position: small distances each have an entry, larger ones share them, by logarithm.
pub(super) struct RelativeBias {
    relative_attention_bias: Embedding,
    max_distance: i64,
    bidirectional: bool,
}

impl RelativeBias {
    /// What is added to the scores of the queries from `first` on against `length` keys, `length - first` queries:
    /// `[1 or B, H, length - first, length]`; far below zero where `visible`, which broadcasts to it, is false.
    pub fn forward(&self, first: i64, length: i64, visible: Option<&Tensor>) -> Tensor {
        let options = (Kind::Int64, self.relative_attention_bias.weight.device());
        let keys = Tensor::arange(length, options);
        let queries = keys.narrow(0, first, length - first).unsqueeze(1);
        let bias = self.relative_attention_bias.forward(&self.bucket(&(keys - queries))); // [queries, keys, H]
        let bias = bias.permute([2, 0, 1]).unsqueeze(0);
        match visible {
            Some(visible) => bias.where_scalarother(visible, HIDDEN),
            None => bias,
        }
    }

    /// The entry of every distance (key minus query).
    fn bucket(&self, distance: &Tensor) -> Tensor {
        let entries = self.relative_attention_bias.weight.size()[0];
        let (entries, offset, distance) = if self.bidirectional {
            (entries / 2, distance.gt(0).to_kind(Kind::Int64) * (entries / 2), distance.abs())
        } else {
            (entries, distance.zeros_like(), distance.neg().clamp_min(0))
        };
        let exact = entries / 2;
        let span = (self.max_distance as f64 / exact as f64).ln();
        let large = (distance.to_kind(Kind::Float) / exact as f64).log() / span * (entries - exact) as f64;
        let large = (large.to_kind(Kind::Int64) + exact).clamp_max(entries - 1);
        distance.where_self(&distance.lt(exact), &large) + offset
    }
}
