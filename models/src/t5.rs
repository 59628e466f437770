//! T5 (arXiv 1910.10683; v1.1 and Flan with gated MLPs), frozen: visual tokens begin the encoder's text.
//!
//! Reproduces Hugging Face `T5ForConditionalGeneration` (transformers 5.17) with `inputs_embeds`, as LAVIS'
//! `blip2_t5.py` uses it; weights and `config.json` are its.

use std::path::Path;

use serde::Deserialize;
use serde::de::IntoDeserializer;
use tch::{Device, Kind, Tensor};

use crate::generate::{KvCache, StepDecoder};
use crate::language::{
    Family, IGNORED, LanguageLoss, LanguageModel, LossOptions, Prompt, Texts, Walk, counted_loss, role, with_visual,
};
use crate::layers::{Activation, Embedding, Linear, Mask, causal_padding_mask, padding_mask};
use crate::weights::{Scope, Weights, WeightsError};

mod stack;

use stack::{Block, Memory, Stack};

/// `config.json`; absent fields have Hugging Face's defaults.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct T5Config {
    /// Ids.
    pub vocab_size: i64,
    /// Of a token.
    pub d_model: i64,
    /// Of a head's keys and values.
    pub d_kv: i64,
    /// Of the MLP.
    pub d_ff: i64,
    /// Blocks of the encoder.
    pub num_layers: usize,
    /// Blocks of the decoder; as many as the encoder's where absent.
    pub num_decoder_layers: Option<usize>,
    /// Heads.
    pub num_heads: i64,
    /// Entries of the table of relative positions.
    pub relative_attention_num_buckets: i64,
    /// From this distance on, all share the last entry.
    pub relative_attention_max_distance: i64,
    /// Of the norms.
    pub layer_norm_epsilon: f64,
    /// The MLP: an activation, or `gated-` and an activation.
    pub feed_forward_proj: String,
    /// The activation, where `feed_forward_proj` does not mean it.
    pub dense_act_fn: Option<String>,
    /// The head is the embedding (v1.0).
    pub tie_word_embeddings: bool,
    /// The decoder's states are scaled before the head; where absent, when the head is the embedding. (transformers 5
    /// writes this, and says of every model that it is tied.)
    pub scale_decoder_outputs: Option<bool>,
    /// Fills texts up.
    pub pad_token_id: i64,
    /// Ends a text.
    pub eos_token_id: i64,
    /// Begins what the decoder says; the padding where absent.
    pub decoder_start_token_id: Option<i64>,
}

impl Default for T5Config {
    fn default() -> Self {
        T5Config {
            vocab_size: 32128,
            d_model: 512,
            d_kv: 64,
            d_ff: 2048,
            num_layers: 6,
            num_decoder_layers: None,
            num_heads: 8,
            relative_attention_num_buckets: 32,
            relative_attention_max_distance: 128,
            layer_norm_epsilon: 1e-6,
            feed_forward_proj: "relu".into(),
            dense_act_fn: None,
            tie_word_embeddings: true,
            scale_decoder_outputs: None,
            pad_token_id: 0,
            eos_token_id: 1,
            decoder_start_token_id: None,
        }
    }
}

/// Which GELU a gated MLP uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum T5Gelu {
    /// What the config means: for `gated-gelu` the tanh approximation, with which Flan-T5 was trained.
    #[default]
    Config,
    /// The exact error function, as LAVIS sets it for BLIP-2.
    Lavis,
}

/// The MLP that a config asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FeedForward {
    gated: bool,
    activation: Activation,
}

impl T5Config {
    fn feed_forward(&self, gelu: T5Gelu) -> Result<FeedForward, WeightsError> {
        let named = &self.feed_forward_proj;
        let (gated, name) = match named.strip_prefix("gated-") {
            Some(name) => (true, name),
            None => (false, named.as_str()),
        };
        let meant = if named == "gated-gelu" { "gelu_new" } else { name };
        let name = self.dense_act_fn.as_deref().unwrap_or(meant);
        let read = Activation::deserialize(name.into_deserializer());
        let read = read
            .map_err(|error: serde::de::value::Error| self.refusal(format!("feed_forward_proj {named:?}: {error}")))?;
        let activation = match gelu {
            T5Gelu::Lavis if gated && read == Activation::GeluTanh => Activation::Gelu,
            _ => read,
        };
        Ok(FeedForward { gated, activation })
    }

    fn refusal(&self, reason: String) -> WeightsError {
        WeightsError::Config { location: "T5 config".into(), reason }
    }

    fn start(&self) -> i64 {
        self.decoder_start_token_id.unwrap_or(self.pad_token_id)
    }
}

/// The model.
pub struct T5 {
    /// As read.
    pub config: T5Config,
    shared: Embedding,
    encoder: Stack,
    decoder: Stack,
    lm_head: Linear,
    /// On the decoder's states before the head.
    head_scale: Option<f64>,
}

impl T5 {
    /// Reads `config.json` and the weights of a Hugging Face folder.
    pub fn load(folder: &Path, device: Device, kind: Kind, gelu: T5Gelu) -> Result<Self, WeightsError> {
        let config: T5Config = role(&["t5"]).config(folder)?;
        if kind == Kind::Half {
            let reason = "T5's states exceed the range of half precision; load it as bfloat16 or float".to_string();
            return Err(WeightsError::Config { location: folder.display().to_string(), reason });
        }
        let weights = Weights::open(folder, device, kind)?;
        let model = T5::from_scope(&weights.root(), config, gelu)?;
        weights.finish()?;
        Ok(model)
    }

    /// Takes `T5ForConditionalGeneration` from `scope`.
    pub fn from_scope(scope: &Scope, config: T5Config, gelu: T5Gelu) -> Result<Self, WeightsError> {
        let feed_forward = config.feed_forward(gelu)?;
        let shared = Embedding::load(&scope.sub("shared"), config.vocab_size, config.d_model)?;
        let tied = |name: &str| scope.tied(name, "shared.weight", &shared.weight);
        tied("encoder.embed_tokens.weight")?;
        tied("decoder.embed_tokens.weight")?;
        let scaled = config.scale_decoder_outputs.unwrap_or(config.tie_word_embeddings);
        let untied = !config.tie_word_embeddings || (!scaled && scope.has("lm_head.weight"));
        let lm_head = if untied {
            Linear::load_without_bias(&scope.sub("lm_head"), config.d_model, config.vocab_size)?
        } else {
            tied("lm_head.weight")?;
            Linear { weight: shared.weight.shallow_clone(), bias: None }
        };
        let depth = config.num_decoder_layers.unwrap_or(config.num_layers);
        Ok(T5 {
            encoder: Stack::encoder(&scope.sub("encoder"), &config, feed_forward)?,
            decoder: Stack::decoder(&scope.sub("decoder"), &config, feed_forward, depth)?,
            shared,
            lm_head,
            head_scale: scaled.then(|| (config.d_model as f64).powf(-0.5)),
            config,
        })
    }

    /// What enters the encoder: `visual [B, Q, W]`, `ids [B, L]` -> `[B, Q + L, W]`.
    fn embed(&self, visual: &Tensor, ids: &Tensor) -> Tensor {
        Tensor::cat(&[visual.to_kind(self.kind()), self.shared.forward(ids)], 1)
    }

    /// States of the decoder after its last block `[.., W]` -> logits `[.., vocabulary]`.
    fn head(&self, states: &Tensor) -> Tensor {
        let states = self.decoder.final_layer_norm.forward(states);
        match self.head_scale {
            Some(scale) => self.lm_head.forward(&(states * scale)),
            None => self.lm_head.forward(&states),
        }
    }

    /// What the decoder is fed to say `labels [B, T]`: these, one place later.
    pub fn shifted(&self, labels: &Tensor) -> Tensor {
        let (batch, length) = labels.size2().expect("labels [B, T]");
        let start = Tensor::full([batch, 1], self.config.start(), (Kind::Int64, labels.device()));
        let said = labels.narrow(1, 0, length - 1);
        Tensor::cat(&[start, said.masked_fill(&said.eq(IGNORED), self.config.pad_token_id)], 1)
    }
}

impl LanguageModel for T5 {
    fn family(&self) -> Family {
        Family::T5
    }

    fn width(&self) -> i64 {
        self.config.d_model
    }

    fn embeddings(&self, ids: &Tensor) -> Tensor {
        self.shared.forward(ids)
    }

    fn vocabulary(&self) -> i64 {
        self.config.vocab_size
    }

    fn longest(&self) -> Option<i64> {
        None
    }

    fn device(&self) -> Device {
        self.shared.weight.device()
    }

    fn kind(&self) -> Kind {
        self.shared.weight.kind()
    }

    fn loss(&self, visual: &Tensor, texts: &Texts, options: LossOptions) -> LanguageLoss {
        let (queries, targets) = (visual.size()[1], texts.labels.size()[1]);
        let mask = with_visual(&texts.mask, queries);
        let seen = padding_mask(&mask);
        let embedded = tch::no_grad(|| self.embed(visual, &texts.ids));
        let encoder_bias = self.encoder.bias.forward(0, mask.size()[1], Some(&seen));
        let encode = |index: usize, x: &Tensor, _: Option<&Tensor>| match self.encoder.block.get(index) {
            Some(block) => block.forward(x, Mask::Given(&encoder_bias), None, None),
            None => self.encoder.final_layer_norm.forward(x),
        };
        let encoding = Walk::forward(self.encoder.block.len() + 1, &embedded, None, &encode, options.recompute);

        // the mask is not shifted along with the ids, as in LAVIS
        let said = causal_padding_mask(&texts.labels.ne(IGNORED));
        let decoder_bias = self.decoder.bias.forward(0, targets, Some(&said));
        let decode = |index: usize, x: &Tensor, encoded: Option<&Tensor>| {
            let block = &self.decoder.block[index];
            let memory = block.memory(encoded.expect("the decoder reads the encoder"));
            block.forward(x, Mask::Given(&decoder_bias), Some((&memory, Mask::Given(&seen))), None)
        };
        let begun = self.shared.forward(&self.shifted(&texts.labels));
        let depth = self.decoder.block.len();
        let decoding = Walk::forward(depth, &begun, Some(encoding.output()), &decode, options.recompute);

        let states = decoding.output();
        let counted = counted_loss(states, &texts.labels, &|states| self.head(states));
        let logits = options.probes.then(|| tch::no_grad(|| self.head(states).to_kind(Kind::Float)));
        let by_encoded = decoding.backward(counted.by_states).memory;
        let by_encoded = by_encoded.unwrap_or_else(|| encoding.output().zeros_like());
        let by_embedded = encoding.backward(by_encoded).input;
        let gradient = by_embedded.narrow(1, 0, queries).to_kind(visual.kind());
        LanguageLoss { sum: counted.sum, targets: counted.targets, gradient, logits }
    }

    fn decoder<'a>(&'a self, visual: &Tensor, prompt: &Prompt, max_new_tokens: i64) -> Box<dyn StepDecoder + 'a> {
        tch::no_grad(|| Box::new(T5Decoder::new(self, visual, prompt, max_new_tokens)))
    }

    fn start(&self) -> i64 {
        self.config.start()
    }

    fn pad(&self) -> i64 {
        self.config.pad_token_id
    }

    fn eos(&self) -> i64 {
        self.config.eos_token_id
    }
}

/// A batch of texts in the making. The encoder ran once, and so did every block's keys and values of what it read: one
/// set per image, whatever the number of lanes.
struct T5Decoder<'a> {
    model: &'a T5,
    memories: Vec<Memory>,
    /// `[B, 1, 1, Q + P]`, bool.
    seen: Tensor,
    caches: Vec<KvCache>,
}

impl<'a> T5Decoder<'a> {
    fn new(model: &'a T5, visual: &Tensor, prompt: &Prompt, max_new_tokens: i64) -> Self {
        let mask = with_visual(&prompt.mask, visual.size()[1]);
        let seen = padding_mask(&mask);
        let bias = model.encoder.bias.forward(0, mask.size()[1], Some(&seen));
        let step = |x: Tensor, block: &Block| block.forward(&x, Mask::Given(&bias), None, None);
        let states = model.encoder.block.iter().fold(model.embed(visual, &prompt.ids), step);
        let encoded = model.encoder.final_layer_norm.forward(&states);
        let blocks = &model.decoder.block;
        T5Decoder {
            model,
            memories: blocks.iter().map(|block| block.memory(&encoded)).collect(),
            seen,
            caches: blocks.iter().map(|_| KvCache::new(max_new_tokens.max(1))).collect(),
        }
    }
}

impl StepDecoder for T5Decoder<'_> {
    fn step(&mut self, ids: &Tensor) -> Tensor {
        let decoder = &self.model.decoder;
        let (fed, length) = (self.caches[0].length(), ids.size()[1]);
        assert!(length == 1, "one token at a time");
        let bias = decoder.bias.forward(fed, fed + 1, None);
        let mut x = self.model.shared.forward(ids);
        for ((block, memory), cache) in decoder.block.iter().zip(&self.memories).zip(&mut self.caches) {
            x = block.forward(&x, Mask::Given(&bias), Some((memory, Mask::Given(&self.seen))), Some(cache));
        }
        self.model.head(&x.select(1, 0))
    }

    fn fork(&mut self, copies: i64) {
        self.caches.iter_mut().for_each(|cache| cache.fork(copies));
    }

    fn reorder(&mut self, lanes: &Tensor) {
        self.caches.iter_mut().for_each(|cache| cache.reorder(lanes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gelu_is_the_configs_or_lavis() {
        let activation = |feed_forward_proj: &str, dense_act_fn: Option<&str>, gelu| {
            let config = T5Config {
                feed_forward_proj: feed_forward_proj.into(),
                dense_act_fn: dense_act_fn.map(str::to_string),
                ..T5Config::default()
            };
            config.feed_forward(gelu).unwrap().activation
        };
        assert_eq!(activation("gated-gelu", None, T5Gelu::Config), Activation::GeluTanh);
        assert_eq!(activation("gated-gelu", Some("gelu_new"), T5Gelu::Lavis), Activation::Gelu);
        assert_eq!(activation("gated-gelu", Some("gelu"), T5Gelu::Config), Activation::Gelu);
        assert_eq!(activation("relu", None, T5Gelu::Lavis), Activation::Relu);
    }
}
