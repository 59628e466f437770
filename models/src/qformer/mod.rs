//! The Q-Former of BLIP-2 (arXiv 2301.12597 §3.1), as LAVIS' `blip2_qformer.py` and `Qformer.py` define it.
//!
//! One BERT whose self-attention serves two transformers: learned queries that look at a frozen image encoder's
//! features by cross-attention in every n-th block, and text. They have feed-forward layers of their own
//! (`intermediate_query`/`output_query` for the queries). The task chooses the mask: [`QFormer::queries`] and
//! [`QFormer::text`] are unimodal (ITC), [`QFormer::language`] is multimodal causal (ITG, reading the queries' cached
//! keys and values), [`QFormer::matching`] is bidirectional (ITM). Stage 2 trains a [`Bridge`]: the query side of it with
//! a projection to a language model.
//!
//! Names and order of [`QFormer::parameters`] are those of LAVIS' `named_parameters`, so a checkpoint of either loads
//! in the other. Shapes: `B` batch, `N` image tokens, `V` image width, `Q` queries, `L` text length, `D` hidden width,
//! `E` width of the contrastive projections.

mod bert;
mod bert_init;
mod bridge;
mod config;
mod dropout;
pub mod foreign;
mod generate;
mod init;
pub mod masks;
pub mod names;
mod parameters;
#[cfg(test)]
pub(crate) mod tests;

use tch::{Device, Kind, Tensor};

use crate::layers::{LayerNorm, Linear};
use crate::weights::{Scope, TensorSource, Weights, WeightsError, parameter_count};

use bert::{Bert, LanguageHead, Pass, Sides};
pub use bert::{ImageMemory, KeyValues};
pub use bridge::{Bridge, BridgeConfig, Projection};
pub use config::QFormerConfig;
pub use dropout::Dropout;
pub use generate::Captioning;
pub use init::Initialiser;
pub use parameters::Parameters;

/// Epsilon of PyTorch's `normalize`.
const NORMALIZE_EPS: f64 = 1e-12;

/// The trainable part of stage 1: the Q-Former, the LayerNorm before it and the heads after it.
pub struct QFormer {
    /// Sizes and probabilities.
    pub config: QFormerConfig,
    parameters: Parameters,
    query_tokens: Tensor,
    temp: Tensor,
    ln_vision: LayerNorm,
    bert: Bert,
    cls: LanguageHead,
    vision_proj: Linear,
    text_proj: Linear,
    itm_head: Linear,
}

/// Which last hidden states a pass computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outputs {
    /// All positions'.
    All,
    /// Those that a head reads: the text's first token, the queries of matching.
    Read,
}

/// What the query transformer made of a batch of images.
pub struct Queries {
    /// Last hidden states, `[B, Q, D]`.
    pub hidden: Tensor,
    /// Every block's self-attention keys and values, which the text of the same images reads in ITG.
    pub past: Vec<KeyValues>,
}

impl QFormer {
    /// Takes the weights of `checkpoint`, all of them and no others; floating tensors must arrive as `Kind::Float`.
    pub fn from_weights(checkpoint: &Weights, config: &QFormerConfig) -> Result<Self, WeightsError> {
        let model = Self::load(checkpoint, config)?;
        checkpoint.finish()?;
        Ok(model)
    }

    /// Random weights as BERT and LAVIS draw them; the same for the same `seed` everywhere.
    pub fn init(config: &QFormerConfig, seed: u64, device: Device) -> Result<Self, WeightsError> {
        Self::load(&Initialiser::new(seed, config, device), config)
    }

    fn load(source: &dyn TensorSource, config: &QFormerConfig) -> Result<Self, WeightsError> {
        let trainable = parameters::Recorder::new(source);
        let model = Self::from_scope(&Scope::root(&trainable), config)?;
        Ok(QFormer { parameters: trainable.into_parameters(), ..model })
    }

    /// Parameters of a model of `config`.
    pub fn parameter_count(config: &QFormerConfig) -> Result<i64, WeightsError> {
        parameter_count(|scope| Self::from_scope(scope, config))
    }

    /// The same without the language-model head and the temperature, for which Hugging Face's retrieval model has no place.
    pub fn retrieval_parameter_count(config: &QFormerConfig) -> Result<i64, WeightsError> {
        let temperature = 1;
        let head = parameter_count(|scope| LanguageHead::load(scope, config, &Tensor::new()))?;
        Ok(Self::parameter_count(config)? - head - temperature)
    }

    /// Takes the tensors out of `root`; none is recorded as a parameter.
    fn from_scope(root: &Scope, config: &QFormerConfig) -> Result<Self, WeightsError> {
        config.validate()?;
        let (hidden, embed) = (config.hidden_size, config.embed_dim);
        let query_tokens = root.tensor("query_tokens", &[1, config.num_query_token, hidden])?;
        let temp = root.tensor("temp", &[])?;
        let ln_vision = LayerNorm::load(&root.sub("ln_vision"), config.encoder_width, config.ln_vision_eps)?;
        let bert = Bert::load(&root.sub("Qformer.bert"), config, Sides::Both)?;
        let cls = LanguageHead::load(&root.sub("Qformer.cls.predictions"), config, bert.word_embeddings())?;
        let vision_proj = Linear::load(&root.sub("vision_proj"), hidden, embed)?;
        let text_proj = Linear::load(&root.sub("text_proj"), hidden, embed)?;
        let itm_head = Linear::load(&root.sub("itm_head"), hidden, 2)?;
        let config = config.clone();
        let parameters = Parameters::default();
        Ok(QFormer { config, parameters, query_tokens, temp, ln_vision, bert, cls, vision_proj, text_proj, itm_head })
    }

    /// The trainable tensors in LAVIS' names and order.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// Where the weights are.
    pub fn device(&self) -> Device {
        self.query_tokens.device()
    }

    /// The learned temperature that divides ITC's similarities, `[]`.
    pub fn temperature(&self) -> &Tensor {
        &self.temp
    }

    /// Frozen features `[B, N, V]` through the trainable LayerNorm, as every cross-attention reads them.
    pub fn image_memory(&self, features: &Tensor) -> ImageMemory {
        self.bert.image_memory(&self.ln_vision.forward(features))
    }

    /// The query transformer over `images` (unimodal: text is not there).
    pub fn queries(&self, images: &ImageMemory, dropout: &Dropout) -> Queries {
        let (hidden, past) = self.bert.queries(&self.query_tokens, images, dropout);
        Queries { hidden, past }
    }

    /// The text transformer (unimodal: the queries are not there): ids and mask `[B, L]` -> `[B, L, D]`, or `[B, 1, D]`
    /// of what is read.
    pub fn text(&self, ids: &Tensor, mask: &Tensor, outputs: Outputs, dropout: &Dropout) -> Tensor {
        let visible = masks::text(mask);
        let wanted = (outputs == Outputs::Read).then_some(1);
        let pass = Pass { visible: Some(&visible), wanted, ..Pass::new(dropout) };
        self.bert.encode(self.bert.embed(Some(ids), None, 0, dropout), &pass).0
    }

    /// Text that sees all queries and the tokens before it (multimodal causal): ids and mask `[B, L]` -> `[B, L, D]`.
    pub fn language(&self, ids: &Tensor, mask: &Tensor, past: &[KeyValues], dropout: &Dropout) -> Tensor {
        let queries = self.config.num_query_token;
        let length = mask.size()[1];
        let visible = masks::multimodal_causal(mask, queries).narrow(2, queries, length);
        let pass = Pass { visible: Some(&visible), past: Some(past), ..Pass::new(dropout) };
        self.bert.encode(self.bert.embed(Some(ids), None, 0, dropout), &pass).0
    }

    /// Queries and text together (bidirectional): ids and mask `[B, L]` -> `[B, Q + L, D]`, or `[B, Q, D]` of what is
    /// read.
    pub fn matching(
        &self,
        images: &ImageMemory,
        ids: &Tensor,
        mask: &Tensor,
        outputs: Outputs,
        dropout: &Dropout,
    ) -> Tensor {
        let queries = self.config.num_query_token;
        let tokens = self.query_tokens.expand([ids.size()[0], -1, -1], false);
        let visible = masks::bidirectional(mask, queries);
        let embedded = self.bert.embed(Some(ids), Some(&tokens), 0, dropout);
        let wanted = (outputs == Outputs::Read).then_some(queries);
        let pass = Pass { visible: Some(&visible), images: Some(images), queries, wanted, ..Pass::new(dropout) };
        self.bert.encode(embedded, &pass).0
    }

    /// Contrastive features of the query outputs: `[B, Q, D] -> [B, Q, E]`, of length one.
    pub fn image_features(&self, hidden: &Tensor) -> Tensor {
        normalize(&self.vision_proj.forward(hidden))
    }

    /// Contrastive features of the text's first token: `[B, 1 or more, D] -> [B, E]`, of length one.
    pub fn text_features(&self, hidden: &Tensor) -> Tensor {
        normalize(&self.text_proj.forward(&hidden.select(1, 0)))
    }

    /// The tied language-model head: `[.., D] -> [.., vocabulary]`.
    pub fn language_logits(&self, hidden: &Tensor) -> Tensor {
        self.cls.forward(hidden, self.bert.word_embeddings())
    }

    /// The matching head on every query output, averaged after it: `[B, Q or more, D] -> [B, 2]`.
    pub fn matching_logits(&self, hidden: &Tensor) -> Tensor {
        let queries = hidden.narrow(1, 0, self.config.num_query_token);
        self.itm_head.forward(&queries).mean_dim(&[1i64][..], false, Kind::Float)
    }
}

fn normalize(x: &Tensor) -> Tensor {
    x / x.norm_scalaropt_dim(2.0, [-1i64], true).clamp_min(NORMALIZE_EPS)
}
