//! The start from a BERT (BLIP-2 §3.1; LAVIS `init_Qformer` and `Blip2Qformer.__init__`).
//!
//! Text side, self-attention and language-model head are the BERT's. The queries' feed-forward layers are copies of the
//! text's. Cross-attention, query tokens, `ln_vision`, projections and matching head are drawn as [`Initialiser`] draws
//! them, and so is the embedding of `[DEC]`, the one token that the vocabulary has beyond the BERT's. Pooler,
//! next-sentence head and token-type embeddings are left out, as in LAVIS.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use tch::{Device, Kind, Tensor};

use crate::tokenize::Tokenizer;
use crate::weights::{TensorSource, Weights, WeightsError, read_json};

use super::{Initialiser, QFormer, QFormerConfig};

/// What a BERT has and a Q-Former has not.
const LEFT_OUT: [&str; 3] = ["pooler.", "cls.seq_relationship.", "embeddings.token_type_embeddings."];
/// LAVIS' prefixes of what comes from the BERT, and the BERT's own.
const PARTS: [(&str, &str); 2] = [("Qformer.bert.", ""), ("Qformer.cls.", "cls.")];
const LANGUAGE_HEAD: &str = "cls.predictions.";
const WORD_EMBEDDINGS: &str = "embeddings.word_embeddings.weight";
const LANGUAGE_BIAS: &str = "cls.predictions.bias";

/// What of a BERT's `config.json` its tensors' shapes don't show; absent fields have Hugging Face's defaults.
#[derive(Deserialize)]
#[serde(default)]
struct BertFields {
    model_type: String,
    num_attention_heads: i64,
    hidden_act: String,
    layer_norm_eps: f64,
}

impl Default for BertFields {
    fn default() -> Self {
        BertFields {
            model_type: "bert".into(),
            num_attention_heads: 12,
            hidden_act: "gelu".into(),
            layer_norm_eps: 1e-12,
        }
    }
}

impl QFormer {
    /// A model before its first step, from the BERT in the Hugging Face folder `bert`; `tokenizer` is the one that texts
    /// are encoded with, `[DEC]` included. The same for the same `seed` everywhere.
    ///
    /// # Errors
    /// When the BERT has other sizes than `config`, or numbers its tokens otherwise than `tokenizer`.
    pub fn from_bert_folder(
        bert: &Path,
        tokenizer: &Tokenizer,
        config: &QFormerConfig,
        seed: u64,
        device: Device,
    ) -> Result<Self, WeightsError> {
        let path = bert.join("config.json");
        let refuse = |reason: String| Err(WeightsError::Config { location: path.display().to_string(), reason });
        let fields: BertFields = read_json(&path)?;
        if fields.model_type != "bert" || fields.hidden_act != "gelu" {
            let BertFields { model_type, hidden_act, .. } = fields;
            return refuse(format!(
                "a Q-Former starts from a \"bert\" with \"gelu\", not {model_type:?} with {hidden_act:?}"
            ));
        }
        if fields.num_attention_heads != config.num_attention_heads {
            let (found, expected) = (fields.num_attention_heads, config.num_attention_heads);
            return refuse(format!("num_attention_heads is {found}, but the Q-Former has {expected}"));
        }
        if fields.layer_norm_eps != config.layer_norm_eps {
            let (found, expected) = (fields.layer_norm_eps, config.layer_norm_eps);
            return refuse(format!("layer_norm_eps is {found}, but the Q-Former has {expected}"));
        }
        let weights = Weights::open(bert, device, Kind::Float)?;
        same_tokens(bert, tokenizer)?;
        QFormer::init_from_bert(weights, config, seed, device)
    }

    /// The same from a BERT's tensors: of a `BertModel`, a `BertForMaskedLM` or a `BertForPreTraining`, with `bert.` before
    /// their names or without, LayerNorms with `weight` and `bias` or `gamma` and `beta`. A `BertModel` has no
    /// language-model head; it is drawn then.
    ///
    /// # Errors
    /// When a tensor is missing, surplus or of another size than `config` says; the vocabulary must be the BERT's, or the
    /// BERT's and `[DEC]` behind it.
    pub fn init_from_bert(
        weights: Weights,
        config: &QFormerConfig,
        seed: u64,
        device: Device,
    ) -> Result<Self, WeightsError> {
        let weights = weights.rename(canonical)?;
        let has_head = weights.names().any(|name| name.starts_with(LANGUAGE_HEAD));
        let drawn = Initialiser::new(seed, config, device);
        let source = Bert { weights: &weights, has_head, drawn, taken: RefCell::default() };
        let model = QFormer::load(&source, config)?;
        weights.finish()?;
        Ok(model)
    }
}

/// Hugging Face's name without `bert.`, with LayerNorm's new names; none for what is left out.
fn canonical(name: &str) -> Option<String> {
    let name = name.strip_prefix("bert.").unwrap_or(name);
    if LEFT_OUT.iter().any(|part| name.starts_with(part)) {
        return None;
    }
    let renamed = [(".LayerNorm.gamma", ".LayerNorm.weight"), (".LayerNorm.beta", ".LayerNorm.bias")];
    let renamed = renamed.iter().find_map(|(old, new)| Some(format!("{}{new}", name.strip_suffix(old)?)));
    Some(renamed.unwrap_or_else(|| name.to_string()))
}

/// The BERT's name of the tensor that becomes LAVIS' `name`; none: it is drawn.
fn origin(name: &str) -> Option<String> {
    if name.contains(".crossattention.") {
        return None;
    }
    let (from, to) = PARTS.iter().find(|(from, _)| name.starts_with(from))?;
    let name = format!("{to}{}", &name[from.len()..]);
    Some(name.replace(".intermediate_query.", ".intermediate.").replace(".output_query.", ".output."))
}

/// Where the BERT's folder holds a tokenizer, its tokens must have the same ids in `tokenizer`.
fn same_tokens(bert: &Path, tokenizer: &Tokenizer) -> Result<(), WeightsError> {
    let own = Tokenizer::load(bert).map_err(|error| WeightsError::Config {
        location: bert.display().to_string(),
        reason: format!("{error}; without it nobody knows which token an embedding belongs to"),
    })?;
    match own.first_difference(tokenizer) {
        None => Ok(()),
        Some((token, id)) => Err(WeightsError::Config {
            location: bert.display().to_string(),
            reason: format!(
                "its token {token:?} has the id {id}, but the recipe's tokenizer gives it {}; take the tokenizer of this BERT",
                tokenizer.token_id(&token).map_or("none".to_string(), |id| id.to_string())
            ),
        }),
    }
}

/// A BERT's tensors where they serve, drawn ones where not.
struct Bert<'a> {
    weights: &'a Weights,
    has_head: bool,
    drawn: Initialiser,
    /// Those taken so far: some serve twice.
    taken: RefCell<BTreeMap<String, Tensor>>,
}

impl Bert<'_> {
    /// `name` of the BERT, of `shape` but for the entry of `[DEC]`, which is drawn as one of LAVIS' `lavis`.
    fn stored(&self, name: &str, lavis: &str, shape: &[i64]) -> Result<Tensor, WeightsError> {
        let entries = self.weights.shape(name).and_then(|stored| stored.first().copied()).unwrap_or(0);
        if entries + 1 != shape[0] || !(name == WORD_EMBEDDINGS || name == LANGUAGE_BIAS) {
            return self.weights.tensor(name, shape);
        }
        let mut known = shape.to_vec();
        known[0] = entries;
        let stored = self.weights.tensor(name, &known)?;
        let added = self.drawn.tensor(lavis, shape)?.narrow(0, entries, 1);
        Ok(Tensor::cat(&[stored, added], 0))
    }
}

impl TensorSource for Bert<'_> {
    fn tensor(&self, name: &str, shape: &[i64]) -> Result<Tensor, WeightsError> {
        let origin = origin(name).filter(|origin| self.has_head || !origin.starts_with(LANGUAGE_HEAD));
        let Some(origin) = origin else { return self.drawn.tensor(name, shape) };
        if let Some(tensor) = self.taken.borrow().get(&origin) {
            return Ok(tensor.shallow_clone());
        }
        let tensor = self.stored(&origin, name, shape)?;
        self.taken.borrow_mut().insert(origin, tensor.shallow_clone());
        Ok(tensor)
    }

    fn has(&self, _name: &str) -> bool {
        true
    }

    fn tied(&self, name: &str, tied_to: &str, value: &Tensor) -> Result<(), WeightsError> {
        let Some(origin) = origin(name) else { return Ok(()) };
        let entries = self.weights.shape(&origin).map_or(0, |stored| stored[0]);
        self.weights.tied(&origin, tied_to, &value.narrow(0, 0, entries.min(value.size()[0])))
    }
}

#[cfg(test)]
mod tests;
