//! BERT with a query side: embeddings, blocks, language-model head (LAVIS `Qformer.py`).

use tch::{Tensor, no_grad};

use crate::layers::{Embedding, LayerNorm, Linear, Mask, Mlp, attention, merge_heads, split_heads};
use crate::weights::{Scope, WeightsError};

use super::QFormerConfig;
use super::dropout::{Dropout, Site, SiteKind};

/// Keys and values of one attention, `[B, H, L, D / H]` each.
pub struct KeyValues {
    /// Keys.
    pub key: Tensor,
    /// Values.
    pub value: Tensor,
}

impl KeyValues {
    /// These positions, then `later`'s.
    fn followed_by(&self, later: &KeyValues) -> KeyValues {
        KeyValues { key: Tensor::cat(&[&self.key, &later.key], 2), value: Tensor::cat(&[&self.value, &later.value], 2) }
    }

    /// The lanes `lanes`, in that order (beams that move).
    pub fn select(&self, lanes: &Tensor) -> KeyValues {
        KeyValues { key: self.key.index_select(0, lanes), value: self.value.index_select(0, lanes) }
    }
}

/// A batch of images as the cross-attentions see it: keys and values, computed once however many lanes read them.
pub struct ImageMemory {
    /// One entry per block that has a cross-attention, in order.
    blocks: Vec<KeyValues>,
}

impl ImageMemory {
    /// Images in the batch.
    pub fn batch(&self) -> i64 {
        self.blocks[0].key.size()[0]
    }

    /// The images of `parts`, one after the other.
    pub fn cat(parts: &[&ImageMemory]) -> ImageMemory {
        let join = |block: usize, side: fn(&KeyValues) -> &Tensor| {
            let tensors: Vec<&Tensor> = parts.iter().map(|part| side(&part.blocks[block])).collect();
            Tensor::cat(&tensors, 0)
        };
        let blocks = (0..parts[0].blocks.len())
            .map(|block| KeyValues { key: join(block, |kv| &kv.key), value: join(block, |kv| &kv.value) })
            .collect();
        ImageMemory { blocks }
    }

    /// The images `lanes` `[_]`, in that order; an image may come more than once.
    pub fn select(&self, lanes: &Tensor) -> ImageMemory {
        ImageMemory { blocks: self.blocks.iter().map(|block| block.select(lanes)).collect() }
    }
}

/// What one pass through the blocks sees besides its hidden states.
pub(super) struct Pass<'a> {
    /// Visible keys; `None`: all.
    pub visible: Option<&'a Tensor>,
    /// Positions at the front that are queries: they look at `images` and have their own feed-forward.
    pub queries: i64,
    /// Needed when `queries` is above 0.
    pub images: Option<&'a ImageMemory>,
    /// Keys and values of positions before these, one per block.
    pub past: Option<&'a [KeyValues]>,
    /// Positions at the front whose last hidden states are wanted; `None`: all.
    pub wanted: Option<i64>,
    /// This pass's dropout.
    pub dropout: &'a Dropout,
}

impl<'a> Pass<'a> {
    /// A pass over text that sees everything.
    pub fn new(dropout: &'a Dropout) -> Self {
        Pass { visible: None, queries: 0, images: None, past: None, wanted: None, dropout }
    }
}

/// Which of the two transformers a BERT has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sides {
    /// Queries and text (stage 1).
    Both,
    /// Queries alone: no text embeddings, no feed-forward for text (stage 2).
    Queries,
}

/// `Qformer.bert`: embeddings and blocks.
pub(super) struct Bert {
    embeddings: Embeddings,
    layer: Vec<Layer>,
}

impl Bert {
    pub fn load(scope: &Scope, config: &QFormerConfig, sides: Sides) -> Result<Self, WeightsError> {
        let embeddings = Embeddings::load(&scope.sub("embeddings"), config, sides)?;
        let layer = (0..config.num_hidden_layers)
            .map(|index| Layer::load(&scope.item("encoder.layer", index as usize), config, index, sides))
            .collect::<Result<_, _>>()?;
        Ok(Bert { embeddings, layer })
    }

    /// Of a BERT with both sides.
    pub fn word_embeddings(&self) -> &Tensor {
        &self.embeddings.text().word_embeddings.weight
    }

    /// The query transformer over `images`: `tokens [1, Q, D]` -> last hidden states `[B, Q, D]`, and each block's keys
    /// and values.
    pub fn queries(&self, tokens: &Tensor, images: &ImageMemory, dropout: &Dropout) -> (Tensor, Vec<KeyValues>) {
        let embedded = self.embed(None, Some(&tokens.expand([images.batch(), -1, -1], false)), 0, dropout);
        let pass = Pass { images: Some(images), queries: tokens.size()[1], ..Pass::new(dropout) };
        self.encode(embedded, &pass)
    }

    /// Queries first, then text; a position embedding for the text alone, from `position` on.
    pub fn embed(&self, ids: Option<&Tensor>, queries: Option<&Tensor>, position: i64, dropout: &Dropout) -> Tensor {
        self.embeddings.forward(ids, queries, position, dropout)
    }

    pub fn image_memory(&self, states: &Tensor) -> ImageMemory {
        let cross = self.layer.iter().filter_map(|layer| layer.crossattention.as_ref());
        ImageMemory { blocks: cross.map(|attention| attention.keys_values(states)).collect() }
    }

    /// Hidden states `[B, L, D]` through every block, the last of which computes the wanted positions alone; also each
    /// block's keys and values, `pass.past` included.
    pub fn encode(&self, mut hidden: Tensor, pass: &Pass) -> (Tensor, Vec<KeyValues>) {
        let mut seen = Vec::with_capacity(self.layer.len());
        let mut images = pass.images.into_iter().flat_map(|images| images.blocks.iter());
        for (index, layer) in self.layer.iter().enumerate() {
            let image = layer.crossattention.as_ref().and_then(|_| images.next());
            let wanted = pass.wanted.filter(|_| index + 1 == self.layer.len());
            let (next, keys_values) = layer.forward(&hidden, index, image, pass, wanted);
            hidden = next;
            seen.push(keys_values);
        }
        (hidden, seen)
    }
}

struct Embeddings {
    text: Option<TextEmbeddings>,
    norm: LayerNorm,
}

struct TextEmbeddings {
    word_embeddings: Embedding,
    position_embeddings: Embedding,
}

impl Embeddings {
    fn load(scope: &Scope, config: &QFormerConfig, sides: Sides) -> Result<Self, WeightsError> {
        let width = config.hidden_size;
        let table = |name, entries| Embedding::load(&scope.sub(name), entries, width);
        let text = match sides {
            Sides::Queries => None,
            Sides::Both => Some(TextEmbeddings {
                word_embeddings: table("word_embeddings", config.vocab_size)?,
                position_embeddings: table("position_embeddings", config.max_position_embeddings)?,
            }),
        };
        Ok(Embeddings { text, norm: LayerNorm::load(&scope.sub("LayerNorm"), width, config.layer_norm_eps)? })
    }

    fn text(&self) -> &TextEmbeddings {
        self.text.as_ref().expect("text is given to a model with a text side alone")
    }

    fn forward(&self, ids: Option<&Tensor>, queries: Option<&Tensor>, position: i64, dropout: &Dropout) -> Tensor {
        let text = ids.map(|ids| {
            let TextEmbeddings { word_embeddings, position_embeddings } = self.text();
            let positions = position_embeddings.weight.narrow(0, position, ids.size()[1]);
            word_embeddings.forward(ids) + positions
        });
        let parts: Vec<&Tensor> = queries.into_iter().chain(text.as_ref()).collect();
        dropout.hidden(self.norm.forward(&Tensor::cat(&parts, 1)), Site::EMBEDDINGS)
    }
}

struct Layer {
    attention: Attention,
    crossattention: Option<Attention>,
    text: Option<FeedForward>,
    query: FeedForward,
}

impl Layer {
    fn load(scope: &Scope, config: &QFormerConfig, index: i64, sides: Sides) -> Result<Self, WeightsError> {
        let attention = Attention::load(&scope.sub("attention"), config, config.hidden_size)?;
        let crossattention = config
            .has_cross_attention(index)
            .then(|| Attention::load(&scope.sub("crossattention"), config, config.encoder_width))
            .transpose()?;
        let text = (sides == Sides::Both)
            .then(|| FeedForward::load(&scope.sub("intermediate"), &scope.sub("output"), config))
            .transpose()?;
        let query = FeedForward::load(&scope.sub("intermediate_query"), &scope.sub("output_query"), config)?;
        Ok(Layer { attention, crossattention, text, query })
    }

    /// `x [B, L, D] -> [B, wanted or L, D]`: every position is seen, but only the wanted ones go on.
    fn forward(
        &self,
        x: &Tensor,
        index: usize,
        image: Option<&KeyValues>,
        pass: &Pass,
        wanted: Option<i64>,
    ) -> (Tensor, KeyValues) {
        let site = |kind| Site::new(index, kind);
        let own = self.attention.keys_values(x);
        let seen = match pass.past {
            Some(past) => past[index].followed_by(&own),
            None => own,
        };
        let mask = pass.visible.map_or(Mask::None, Mask::Given);
        let probabilities = site(SiteKind::SelfProbabilities);
        let x = wanted.map_or_else(|| x.shallow_clone(), |wanted| x.narrow(1, 0, wanted));
        let x = self.attention.forward(&x, &seen, mask, pass.dropout, probabilities, site(SiteKind::SelfOutput));
        let text_length = x.size()[1] - pass.queries;
        let mut parts = Vec::with_capacity(2);
        if pass.queries > 0 {
            let mut queries = x.narrow(1, 0, pass.queries);
            if let Some(cross) = &self.crossattention {
                let image = image.expect("queries look at images");
                let (inner, outer) = (site(SiteKind::CrossProbabilities), site(SiteKind::CrossOutput));
                queries = cross.forward(&queries, image, Mask::None, pass.dropout, inner, outer);
            }
            parts.push(self.query.forward(&queries, pass.dropout, site(SiteKind::QueryFeedForward)));
        }
        if text_length > 0 {
            let feed_forward = self.text.as_ref().expect("text is given to a model with a text side alone");
            let text = x.narrow(1, pass.queries, text_length);
            parts.push(feed_forward.forward(&text, pass.dropout, site(SiteKind::TextFeedForward)));
        }
        let out = if parts.len() == 1 { parts.remove(0) } else { Tensor::cat(&parts, 1) };
        (out, seen)
    }
}

/// `attention` and `crossattention`: heads, output projection, residual, LayerNorm after it.
struct Attention {
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    norm: LayerNorm,
    heads: i64,
}

impl Attention {
    /// `memory_width`: width of what keys and values are made of.
    fn load(scope: &Scope, config: &QFormerConfig, memory_width: i64) -> Result<Self, WeightsError> {
        let width = config.hidden_size;
        Ok(Attention {
            query: Linear::load(&scope.sub("self.query"), width, width)?,
            key: Linear::load(&scope.sub("self.key"), memory_width, width)?,
            value: Linear::load(&scope.sub("self.value"), memory_width, width)?,
            output: Linear::load(&scope.sub("output.dense"), width, width)?,
            norm: LayerNorm::load(&scope.sub("output.LayerNorm"), width, config.layer_norm_eps)?,
            heads: config.num_attention_heads,
        })
    }

    fn keys_values(&self, memory: &Tensor) -> KeyValues {
        KeyValues {
            key: split_heads(&self.key.forward(memory), self.heads),
            value: split_heads(&self.value.forward(memory), self.heads),
        }
    }

    fn forward(
        &self,
        x: &Tensor,
        memory: &KeyValues,
        mask: Mask,
        dropout: &Dropout,
        probabilities: Site,
        output: Site,
    ) -> Tensor {
        let query = split_heads(&self.query.forward(x), self.heads);
        let (batch, heads, length, _) = query.size4().expect("[B, H, L, D]");
        let shape = [batch, heads, length, memory.key.size()[2]];
        let kept = dropout.probabilities(&shape, probabilities, x.device());
        let mixed = merge_heads(&attention(&query, &memory.key, &memory.value, mask, kept.as_ref()));
        self.norm.forward(&(dropout.hidden(self.output.forward(&mixed), output) + x))
    }
}

/// Feed-forward, residual, LayerNorm after it.
struct FeedForward {
    mlp: Mlp,
    norm: LayerNorm,
}

impl FeedForward {
    fn load(up: &Scope, down: &Scope, config: &QFormerConfig) -> Result<Self, WeightsError> {
        let (width, inner) = (config.hidden_size, config.intermediate_size);
        let mlp = Mlp::load(&up.sub("dense"), &down.sub("dense"), width, inner, QFormerConfig::ACTIVATION)?;
        Ok(FeedForward { mlp, norm: LayerNorm::load(&down.sub("LayerNorm"), width, config.layer_norm_eps)? })
    }

    fn forward(&self, x: &Tensor, dropout: &Dropout, site: Site) -> Tensor {
        self.norm.forward(&(dropout.hidden(self.mlp.forward(x), site) + x))
    }
}

/// `Qformer.cls.predictions`; its decoder is the word embedding.
pub(super) struct LanguageHead {
    bias: Tensor,
    dense: Linear,
    norm: LayerNorm,
}

impl LanguageHead {
    pub fn load(scope: &Scope, config: &QFormerConfig, word_embeddings: &Tensor) -> Result<Self, WeightsError> {
        let width = config.hidden_size;
        let bias = scope.tensor("bias", &[config.vocab_size])?;
        let dense = Linear::load(&scope.sub("transform.dense"), width, width)?;
        let norm = LayerNorm::load(&scope.sub("transform.LayerNorm"), width, config.layer_norm_eps)?;
        no_grad(|| {
            scope.tied("decoder.weight", "Qformer.bert.embeddings.word_embeddings.weight", word_embeddings)?;
            scope.tied("decoder.bias", "Qformer.cls.predictions.bias", &bias)
        })?;
        Ok(LanguageHead { bias, dense, norm })
    }

    pub fn forward(&self, hidden: &Tensor, word_embeddings: &Tensor) -> Tensor {
        let activated = QFormerConfig::ACTIVATION.forward(&self.dense.forward(hidden));
        self.norm.forward(&activated).linear(word_embeddings, Some(&self.bias))
    }
}
