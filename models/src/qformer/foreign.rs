//! Q-Formers that others trained: LAVIS' checkpoints and Hugging Face's `Blip2*` folders, under quern's names.
//!
//! A LAVIS checkpoint (`{"model": …}`, of stage 1 or 2) has quern's names already; what it holds of the frozen encoder
//! and of the language model is left to those. A Hugging Face folder (`Blip2ForImageTextRetrieval`: stage 1;
//! `Blip2ForConditionalGeneration`: stage 2; `Blip2QFormerModel`: the blocks alone) is translated by [`names`]. It has no
//! place for stage 1's temperature and language-model head: quern's export puts them into [`EXTRA_FILE`] beside the
//! model, and they are read from there.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tch::{Device, Kind, Tensor};

use crate::config::config_value;
use crate::weights::{TensorSource, Weights, WeightsError, read_json};

use super::{Bridge, BridgeConfig, Initialiser, QFormer, QFormerConfig, names};

/// Tensors that Hugging Face's classes have no place for, under LAVIS' names.
pub const EXTRA_FILE: &str = "quern_extra.safetensors";
/// What `config.json` says of a whole BLIP-2, and of its Q-Former alone.
const BLIP2: &str = "blip-2";
const BLIP2_QFORMER: &str = "blip_2_qformer";
/// What `Blip2QFormerModel` on its own calls its tensors without.
const QFORMER_PREFIX: &str = "qformer.";
const WORD_EMBEDDINGS: &str = "Qformer.bert.embeddings.word_embeddings.weight";
/// Stage 1's tensors that Hugging Face has no place for.
const TEMPERATURE: &str = "temp";
const LANGUAGE_HEAD: &str = "Qformer.cls.";

/// A checkpoint's Q-Former.
pub struct Checkpoint {
    weights: Weights,
    location: String,
    /// Of a Hugging Face folder.
    folder: Option<FolderConfig>,
}

/// What is done where a Hugging Face folder lacks stage 1's temperature and language-model head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Absent {
    /// It is an error: going on with stage 1 needs both.
    Refused,
    /// 0.07 and random weights stand in: for stage 2 and for retrieval, which read neither.
    Untrained,
}

/// What an export of quern's writes into `config.json` under `quern`: what Hugging Face's config can't state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Remembered {
    /// The Q-Former's sizes.
    pub qformer: QFormerConfig,
    /// Id of `[DEC]`; stage 1's alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decoder_start: Option<i64>,
}

/// What `config.json` says of the Q-Former.
struct FolderConfig {
    qformer: QFormerFields,
    ln_vision_eps: f64,
    num_query_tokens: Option<i64>,
    embed_dim: i64,
    image_token: Option<i64>,
    quern: Option<Remembered>,
}

/// `Blip2Config`; absent fields have Hugging Face's defaults.
#[derive(Deserialize)]
struct Blip2Fields {
    #[serde(default)]
    qformer_config: QFormerFields,
    #[serde(default)]
    vision_config: VisionFields,
    #[serde(default)]
    text_config: TextFields,
    #[serde(default = "default_num_query_tokens")]
    num_query_tokens: i64,
    #[serde(default = "default_image_text_hidden_size")]
    image_text_hidden_size: i64,
    image_token_index: Option<i64>,
    quern: Option<Remembered>,
}

fn default_num_query_tokens() -> i64 {
    32
}

fn default_image_text_hidden_size() -> i64 {
    256
}

/// `Blip2QFormerConfig`.
#[derive(Deserialize)]
#[serde(default)]
struct QFormerFields {
    vocab_size: i64,
    hidden_size: i64,
    num_hidden_layers: i64,
    num_attention_heads: i64,
    intermediate_size: i64,
    hidden_act: String,
    hidden_dropout_prob: f64,
    attention_probs_dropout_prob: f64,
    max_position_embeddings: i64,
    initializer_range: f64,
    layer_norm_eps: f64,
    pad_token_id: Option<i64>,
    cross_attention_frequency: i64,
    encoder_hidden_size: i64,
    quern: Option<Remembered>,
}

impl Default for QFormerFields {
    fn default() -> Self {
        QFormerFields {
            vocab_size: 30522,
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            intermediate_size: 3072,
            hidden_act: "gelu".into(),
            hidden_dropout_prob: 0.1,
            attention_probs_dropout_prob: 0.1,
            max_position_embeddings: 512,
            initializer_range: 0.02,
            layer_norm_eps: 1e-12,
            pad_token_id: Some(0),
            cross_attention_frequency: 2,
            encoder_hidden_size: 1408,
            quern: None,
        }
    }
}

/// What of `Blip2VisionConfig` concerns the Q-Former.
#[derive(Deserialize)]
#[serde(default)]
struct VisionFields {
    hidden_size: i64,
    layer_norm_eps: f64,
}

impl Default for VisionFields {
    fn default() -> Self {
        VisionFields { hidden_size: 1408, layer_norm_eps: 1e-6 }
    }
}

#[derive(Deserialize)]
#[serde(default)]
struct TextFields {
    model_type: String,
}

impl Default for TextFields {
    fn default() -> Self {
        TextFields { model_type: "opt".into() }
    }
}

/// What is read first.
#[derive(Deserialize)]
struct ModelType {
    model_type: Option<String>,
}

/// The sizes of the Q-Former in a `Blip2Config`, as JSON.
///
/// # Errors
/// When a field is of another type.
pub fn sizes_of_blip2(config: &Value) -> Result<QFormerConfig, WeightsError> {
    let fields: Blip2Fields = config_value("the config", config.clone())?;
    let queries = fields.num_query_tokens;
    Ok(FolderConfig::of_blip2(fields).sizes(queries))
}

impl Checkpoint {
    /// Opens a LAVIS checkpoint (a file, or a folder of quern's) or a Hugging Face folder; tensors arrive on `device` in
    /// single precision.
    ///
    /// # Errors
    /// When there are no weights, they are damaged, or the folder is another model's.
    pub fn open(path: &Path, device: Device) -> Result<Self, WeightsError> {
        let config = path.join("config.json");
        if !config.is_file() {
            let weights = Weights::open(path, device, Kind::Float)?;
            let weights = weights.rename(|name| (!names::is_other_part(name)).then(|| name.to_string()))?;
            return Ok(Checkpoint { weights, location: path.display().to_string(), folder: None });
        }
        let ModelType { model_type } = read_json(&config)?;
        let (folder, prefix, projection) = match model_type.as_deref() {
            Some(BLIP2) => {
                let fields: Blip2Fields = read_json(&config)?;
                let projection = if fields.text_config.model_type == "t5" { "t5_proj" } else { "opt_proj" };
                (FolderConfig::of_blip2(fields), "", projection)
            }
            Some(BLIP2_QFORMER) => (FolderConfig::of_qformer(read_json(&config)?), QFORMER_PREFIX, ""),
            other => {
                let found = other.unwrap_or("nothing");
                let reason = format!(
                    "model_type is {found:?}, but a Q-Former is read from {BLIP2:?} (Blip2ForImageTextRetrieval, \
                     Blip2ForConditionalGeneration) or {BLIP2_QFORMER:?} (Blip2QFormerModel)"
                );
                return Err(config_error(&config, reason));
            }
        };
        if folder.qformer.hidden_act != "gelu" {
            let reason = format!("hidden_act is {:?}, but a Q-Former's is \"gelu\"", folder.qformer.hidden_act);
            return Err(config_error(&config, reason));
        }
        let mut weights = Weights::open(path, device, Kind::Float)?.rename(|name| {
            let name = format!("{prefix}{name}");
            let own = names::to_lavis(&name, projection);
            // A name that nobody knows stays, so that it is found to be surplus.
            own.or_else(|| (!names::is_other_part_of_hugging_face(&name)).then_some(name))
        })?;
        let extra = path.join(EXTRA_FILE);
        if extra.is_file() {
            weights = weights.with(Weights::open(&extra, device, Kind::Float)?)?;
        }
        Ok(Checkpoint { weights, location: path.display().to_string(), folder: Some(folder) })
    }

    /// Whether there is a Hugging Face folder of another model than a Q-Former at `path`, such as a BERT's.
    pub fn is_other_model(path: &Path) -> bool {
        let model_type = read_json(&path.join("config.json")).ok().and_then(|ModelType { model_type }| model_type);
        model_type.is_some_and(|model_type| model_type != BLIP2 && model_type != BLIP2_QFORMER)
    }

    /// Whether it is of stage 2: it holds a projection to a language model.
    pub fn is_of_stage2(&self) -> bool {
        self.weights.names().any(names::is_projection)
    }

    /// The Q-Former's sizes, as far as a Hugging Face folder states them; LAVIS' checkpoints state none.
    pub fn config(&self) -> Option<QFormerConfig> {
        let folder = self.folder.as_ref()?;
        let queries = folder.num_query_tokens.or_else(|| Some(self.weights.shape("query_tokens")?[1]))?;
        Some(folder.sizes(queries))
    }

    /// The stage-1 model of these sizes, from all of the checkpoint's tensors.
    ///
    /// # Errors
    /// When the checkpoint contradicts `config`, is one of stage 2, or lacks what `absent` insists on.
    pub fn stage1(self, config: &QFormerConfig, absent: Absent) -> Result<QFormer, WeightsError> {
        self.agrees_with(config)?;
        let lacks_head = self.folder.is_some() && !self.weights.has(TEMPERATURE);
        if lacks_head && absent == Absent::Refused {
            let reason = format!(
                "Hugging Face's classes have no place for stage 1's temperature and language-model head ({TEMPERATURE}, \
                 {LANGUAGE_HEAD}*), and there is no {EXTRA_FILE} beside the model; go on with stage 1 from LAVIS' .pth or \
                 from an export of quern's (stage 2 and retrieval need neither)"
            );
            return Err(WeightsError::Config { location: self.location, reason });
        }
        let drawn = lacks_head.then(|| Drawn {
            tensors: Initialiser::new(0, config, self.weights.device()),
            prefixes: vec![TEMPERATURE, LANGUAGE_HEAD],
        });
        let surplus_words = self.folder.as_ref().and_then(|folder| folder.image_token) == Some(config.vocab_size);
        let loaded = QFormer::load(&Completed { stored: &self.weights, drawn, surplus_words }, config);
        loaded.and_then(|model| self.weights.finish().map(|()| model)).map_err(|error| self.in_its_own_names(error))
    }

    /// What stage 2 trains, of these sizes: the query side of a checkpoint of either stage. The projection is the
    /// checkpoint's; stage 1's have none, and it is drawn by `seed` then.
    ///
    /// # Errors
    /// When the checkpoint contradicts `config`, or holds the projection to another kind of language model.
    pub fn bridge(self, config: &BridgeConfig, seed: u64) -> Result<Bridge, WeightsError> {
        self.agrees_with(&config.qformer)?;
        let weights = self.weights.rename(|name| (!names::is_stage1_only(name)).then(|| name.to_string()))?;
        let own = Checkpoint { weights, ..self };
        let drawn = (!own.weights.names().any(names::is_projection)).then(|| Drawn {
            tensors: Initialiser::new(seed, &config.qformer, own.weights.device()),
            prefixes: vec![config.projection.name()],
        });
        let loaded = Bridge::load(&Completed { stored: &own.weights, drawn, surplus_words: false }, config);
        loaded.and_then(|bridge| own.weights.finish().map(|()| bridge)).map_err(|error| own.in_its_own_names(error))
    }

    /// What a Hugging Face config says and tensors' shapes can't show must be what `config` says.
    fn agrees_with(&self, config: &QFormerConfig) -> Result<(), WeightsError> {
        let Some(folder) = self.config() else { return Ok(()) };
        let facts = [
            ("num_attention_heads", folder.num_attention_heads as f64, config.num_attention_heads as f64),
            ("cross_attention_frequency", folder.cross_attention_freq as f64, config.cross_attention_freq as f64),
            ("num_hidden_layers", folder.num_hidden_layers as f64, config.num_hidden_layers as f64),
            ("encoder_hidden_size", folder.encoder_width as f64, config.encoder_width as f64),
            ("layer_norm_eps", folder.layer_norm_eps, config.layer_norm_eps),
        ];
        match facts.into_iter().find(|(_, found, expected)| found != expected) {
            Some((name, found, expected)) => {
                let reason =
                    format!("config.json says {name} {found}, but the Q-Former that is asked for has {expected}");
                Err(WeightsError::Config { location: self.location.clone(), reason })
            }
            None => Ok(()),
        }
    }

    /// The error with the name that the tensor has in the file, where that is another.
    fn in_its_own_names(&self, error: WeightsError) -> WeightsError {
        let own = |name: String| match names::to_hugging_face(&name).filter(|_| self.folder.is_some()) {
            Some(own) if own != name => format!("{own} (LAVIS: {name})"),
            _ => name,
        };
        match error {
            WeightsError::Missing { name, expected, location, near } => {
                WeightsError::Missing { name: own(name), expected, location, near }
            }
            WeightsError::Shape { name, expected, found, location } => {
                WeightsError::Shape { name: own(name), expected, found, location }
            }
            other => other,
        }
    }
}

impl FolderConfig {
    /// The Q-Former's sizes with `queries` queries.
    fn sizes(&self, queries: i64) -> QFormerConfig {
        if let Some(quern) = &self.quern {
            return quern.qformer.clone();
        }
        let fields = &self.qformer;
        QFormerConfig {
            vocab_size: fields.vocab_size,
            hidden_size: fields.hidden_size,
            num_hidden_layers: fields.num_hidden_layers,
            num_attention_heads: fields.num_attention_heads,
            intermediate_size: fields.intermediate_size,
            max_position_embeddings: fields.max_position_embeddings,
            layer_norm_eps: fields.layer_norm_eps,
            initializer_range: fields.initializer_range,
            hidden_dropout_prob: fields.hidden_dropout_prob,
            attention_probs_dropout_prob: fields.attention_probs_dropout_prob,
            cross_attention_freq: fields.cross_attention_frequency,
            encoder_width: fields.encoder_hidden_size,
            num_query_token: queries,
            embed_dim: self.embed_dim,
            pad_token_id: fields.pad_token_id.unwrap_or(0),
            ln_vision_eps: self.ln_vision_eps,
        }
    }

    fn of_blip2(fields: Blip2Fields) -> Self {
        // Blip2Config overrules the Q-Former's own idea of the encoder's width.
        let encoder_hidden_size = fields.vision_config.hidden_size;
        FolderConfig {
            qformer: QFormerFields { encoder_hidden_size, ..fields.qformer_config },
            ln_vision_eps: fields.vision_config.layer_norm_eps,
            num_query_tokens: Some(fields.num_query_tokens),
            embed_dim: fields.image_text_hidden_size,
            image_token: fields.image_token_index,
            quern: fields.quern,
        }
    }

    fn of_qformer(mut fields: QFormerFields) -> Self {
        FolderConfig {
            quern: fields.quern.take(),
            qformer: fields,
            ln_vision_eps: QFormerConfig::LN_VISION_EPS,
            num_query_tokens: None,
            embed_dim: default_image_text_hidden_size(),
            image_token: None,
        }
    }
}

/// A checkpoint's tensors, and drawn ones for what it may lack.
struct Completed<'a> {
    stored: &'a Weights,
    drawn: Option<Drawn>,
    /// Whether rows behind the vocabulary are those of the processor's `<image>` token, which the model never reads.
    surplus_words: bool,
}

struct Drawn {
    tensors: Initialiser,
    /// Of the names that may be drawn.
    prefixes: Vec<&'static str>,
}

impl TensorSource for Completed<'_> {
    fn tensor(&self, name: &str, shape: &[i64]) -> Result<Tensor, WeightsError> {
        match (&self.drawn, self.stored.shape(name)) {
            (Some(drawn), None) if drawn.prefixes.iter().any(|prefix| name.starts_with(prefix)) => {
                drawn.tensors.tensor(name, shape)
            }
            (_, Some(stored)) if self.surplus_words && name == WORD_EMBEDDINGS && stored[0] > shape[0] => {
                Ok(self.stored.tensor(name, &stored)?.narrow(0, 0, shape[0]))
            }
            _ => self.stored.tensor(name, shape),
        }
    }

    fn has(&self, name: &str) -> bool {
        self.stored.has(name)
    }

    fn tied(&self, name: &str, tied_to: &str, value: &Tensor) -> Result<(), WeightsError> {
        self.stored.tied(name, tied_to, value)
    }
}

fn config_error(path: &Path, reason: String) -> WeightsError {
    WeightsError::Config { location: path.display().to_string(), reason }
}

#[cfg(test)]
mod tests;
