//! What goes with the weights in a Hugging Face folder: tokenizer and image processor, as `AutoProcessor` reads them.

use std::path::Path;

use quern_models::preprocessor::PreprocessorConfig;
use quern_models::tokenize::Tokenizer;
use serde_json::{Value, json};

use crate::error::TrainError;

use super::{refused, write};

/// The token that transformers puts where the visual tokens go.
pub(super) const IMAGE_TOKEN: &str = "<image>";
/// What of a language model's folder concerns its tokenizer, besides `tokenizer.json`.
const TOKENIZER_FILES: [&str; 6] = [
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "generation_config.json",
];

/// The Q-Former's tokenizer.
pub(super) fn bert_tokenizer(folder: &Path, tokenizer: &Tokenizer, longest: i64) -> Result<(), TrainError> {
    tokenizer.save(&folder.join("tokenizer.json"))?;
    let fields = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": longest,
        "bos_token": "[DEC]", "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]",
        "mask_token": "[MASK]",
        "model_input_names": ["input_ids", "attention_mask"],
    });
    json_file(&folder.join("tokenizer_config.json"), &fields)
}

/// The language model's tokenizer, `<image>` included, and what its folder says of it and of generation.
pub(super) fn language_tokenizer(folder: &Path, own: &Path, tokenizer: &Tokenizer) -> Result<(), TrainError> {
    tokenizer.save(&folder.join("tokenizer.json"))?;
    for name in TOKENIZER_FILES {
        let (from, to) = (own.join(name), folder.join(name));
        if from.is_file() {
            std::fs::copy(&from, &to).map_err(|error| refused(&to, &error))?;
        }
    }
    Ok(())
}

/// The image transform of `encoder` for images of `side` pixels, and the processor around it; `queries`: how many
/// `<image>` tokens it puts before a text, none for retrieval.
pub(super) fn images(folder: &Path, encoder: &Path, side: Option<u32>, queries: Option<i64>) -> Result<(), TrainError> {
    let own = PreprocessorConfig::read(encoder)?;
    let config = side.map_or(own, |side| own.with_size(side));
    let mut fields = config.to_hugging_face();
    fields["processor_class"] = json!("Blip2Processor");
    json_file(&folder.join("preprocessor_config.json"), &fields)?;
    let processor = json!({ "processor_class": "Blip2Processor", "num_query_tokens": queries });
    json_file(&folder.join("processor_config.json"), &processor)
}

fn json_file(path: &Path, fields: &Value) -> Result<(), TrainError> {
    write(path, &format!("{fields:#}\n"))
}
