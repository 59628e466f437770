//! Captions as a frozen language model reads them (BLIP-2 §3.3; LAVIS `blip2_opt.py`, `blip2_t5.py`).
//!
//! - **OPT**: prompt, caption, newline, which ends a caption; padded on the right; neither padding nor the prompt (BOS
//!   among it) is a target. Without a prompt BOS is one: the last visual token predicts it.
//! - **T5**: the caption's words are cut in two at random, by (row, epoch). Prompt and prefix go into the encoder, the
//!   suffix, which is never empty, is the decoder's target. LAVIS leaves the cut to a data set that it did not publish.

use std::path::Path;

use quern_corpus::Keyed;
use quern_models::caption_text::pre_caption;
use quern_models::language::{Family, IGNORED, LanguageModel, Texts, check_tokenizer};
use quern_models::tokenize::{Padding, Tokenizer};
use tch::Tensor;

use crate::error::TrainError;
use crate::loader::{Caption, Captions};
use crate::setup::MAX_WORDS;

/// Ends a caption that an OPT writes.
pub const NEWLINE: &str = "\n";

/// A language model's tokenizer with stage 2's way of feeding it.
pub struct LanguageTexts {
    /// The tokenizer.
    pub tokenizer: Tokenizer,
    family: Family,
    prompt: String,
    /// Tokens of BOS and prompt, if there is a prompt.
    prompt_tokens: i64,
    max_length: usize,
}

impl LanguageTexts {
    /// The tokenizer in `folder`, for `model`; `prompt` stands before every caption, texts have `max_length` tokens at
    /// most.
    ///
    /// # Errors
    /// When there is no tokenizer, when it is another model's, or when the prompt leaves no room for a caption.
    pub fn load(folder: &Path, model: &dyn LanguageModel, prompt: &str, max_length: u32) -> Result<Self, TrainError> {
        let tokenizer = Tokenizer::load(folder)?;
        check_tokenizer(&tokenizer, model)
            .map_err(|error| TrainError::Recipe(format!("stage2.language_model: {}: {error}", folder.display())))?;
        let (prompt, max_length) = (prompt.trim().to_string(), max_length as usize);
        let tokens = if prompt.is_empty() { 0 } else { tokenizer.encode(&prompt, usize::MAX).len() };
        if tokens >= max_length {
            return Err(TrainError::Recipe(format!(
                "stage2.prompt has {tokens} tokens, but stage2.max_text_length is {max_length}: no caption fits behind it"
            )));
        }
        Ok(LanguageTexts { tokenizer, family: model.family(), prompt, prompt_tokens: tokens as i64, max_length })
    }

    /// What stands before every caption.
    pub fn prompt(&self) -> &str {
        &self.prompt
    }

    fn after_prompt(&self, text: &str) -> String {
        match (self.prompt.as_str(), text) {
            ("", text) => text.to_string(),
            (prompt, "") => prompt.to_string(),
            (prompt, text) => format!("{prompt} {text}"),
        }
    }

    fn opt(&self, captions: &[String]) -> Texts {
        let texts: Vec<String> = captions.iter().map(|caption| self.after_prompt(caption) + NEWLINE).collect();
        let (ids, mask) = self.tokenizer.encode_padded(&texts, self.max_length, Padding::Longest);
        let labels = targets(&ids, &mask, self.prompt_tokens);
        Texts { ids, mask, labels }
    }

    fn t5(&self, captions: &[String], splits: impl Iterator<Item = Keyed>) -> Texts {
        let (prefixes, suffixes): (Vec<String>, Vec<String>) =
            captions.iter().zip(splits).map(|(caption, split)| cut(caption, &split)).unzip();
        let prefixes: Vec<String> = prefixes.iter().map(|prefix| self.after_prompt(prefix)).collect();
        let (ids, mask) = self.tokenizer.encode_padded(&prefixes, self.max_length, Padding::Longest);
        let (suffix_ids, suffix_mask) = self.tokenizer.encode_padded(&suffixes, self.max_length, Padding::Longest);
        Texts { ids, mask, labels: targets(&suffix_ids, &suffix_mask, 0) }
    }
}

impl Captions for LanguageTexts {
    type Encoded = Texts;

    fn encode(&self, captions: &[Caption]) -> Texts {
        let clean: Vec<String> = captions.iter().map(|caption| pre_caption(caption.text, MAX_WORDS)).collect();
        match self.family {
            Family::Opt => self.opt(&clean),
            Family::T5 => self.t5(&clean, captions.iter().map(|caption| caption.split)),
        }
    }
}

/// What counts of `ids` and `mask [B, L]`: all but padding and the first `prompt_tokens`.
pub fn targets(ids: &Tensor, mask: &Tensor, prompt_tokens: i64) -> Tensor {
    let labels = ids.masked_fill(&mask.eq(0), IGNORED);
    let _ = labels.narrow(1, 0, prompt_tokens).fill_(IGNORED);
    labels
}

/// The first 0 to n - 1 of n words, and the others.
fn cut(caption: &str, split: &Keyed) -> (String, String) {
    let words: Vec<&str> = caption.split_whitespace().collect();
    let prefix = split.below(0, words.len().max(1) as u64) as usize;
    (words[..prefix].join(" "), words[prefix..].join(" "))
}
