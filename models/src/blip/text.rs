//! BLIP's text decoder: BERT with causal self-attention and cross-attention to the image in every layer.
//! `modeling_blip_text.py` of transformers; field names are the checkpoint's.

use tch::{Device, Tensor};

use super::BlipTextConfig;
use crate::generate::{KvCache, StepDecoder};
use crate::layers::{
    Activation, Embedding, LayerNorm, Linear, Mask, Mlp, attention, causal_padding_mask, merge_heads, shared_attention,
    split_heads,
};
use crate::pre_norm::split_qkv;
use crate::weights::{Scope, WeightsError};

/// `BlipTextLMHeadModel`.
pub struct TextDecoder {
    words: Embedding,
    positions: Embedding,
    norm: LayerNorm,
    pub(super) layers: Vec<TextLayer>,
    pub(super) head: Head,
}

/// A layer's cross-attention keys and values, `[B, H, N, D]`: one of each per image, whatever the number of captions.
pub type ImageKeys = Vec<(Tensor, Tensor)>;

pub(super) struct TextLayer {
    attention_qkv: Linear,
    attention_output: Linear,
    attention_norm: LayerNorm,
    cross_query: Linear,
    cross_key: Linear,
    cross_value: Linear,
    cross_output: Linear,
    cross_norm: LayerNorm,
    mlp: Mlp,
    output_norm: LayerNorm,
    heads: i64,
}

/// `cls.predictions`, whose decoder is tied to the word embedding.
pub(super) struct Head {
    dense: Linear,
    activation: Activation,
    norm: LayerNorm,
    decoder: Linear,
}

impl TextDecoder {
    pub(super) fn load(scope: &Scope, config: &BlipTextConfig, image_width: i64) -> Result<Self, WeightsError> {
        let (width, eps) = (config.hidden_size, config.layer_norm_eps);
        let embeddings = scope.sub("bert.embeddings");
        let words = Embedding::load(&embeddings.sub("word_embeddings"), config.vocab_size, width)?;
        let positions = Embedding::load(&embeddings.sub("position_embeddings"), config.max_position_embeddings, width)?;
        let norm = LayerNorm::load(&embeddings.sub("LayerNorm"), width, eps)?;
        let layer = |index| TextLayer::load(&scope.item("bert.encoder.layer", index), config, image_width);
        let layers = (0..config.num_hidden_layers).map(layer).collect::<Result<_, _>>()?;
        let head = Head::load(&scope.sub("cls.predictions"), config, &words)?;
        Ok(TextDecoder { words, positions, norm, layers, head })
    }

    /// Keys and values of every layer for `image_states [B, N, D]`.
    pub fn image_keys(&self, image_states: &Tensor) -> ImageKeys {
        self.layers.iter().map(|layer| layer.image_keys(image_states)).collect()
    }

    /// `ids` and `mask` `[B, L]` -> logits `[B, L, vocab]`; padding is hidden, and so is what follows a token.
    pub fn teacher_forced(&self, images: &ImageKeys, ids: &Tensor, mask: &Tensor) -> Tensor {
        let visible = causal_padding_mask(mask);
        let mut x = self.embed(ids, 0);
        for (layer, image) in self.layers.iter().zip(images) {
            x = layer.forward(&x, |k, v| (k, v), Mask::Given(&visible), |queries| see(queries, image));
        }
        self.head.forward(&x)
    }

    /// `ids [lanes, L]` at the positions from `start` on -> `[lanes, L, W]`
    pub(super) fn embed(&self, ids: &Tensor, start: i64) -> Tensor {
        let positions = self.positions.weight.narrow(0, start, ids.size()[1]);
        self.norm.forward(&(self.words.forward(ids) + positions))
    }

    /// `ids [lanes, 1]`, each at its own of `positions [lanes]` -> `[lanes, 1, W]`
    pub(super) fn embed_at(&self, ids: &Tensor, positions: &Tensor) -> Tensor {
        let last = self.positions.weight.size()[0] - 1;
        let positions = self.positions.forward(&positions.clamp_max(last)).unsqueeze(1);
        self.norm.forward(&(self.words.forward(ids) + positions))
    }

    /// Where the model is.
    pub(super) fn device(&self) -> Device {
        self.words.weight.device()
    }
}

impl TextLayer {
    fn load(scope: &Scope, config: &BlipTextConfig, image_width: i64) -> Result<Self, WeightsError> {
        let (width, eps) = (config.hidden_size, config.layer_norm_eps);
        let own = scope.sub("attention");
        let cross = scope.sub("crossattention");
        let linear = |scope: &Scope, name: &str, inputs| Linear::load(&scope.sub(name), inputs, width);
        let norm = |scope: &Scope| LayerNorm::load(&scope.sub("output.LayerNorm"), width, eps);
        Ok(TextLayer {
            attention_qkv: Linear::load_stacked(&own, &["self.query", "self.key", "self.value"], width, width, true)?,
            attention_output: linear(&own, "output.dense", width)?,
            attention_norm: norm(&own)?,
            cross_query: linear(&cross, "self.query", width)?,
            cross_key: linear(&cross, "self.key", image_width)?,
            cross_value: linear(&cross, "self.value", image_width)?,
            cross_output: linear(&cross, "output.dense", width)?,
            cross_norm: norm(&cross)?,
            mlp: Mlp::load(
                &scope.sub("intermediate.dense"),
                &scope.sub("output.dense"),
                width,
                config.intermediate_size,
                config.hidden_act,
            )?,
            output_norm: norm(scope)?,
            heads: config.num_attention_heads,
        })
    }

    fn image_keys(&self, image_states: &Tensor) -> (Tensor, Tensor) {
        let heads = |linear: &Linear| split_heads(&linear.forward(image_states), self.heads).contiguous();
        (heads(&self.cross_key), heads(&self.cross_value))
    }

    /// `x [lanes, L, W]` -> `[lanes, L, W]`. `remember` takes the keys and values of these tokens, `[lanes, H, L, D]`, and
    /// gives those that they attend to; `see` makes of the queries `[lanes, L, W]` what they see of their images.
    pub(super) fn forward(
        &self,
        x: &Tensor,
        remember: impl FnOnce(Tensor, Tensor) -> (Tensor, Tensor),
        mask: Mask,
        see: impl FnOnce(&Tensor) -> Tensor,
    ) -> Tensor {
        let (q, k, v) = split_qkv(&self.attention_qkv.forward(x), self.heads);
        let (k, v) = remember(k, v);
        let attended = self.attention_output.forward(&merge_heads(&attention(&q, &k, &v, mask, None)));
        let x = self.attention_norm.forward(&(attended + x));
        let seen = see(&self.cross_query.forward(&x));
        let x = self.cross_norm.forward(&(self.cross_output.forward(&seen) + &x));
        self.output_norm.forward(&(self.mlp.forward(&x) + &x))
    }
}

/// What the queries `[lanes, L, W]` of as many lanes for every image see of the keys and values `[B, H, N, D]`.
pub(super) fn see(queries: &Tensor, (keys, values): &(Tensor, Tensor)) -> Tensor {
    let scale = 1.0 / (keys.size()[3] as f64).sqrt();
    shared_attention(queries, keys, values, scale, Mask::None)
}

impl Head {
    fn load(scope: &Scope, config: &BlipTextConfig, words: &Embedding) -> Result<Self, WeightsError> {
        let transform = scope.sub("transform");
        let dense = Linear::load(&transform.sub("dense"), config.hidden_size, config.hidden_size)?;
        let norm = LayerNorm::load(&transform.sub("LayerNorm"), config.hidden_size, config.layer_norm_eps)?;
        let bias = scope.tensor("bias", &[config.vocab_size])?;
        scope.tied("decoder.weight", "word_embeddings.weight", &words.weight)?;
        scope.tied("decoder.bias", "cls.predictions.bias", &bias)?;
        let decoder = Linear { weight: words.weight.shallow_clone(), bias: Some(bias) };
        Ok(Head { dense, activation: config.hidden_act, norm, decoder })
    }

    pub(super) fn forward(&self, x: &Tensor) -> Tensor {
        self.decoder.forward(&self.norm.forward(&self.activation.forward(&self.dense.forward(x))))
    }
}

/// A batch of captions in the making.
pub struct BlipDecoder<'a> {
    model: &'a TextDecoder,
    images: ImageKeys,
    caches: Vec<KvCache>,
}

impl<'a> BlipDecoder<'a> {
    /// Begins captions of up to `capacity` tokens for `image_states [B, N, D]`, one lane each.
    pub fn new(model: &'a TextDecoder, image_states: &Tensor, capacity: i64) -> Self {
        let caches = model.layers.iter().map(|_| KvCache::new(capacity)).collect();
        BlipDecoder { model, images: model.image_keys(image_states), caches }
    }
}

impl StepDecoder for BlipDecoder<'_> {
    fn step(&mut self, ids: &Tensor) -> Tensor {
        let (lanes, length) = ids.size2().expect("ids [lanes, L]");
        let fed = self.caches[0].length();
        assert!(fed == 0 || length == 1, "after the prompt, one token at a time");
        let mask = if length > 1 { Mask::Causal } else { Mask::None };
        let mut x = self.model.embed(ids, fed);
        for ((layer, image), cache) in self.model.layers.iter().zip(&self.images).zip(&mut self.caches) {
            x = layer.forward(&x, |k, v| cache.append(&k, &v), mask, |queries| see(queries, image));
        }
        self.model.head.forward(&x.narrow(1, length - 1, 1)).view([lanes, -1])
    }

    fn fork(&mut self, copies: i64) {
        self.caches.iter_mut().for_each(|cache| cache.fork(copies));
    }

    fn reorder(&mut self, lanes: &Tensor) {
        self.caches.iter_mut().for_each(|cache| cache.reorder(lanes));
    }
}
