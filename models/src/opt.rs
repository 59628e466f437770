//! OPT (arXiv 2205.01068), frozen: a decoder whose sequence begins with visual tokens.
//!
//! Reproduces Hugging Face `OPTForCausalLM` (transformers 5.17) with `inputs_embeds`, as LAVIS' `blip2_opt.py` uses it;
//! weights and `config.json` are its. Positions count the visible tokens, visual ones included, from 2 on.

use std::path::Path;

use serde::Deserialize;
use tch::{Device, Kind, Tensor};

use crate::generate::{KvCache, StepDecoder};
use crate::language::{
    Family, LanguageLoss, LanguageModel, LossOptions, Prompt, Texts, Walk, counted_loss, cut, pull_back, role,
    with_visual,
};
use crate::layers::{
    Activation, Embedding, LayerNorm, Linear, Mask, Mlp, attention, causal_padding_mask, merge_heads, padding_mask,
};
use crate::pre_norm::split_qkv;
use crate::weights::{Scope, Weights, WeightsError};

/// Epsilon of every LayerNorm, PyTorch's default.
const EPS: f64 = 1e-5;
/// Rows of the position table before the first position's.
const POSITION_OFFSET: i64 = 2;

/// `config.json`; absent fields have Hugging Face's defaults. (Dropout and layer drop act in training only.)
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct OptConfig {
    /// Ids.
    pub vocab_size: i64,
    /// Of a layer's states.
    pub hidden_size: i64,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Of the MLP.
    pub ffn_dim: i64,
    /// The longest sequence.
    pub max_position_embeddings: i64,
    /// Layer norms stand before attention and MLP, and one more at the end; otherwise after them (350m).
    pub do_layer_norm_before: bool,
    /// There is no layer norm at the end (checkpoints fine-tuned before transformers 4.20.1).
    #[serde(rename = "_remove_final_layer_norm")]
    pub remove_final_layer_norm: bool,
    /// Of the input embeddings; `hidden_size` where absent.
    pub word_embed_proj_dim: Option<i64>,
    /// Heads.
    pub num_attention_heads: i64,
    /// In the MLP.
    pub activation_function: Activation,
    /// Linear layers have biases.
    pub enable_bias: bool,
    /// Layer norms have weights; no other is supported.
    pub layer_norm_elementwise_affine: bool,
    /// The head is the embedding.
    pub tie_word_embeddings: bool,
    /// Fills texts up.
    pub pad_token_id: i64,
    /// Begins every text.
    pub bos_token_id: i64,
    /// Ends a text.
    pub eos_token_id: i64,
}

impl Default for OptConfig {
    fn default() -> Self {
        OptConfig {
            vocab_size: 50272,
            hidden_size: 768,
            num_hidden_layers: 12,
            ffn_dim: 3072,
            max_position_embeddings: 2048,
            do_layer_norm_before: true,
            remove_final_layer_norm: false,
            word_embed_proj_dim: None,
            num_attention_heads: 12,
            activation_function: Activation::Relu,
            enable_bias: true,
            layer_norm_elementwise_affine: true,
            tie_word_embeddings: true,
            pad_token_id: 1,
            bos_token_id: 2,
            eos_token_id: 2,
        }
    }
}

impl OptConfig {
    /// Of the input embeddings.
    pub fn embedding_width(&self) -> i64 {
        self.word_embed_proj_dim.unwrap_or(self.hidden_size)
    }

    fn validate(&self) -> Result<(), WeightsError> {
        let refuse = |reason: String| Err(WeightsError::Config { location: "OPT config".into(), reason });
        if !self.layer_norm_elementwise_affine {
            return refuse("layer_norm_elementwise_affine is false, which is not supported".into());
        }
        let (width, heads) = (self.hidden_size, self.num_attention_heads);
        if heads < 1 || width % heads != 0 {
            return refuse(format!("hidden_size {width} is not divisible by num_attention_heads {heads}"));
        }
        Ok(())
    }
}

/// The model.
pub struct Opt {
    /// As read.
    pub config: OptConfig,
    embed_tokens: Embedding,
    embed_positions: Embedding,
    project_in: Option<Linear>,
    layers: Vec<OptLayer>,
    final_layer_norm: Option<LayerNorm>,
    project_out: Option<Linear>,
    lm_head: Linear,
}

impl Opt {
    /// Reads `config.json` and the weights of a Hugging Face folder.
    pub fn load(folder: &Path, device: Device, kind: Kind) -> Result<Self, WeightsError> {
        let config = role(&["opt"]).config(folder)?;
        let weights = Weights::open(folder, device, kind)?;
        let model = Opt::from_scope(&weights.root(), config)?;
        weights.finish()?;
        Ok(model)
    }

    /// Takes `OPTForCausalLM` from `scope`.
    pub fn from_scope(scope: &Scope, config: OptConfig) -> Result<Self, WeightsError> {
        config.validate()?;
        let (width, embedding, vocabulary) = (config.hidden_size, config.embedding_width(), config.vocab_size);
        // saved from an `OPTModel`, the outer name is missing
        let bare = scope.has("decoder.embed_tokens.weight");
        let decoder = scope.sub(if bare { "decoder" } else { "model.decoder" });
        let embed_tokens = Embedding::load(&decoder.sub("embed_tokens"), vocabulary, embedding)?;
        let positions = config.max_position_embeddings + POSITION_OFFSET;
        let embed_positions = Embedding::load(&decoder.sub("embed_positions"), positions, width)?;
        let projection = |name: &str, inputs, outputs| {
            let needed = embedding != width;
            needed.then(|| Linear::load_without_bias(&decoder.sub(name), inputs, outputs)).transpose()
        };
        let ends_in_norm = config.do_layer_norm_before && !config.remove_final_layer_norm;
        let layer = |index| OptLayer::load(&decoder.item("layers", index), &config);
        let lm_head = if config.tie_word_embeddings {
            scope.tied("lm_head.weight", &decoder.full("embed_tokens.weight"), &embed_tokens.weight)?;
            Linear { weight: embed_tokens.weight.shallow_clone(), bias: None }
        } else {
            Linear::load_without_bias(&scope.sub("lm_head"), embedding, vocabulary)?
        };
        Ok(Opt {
            embed_tokens,
            embed_positions,
            project_in: projection("project_in", embedding, width)?,
            layers: (0..config.num_hidden_layers).map(layer).collect::<Result<_, _>>()?,
            final_layer_norm: ends_in_norm
                .then(|| LayerNorm::load(&decoder.sub("final_layer_norm"), width, EPS))
                .transpose()?,
            project_out: projection("project_out", width, embedding)?,
            lm_head,
            config,
        })
    }

    /// What enters the first layer: `visual [B, Q, W]`, `ids [B, L]`, `mask [B, Q + L]` -> `[B, Q + L, H]`.
    fn embed(&self, visual: &Tensor, ids: &Tensor, mask: &Tensor) -> Tensor {
        let length = mask.size()[1];
        let longest = self.config.max_position_embeddings;
        assert!(length <= longest, "a sequence of {length} tokens, but the model's longest is {longest}");
        let words = Tensor::cat(&[visual.to_kind(self.kind()), self.embed_tokens.forward(ids)], 1);
        let positions = mask.cumsum(1, Kind::Int64) * mask + (POSITION_OFFSET - 1);
        self.place(&words, &positions)
    }

    /// `words [.., L, W]` at the rows `positions [.., L]` of the table -> `[.., L, H]`.
    fn place(&self, words: &Tensor, positions: &Tensor) -> Tensor {
        let words = self.project_in.as_ref().map_or(words.shallow_clone(), |project| project.forward(words));
        words + self.embed_positions.forward(positions)
    }

    /// States after the last layer `[.., H]` -> logits `[.., vocabulary]`.
    fn head(&self, states: &Tensor) -> Tensor {
        let normed = self.final_layer_norm.as_ref().map_or(states.shallow_clone(), |norm| norm.forward(states));
        let narrowed = self.project_out.as_ref().map_or(normed.shallow_clone(), |project| project.forward(&normed));
        self.lm_head.forward(&narrowed)
    }
}

impl LanguageModel for Opt {
    fn family(&self) -> Family {
        Family::Opt
    }

    fn width(&self) -> i64 {
        self.config.embedding_width()
    }

    fn embeddings(&self, ids: &Tensor) -> Tensor {
        self.embed_tokens.forward(ids)
    }

    fn vocabulary(&self) -> i64 {
        self.config.vocab_size
    }

    fn longest(&self) -> Option<i64> {
        Some(self.config.max_position_embeddings)
    }

    fn device(&self) -> Device {
        self.lm_head.weight.device()
    }

    fn kind(&self) -> Kind {
        self.lm_head.weight.kind()
    }

    fn loss(&self, visual: &Tensor, texts: &Texts, options: LossOptions) -> LanguageLoss {
        let (queries, length) = (visual.size()[1], texts.ids.size()[1]);
        let mask = with_visual(&texts.mask, queries);
        // Padding at the end is behind everything that counts: the causal order alone hides it.
        let visible = (!padded_at_end(&texts.mask)).then(|| causal_padding_mask(&mask));
        let visual = cut(visual);
        let embedded = tch::with_grad(|| self.embed(&visual, &texts.ids, &mask));
        let layer = |index: usize, x: &Tensor, _: Option<&Tensor>| {
            let mask = visible.as_ref().map_or(Mask::Causal, Mask::Given);
            self.layers[index].forward(x, mask, None)
        };
        let walk = Walk::forward(self.layers.len(), &embedded, None, &layer, options.recompute);
        let states = walk.output();
        let counted = counted_loss(&states.narrow(1, queries - 1, length), &texts.labels, &|states| self.head(states));
        let logits = options.probes.then(|| tch::no_grad(|| self.head(states).to_kind(Kind::Float)));
        let by_states = states.zeros_like();
        by_states.narrow(1, queries - 1, length).copy_(&counted.by_states);
        let by_embedded = walk.backward(by_states).input;
        let gradient = pull_back(&embedded, &by_embedded, &[&visual]).swap_remove(0);
        LanguageLoss { sum: counted.sum, targets: counted.targets, gradient, logits }
    }

    fn decoder<'a>(&'a self, visual: &Tensor, prompt: &Prompt, max_new_tokens: i64) -> Box<dyn StepDecoder + 'a> {
        tch::no_grad(|| Box::new(OptDecoder::new(self, visual, prompt, max_new_tokens)))
    }

    fn start(&self) -> i64 {
        self.config.bos_token_id
    }

    fn pad(&self) -> i64 {
        self.config.pad_token_id
    }

    fn eos(&self) -> i64 {
        self.config.eos_token_id
    }
}

/// Whether no token of `mask [B, L]` follows padding.
fn padded_at_end(mask: &Tensor) -> bool {
    let length = mask.size()[1];
    let rises = mask.narrow(1, 0, length - 1).lt_tensor(&mask.narrow(1, 1, length - 1));
    !bool::try_from(rises.any()).expect("one flag")
}

struct OptLayer {
    self_attn_layer_norm: LayerNorm,
    qkv: Linear,
    out_proj: Linear,
    final_layer_norm: LayerNorm,
    mlp: Mlp,
    heads: i64,
    norm_before: bool,
}

impl OptLayer {
    fn load(scope: &Scope, config: &OptConfig) -> Result<Self, WeightsError> {
        let (width, inner) = (config.hidden_size, config.ffn_dim);
        let linear =
            |name: &str, inputs, outputs| Linear::load_biased(&scope.sub(name), inputs, outputs, config.enable_bias);
        let own = scope.sub("self_attn");
        Ok(OptLayer {
            self_attn_layer_norm: LayerNorm::load(&scope.sub("self_attn_layer_norm"), width, EPS)?,
            qkv: Linear::load_stacked(&own, &["q_proj", "k_proj", "v_proj"], width, width, config.enable_bias)?,
            out_proj: linear("self_attn.out_proj", width, width)?,
            final_layer_norm: LayerNorm::load(&scope.sub("final_layer_norm"), width, EPS)?,
            mlp: Mlp {
                up: linear("fc1", width, inner)?,
                gate: None,
                down: linear("fc2", inner, width)?,
                activation: config.activation_function,
            },
            heads: config.num_attention_heads,
            norm_before: config.do_layer_norm_before,
        })
    }

    /// `[B, L, H] -> [B, L, H]`
    fn forward(&self, x: &Tensor, mask: Mask, cache: Option<&mut KvCache>) -> Tensor {
        if self.norm_before {
            let x = x + self.attend(&self.self_attn_layer_norm.forward(x), mask, cache);
            &x + self.mlp.forward(&self.final_layer_norm.forward(&x))
        } else {
            let x = self.self_attn_layer_norm.forward(&(x + self.attend(x, mask, cache)));
            self.final_layer_norm.forward(&(&x + self.mlp.forward(&x)))
        }
    }

    fn attend(&self, x: &Tensor, mask: Mask, cache: Option<&mut KvCache>) -> Tensor {
        let (q, k, v) = split_qkv(&self.qkv.forward(x), self.heads);
        let (k, v) = match cache {
            Some(cache) => cache.append(&k, &v),
            None => (k, v),
        };
        self.out_proj.forward(&merge_heads(&attention(&q, &k, &v, mask, None)))
    }
}

/// A batch of texts in the making, after visual tokens and prompt.
struct OptDecoder<'a> {
    model: &'a Opt,
    caches: Vec<KvCache>,
    /// The logits after the prompt, until they are asked for.
    first: Option<Tensor>,
    /// `[lanes, Q + P]`, bool: what of visual tokens and prompt may be seen; none where all of it may.
    visible: Option<Tensor>,
    /// `[lanes, 1]`: the row of the position table for the next token.
    position: Tensor,
}

impl<'a> OptDecoder<'a> {
    fn new(model: &'a Opt, visual: &Tensor, prompt: &Prompt, max_new_tokens: i64) -> Self {
        let mask = with_visual(&prompt.mask, visual.size()[1]);
        let length = mask.size()[1];
        // the last new token is never fed
        let capacity = length + (max_new_tokens - 1).max(0);
        let longest = model.config.max_position_embeddings;
        assert!(capacity <= longest, "a text of up to {capacity} tokens, but the model's longest is {longest}");
        let mut caches: Vec<KvCache> = model.layers.iter().map(|_| KvCache::new(capacity)).collect();
        let padded = bool::try_from(mask.eq(0).any()).expect("one flag");
        let causal = padded.then(|| causal_padding_mask(&mask));
        let mut x = model.embed(visual, &prompt.ids, &mask);
        for (layer, cache) in model.layers.iter().zip(&mut caches) {
            x = layer.forward(&x, causal.as_ref().map_or(Mask::Causal, Mask::Given), Some(cache));
        }
        OptDecoder {
            model,
            caches,
            first: Some(model.head(&x.select(1, length - 1))),
            visible: padded.then(|| mask.to_kind(Kind::Bool)),
            position: mask.sum_dim_intlist(1, true, Kind::Int64) + POSITION_OFFSET,
        }
    }
}

impl StepDecoder for OptDecoder<'_> {
    fn step(&mut self, ids: &Tensor) -> Tensor {
        if let Some(first) = self.first.take() {
            return first;
        }
        let mut x = self.model.place(&self.model.embed_tokens.forward(ids), &self.position);
        self.position += 1;
        // what was generated, this token included, is always visible
        let visible = self.visible.as_ref().map(|visible| {
            let generated = self.caches[0].length() + 1 - visible.size()[1];
            let ones = Tensor::ones([visible.size()[0], generated], (Kind::Bool, visible.device()));
            padding_mask(&Tensor::cat(&[visible, &ones], 1))
        });
        for (layer, cache) in self.model.layers.iter().zip(&mut self.caches) {
            x = layer.forward(&x, visible.as_ref().map_or(Mask::None, Mask::Given), Some(cache));
        }
        self.model.head(&x.select(1, 0))
    }

    fn fork(&mut self, copies: i64) {
        self.caches.iter_mut().for_each(|cache| cache.fork(copies));
        let each = |tensor: &Tensor| tensor.repeat_interleave_self_int(copies, 0, None);
        self.visible = self.visible.as_ref().map(each);
        self.position = each(&self.position);
    }

    fn reorder(&mut self, lanes: &Tensor) {
        // padding and positions are an image's, and lanes stay within theirs
        self.caches.iter_mut().for_each(|cache| cache.reorder(lanes));
    }
}
