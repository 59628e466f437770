//! The language model inside a `Blip2ForConditionalGeneration`: its folder's tensors and config, with a place for the
//! `<image>` token that transformers puts where the visual tokens go.

use std::path::Path;

use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

use crate::opt::{Opt, OptConfig};
use crate::save::Outgoing;
use crate::t5::{T5, T5Config, T5Gelu};
use crate::weights::{Scope, Weights, WeightsError, read_json};

use super::inventory::Inventory;

/// What of a language model's config belongs to its folder, not to the model.
const OF_THE_FOLDER: [&str; 5] = ["architectures", "transformers_version", "_name_or_path", "torch_dtype", "dtype"];
/// What transformers calls a T5's gated GELU by the error function; its `gated-gelu` means the tanh approximation.
const T5_ERROR_FUNCTION: &str = "gated-gelu_python";
const HEAD: &str = "lm_head.weight";
/// The tables with a row per token, as transformers names them.
const TABLES: [&str; 3] = ["model.decoder.embed_tokens.weight", "shared.weight", HEAD];
/// An OPT that was saved without its head lacks this before its names.
const OPT_PREFIX: &str = "model.";
/// And is known by this one.
const BARE_OPT: &str = "decoder.embed_tokens.weight";

/// A language model that is copied into an export.
pub struct LanguagePart {
    config: Value,
    weights: Weights,
    /// Every tensor that the model takes, by its name in the folder and by that in the export.
    names: Vec<(String, String)>,
    image_token: i64,
    /// Whether `<image>` needs a row of its own behind the vocabulary.
    grows: bool,
}

impl LanguagePart {
    /// Opens the OPT or T5 in `folder`. `image_token` is the first id that its tokenizer leaves free; where the model has no
    /// embedding for it, one is added: the mean of all, whose logit is never the highest.
    ///
    /// # Errors
    /// When the folder does not hold such a model, or the tokenizer has more tokens than it.
    pub fn open(folder: &Path, image_token: i64, gelu: T5Gelu) -> Result<Self, WeightsError> {
        let path = folder.join("config.json");
        let refuse = |reason: String| WeightsError::Config { location: path.display().to_string(), reason };
        let mut config: Value = read_json(&path)?;
        let parsed = |error: serde_json::Error| refuse(error.to_string());
        let weights = Weights::open(folder, Device::Cpu, Kind::Float)?;
        let inventory = Inventory::of(&weights);
        let root = Scope::root(&inventory);
        match config.get("model_type").and_then(Value::as_str) {
            Some("opt") => {
                let own: OptConfig = serde_json::from_value(config.clone()).map_err(parsed)?;
                Opt::from_scope(&root, own)?;
            }
            Some("t5") => {
                let own: T5Config = serde_json::from_value(config.clone()).map_err(parsed)?;
                let scaled = own.scale_decoder_outputs.unwrap_or(own.tie_word_embeddings);
                T5::from_scope(&root, own, gelu)?;
                // By this transformers tells whether the decoder's states are scaled.
                config["tie_word_embeddings"] = json!(scaled);
                if gelu == T5Gelu::Lavis && config["feed_forward_proj"] == "gated-gelu" {
                    config["feed_forward_proj"] = json!(T5_ERROR_FUNCTION);
                    config["dense_act_fn"] = json!("gelu_python");
                }
            }
            other => return Err(refuse(format!("model_type {other:?} is no language model that quern knows"))),
        }
        let bare = weights.shape(BARE_OPT).is_some();
        let exported = |name: &str| if bare && name != HEAD { format!("{OPT_PREFIX}{name}") } else { name.to_string() };
        let names: Vec<(String, String)> =
            inventory.into_names().into_iter().map(|name| (name.clone(), exported(&name))).collect();
        if let Some(fields) = config.as_object_mut() {
            fields.retain(|key, _| !OF_THE_FOLDER.contains(&key.as_str()));
        }
        let table = names.iter().find(|(_, name)| TABLES.contains(&name.as_str()));
        let vocabulary = table.and_then(|(name, _)| Some(weights.shape(name)?[0])).unwrap_or(0);
        if image_token > vocabulary {
            return Err(refuse(format!("vocab_size is {vocabulary}, but the tokenizer has {image_token} tokens")));
        }
        let grows = image_token == vocabulary;
        config["vocab_size"] = json!(vocabulary + i64::from(grows));
        Ok(LanguagePart { config, weights, names, image_token, grows })
    }

    /// Makes `token` what generation ends with, as LAVIS ends an OPT's captions with the newline.
    pub fn end_with(&mut self, token: i64) {
        self.config["eos_token_id"] = json!(token);
    }

    /// Id of `<image>`.
    pub fn image_token(&self) -> i64 {
        self.image_token
    }

    /// Whether the head is the embedding.
    pub(super) fn is_tied(&self) -> bool {
        !self.names.iter().any(|(_, name)| name == HEAD)
    }

    /// Its config.
    pub(super) fn config(&self) -> &Value {
        &self.config
    }

    /// Its tensors, their names after `prefix`.
    pub(super) fn tensors(&self, prefix: &str) -> Vec<Outgoing<'_>> {
        let tensor = |(stored, name): &(String, String)| {
            let tensor = self.weights.outgoing(stored).expect("the inventory lists what is there");
            let tensor = tensor.called(format!("{prefix}{name}"));
            if !self.grows || !TABLES.contains(&name.as_str()) {
                return tensor;
            }
            let mut shape = tensor.shape.clone();
            shape[0] += 1;
            tensor.changed(shape, |table| {
                let mean = table.mean_dim(&[0i64][..], true, Kind::Float).to_kind(table.kind());
                Tensor::cat(&[table, mean], 0)
            })
        };
        self.names.iter().map(tensor).collect()
    }
}
