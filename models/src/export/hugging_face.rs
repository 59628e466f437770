//! Folders for transformers' `from_pretrained`: `Blip2ForImageTextRetrieval` (stage 1), `Blip2ForConditionalGeneration`
//! (stage 2), `Blip2QFormerModel` (the blocks alone, whatever the image encoder). Reference: transformers 5.17
//! `modeling_blip_2.py`.
//!
//! Weights are stored in the precision that they have; `dtype` is single precision, so that a half-precision language
//! model does not take the Q-Former's projections along. Tokenizer and preprocessor are the caller's.

use std::path::Path;

use serde_json::{Value, json};

use crate::qformer::foreign::{EXTRA_FILE, Remembered};
use crate::qformer::{Bridge, Parameters, QFormer, QFormerConfig, names};
use crate::save::{Outgoing, SaveError, write_safetensors, write_shards};

use super::{LanguagePart, VisionPart};

/// What a whole BLIP-2 calls its Q-Former.
const QFORMER_PREFIX: &str = "qformer.";

/// Writes stage 1's `model` behind the image tower `vision` as a `Blip2ForImageTextRetrieval` into `folder`.
/// `decoder_start` is the id of `[DEC]`.
///
/// # Errors
/// When the file system refuses.
pub fn retrieval(
    folder: &Path,
    model: &QFormer,
    decoder_start: i64,
    vision: &VisionPart,
    max_shard_bytes: u64,
) -> Result<(), SaveError> {
    let config = &model.config;
    let fields = json!({
        "architectures": ["Blip2ForImageTextRetrieval"],
        "model_type": "blip-2",
        "dtype": "float32",
        "num_query_tokens": config.num_query_token,
        "image_text_hidden_size": config.embed_dim,
        "image_token_index": null,
        "qformer_config": qformer_fields(config, true),
        "vision_config": vision.config(),
        "quern": Remembered { qformer: config.clone(), decoder_start: Some(decoder_start) },
    });
    let mut tensors = vision.tensors("vision_model.");
    tensors.extend(placed(model.parameters(), names::to_hugging_face));
    write_folder(folder, &fields, tensors, model.parameters(), max_shard_bytes)
}

/// Writes stage 2's `model` between the image tower `vision` and the language model `language` as a
/// `Blip2ForConditionalGeneration` into `folder`.
///
/// # Errors
/// When the file system refuses.
pub fn generation(
    folder: &Path,
    model: &Bridge,
    vision: &VisionPart,
    language: &LanguagePart,
    max_shard_bytes: u64,
) -> Result<(), SaveError> {
    let config = &model.config.qformer;
    let fields = json!({
        "architectures": ["Blip2ForConditionalGeneration"],
        "model_type": "blip-2",
        "dtype": "float32",
        "num_query_tokens": config.num_query_token,
        "image_token_index": language.image_token(),
        "tie_word_embeddings": language.is_tied(),
        "qformer_config": qformer_fields(config, false),
        "vision_config": vision.config(),
        "text_config": language.config(),
        "quern": Remembered { qformer: config.clone(), decoder_start: None },
    });
    let mut tensors = vision.tensors("vision_model.");
    tensors.extend(placed(model.parameters(), names::to_hugging_face));
    tensors.extend(language.tensors("language_model."));
    write_folder(folder, &fields, tensors, model.parameters(), max_shard_bytes)
}

/// Writes the blocks of stage 1's `model` as a `Blip2QFormerModel` into `folder`; everything else of it is extra. That
/// can be done whatever the image encoder.
///
/// # Errors
/// When the file system refuses.
pub fn qformer(folder: &Path, model: &QFormer, decoder_start: i64) -> Result<(), SaveError> {
    let mut fields = qformer_fields(&model.config, true);
    fields["architectures"] = json!(["Blip2QFormerModel"]);
    fields["dtype"] = json!("float32");
    fields["quern"] = json!(Remembered { qformer: model.config.clone(), decoder_start: Some(decoder_start) });
    let inside = |name: &str| Some(names::to_hugging_face(name)?.strip_prefix(QFORMER_PREFIX)?.to_string());
    let tensors = placed(model.parameters(), inside);
    let extra = model.parameters().iter().filter(|(name, _)| inside(name).is_none());
    write_extra(folder, extra.map(|(name, tensor)| Outgoing::held(name, tensor)).collect())?;
    write_config(folder, &fields)?;
    write_shards(folder, tensors, u64::MAX)
}

/// `Blip2QFormerConfig`.
fn qformer_fields(config: &QFormerConfig, text: bool) -> Value {
    json!({
        "model_type": "blip_2_qformer",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "intermediate_size": config.intermediate_size,
        "hidden_act": "gelu",
        "hidden_dropout_prob": config.hidden_dropout_prob,
        "attention_probs_dropout_prob": config.attention_probs_dropout_prob,
        "max_position_embeddings": config.max_position_embeddings,
        "initializer_range": config.initializer_range,
        "layer_norm_eps": config.layer_norm_eps,
        "pad_token_id": config.pad_token_id,
        "cross_attention_frequency": config.cross_attention_freq,
        "encoder_hidden_size": config.encoder_width,
        "use_qformer_text_input": text,
    })
}

/// The parameters that have a name by `place`, under it.
fn placed<'a>(parameters: &Parameters, place: impl Fn(&str) -> Option<String>) -> Vec<Outgoing<'a>> {
    parameters.iter().filter_map(|(name, tensor)| Some(Outgoing::held(place(name)?, tensor))).collect()
}

fn write_folder(
    folder: &Path,
    fields: &Value,
    tensors: Vec<Outgoing>,
    trained: &Parameters,
    max_shard_bytes: u64,
) -> Result<(), SaveError> {
    let extra = trained.iter().filter(|(name, _)| names::to_hugging_face(name).is_none());
    write_extra(folder, extra.map(|(name, tensor)| Outgoing::held(name, tensor)).collect())?;
    write_config(folder, fields)?;
    write_shards(folder, tensors, max_shard_bytes)
}

fn write_extra(folder: &Path, tensors: Vec<Outgoing>) -> Result<(), SaveError> {
    if tensors.is_empty() {
        return Ok(());
    }
    write_safetensors(&folder.join(EXTRA_FILE), tensors)
}

fn write_config(folder: &Path, fields: &Value) -> Result<(), SaveError> {
    let path = folder.join("config.json");
    std::fs::write(&path, format!("{fields:#}\n")).map_err(|source| SaveError::Io { path, source })
}
