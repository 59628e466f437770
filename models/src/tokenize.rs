//! Text to ids and back, as the Hugging Face tokenisers of BERT, CLIP, OPT and T5 do it.
//!
//! A folder's `tokenizer.json` is used as it is. Where there is none, the same pipeline is put together from the older
//! files: `vocab.txt` is BERT's WordPiece; `vocab.json` with `merges.txt` is byte-level BPE, CLIP's or OPT's by its
//! special tokens; `spiece.model` is T5's SentencePiece unigram model.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Value, json};
use tch::{Kind, Tensor};
use tokenizers::normalizers::Precompiled;
use tokenizers::{AddedToken, PostProcessor, TruncationDirection};

mod sentencepiece;

use sentencepiece::SentencePieces;

/// CLIP's start and end.
const CLIP_START: &str = "<|startoftext|>";
const CLIP_END: &str = "<|endoftext|>";
/// T5's end.
const T5_END: &str = "</s>";
/// `<extra_id_…>` tokens that T5's tokenizers have, where no file says how many.
const T5_EXTRA_IDS: usize = 100;
/// Tokens that pad, in order of precedence, where no file names one.
const USUAL_PADS: [&str; 3] = ["[PAD]", "<pad>", CLIP_END];

/// What can be wrong with a tokenizer.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// No known file.
    #[error("no tokenizer in {path}: expected tokenizer.json, vocab.txt, vocab.json with merges.txt, or spiece.model", path = .0.display())]
    NotFound(PathBuf),
    /// A file is unreadable, unwritable or not what its name says.
    #[error("cannot use the tokenizer file {path}: {reason}", path = .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// A special token that the pipeline needs is not in the vocabulary.
    #[error("the vocabulary of {path} has no {token}", path = .path.display())]
    NoToken {
        /// The file.
        path: PathBuf,
        /// The token.
        token: String,
    },
}

/// How far a batch is filled up, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Padding {
    /// To its longest text.
    Longest,
    /// To its longest text, before the texts: prompts that a decoder goes on from.
    LongestLeft,
    /// To the maximum length.
    MaxLength,
}

/// A tokenizer with its special tokens.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    pad: i64,
}

impl Tokenizer {
    /// Reads whichever files the folder has.
    pub fn load(folder: &Path) -> Result<Self, TokenizerError> {
        let file = |name: &str| Some(folder.join(name)).filter(|path| path.is_file());
        let settings = Settings::read(folder)?;
        if let Some(path) = file("tokenizer.json") {
            return Self::from_json_file_with(&path, &settings);
        }
        if let Some(path) = file("vocab.txt") {
            return Self::bert(&path, settings.do_lower_case.unwrap_or(true));
        }
        let (Some(vocab), Some(merges)) = (file("vocab.json"), file("merges.txt")) else {
            let path = file("spiece.model").ok_or_else(|| TokenizerError::NotFound(folder.to_path_buf()))?;
            return Self::t5(&path, settings.extra_ids.unwrap_or(T5_EXTRA_IDS));
        };
        if read_vocab_json(&vocab)?.get(CLIP_START).is_some() {
            Self::clip(&vocab, &merges)
        } else {
            Self::opt(&vocab, &merges)
        }
    }

    /// A `tokenizer.json` on its own.
    pub fn from_json_file(path: &Path) -> Result<Self, TokenizerError> {
        Self::from_json_file_with(path, &Settings::default())
    }

    /// BERT's WordPiece from `vocab.txt`: `[CLS] text [SEP]`, padded with `[PAD]`.
    pub fn bert(vocab: &Path, lowercase: bool) -> Result<Self, TokenizerError> {
        let text = read(vocab)?;
        let ids: serde_json::Map<String, Value> =
            text.lines().enumerate().map(|(id, token)| (token.trim_end().to_string(), json!(id))).collect();
        let id = |token: &str| id_of(&ids, token, vocab);
        let special =
            |token: &str| Ok::<Value, TokenizerError>(json!({"id": token, "ids": [id(token)?], "tokens": [token]}));
        id("[UNK]")?; // what no piece spells
        let definition = json!({
            "version": "1.0", "truncation": null, "padding": null,
            "added_tokens": added(&ids, &["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]),
            "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": lowercase},
            "pre_tokenizer": {"type": "BertPreTokenizer"},
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [special_piece("[CLS]"), {"Sequence": {"id": "A", "type_id": 0}}, special_piece("[SEP]")],
                "pair": [special_piece("[CLS]"), {"Sequence": {"id": "A", "type_id": 0}}, special_piece("[SEP]"), {"Sequence": {"id": "B", "type_id": 1}}],
                "special_tokens": {"[CLS]": special("[CLS]")?, "[SEP]": special("[SEP]")?},
            },
            "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
            "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100, "vocab": ids},
        });
        Self::from_definition(&definition, vocab, "[PAD]")
    }

    /// CLIP's BPE: lower-cased, `<|startoftext|> text <|endoftext|>`, padded with the latter.
    pub fn clip(vocab: &Path, merges: &Path) -> Result<Self, TokenizerError> {
        let ids = read_vocab_json(vocab)?;
        let definition = json!({
            "version": "1.0", "truncation": null, "padding": null,
            "added_tokens": added(&ids, &[CLIP_START, CLIP_END]),
            "normalizer": {"type": "Sequence", "normalizers": [
                {"type": "NFC"},
                {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
                {"type": "Lowercase"},
            ]},
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"}, "behavior": "Removed", "invert": true},
                {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
            ]},
            "post_processor": {
                "type": "RobertaProcessing", "trim_offsets": false, "add_prefix_space": false,
                "cls": [CLIP_START, id_of(&ids, CLIP_START, vocab)?],
                "sep": [CLIP_END, id_of(&ids, CLIP_END, vocab)?],
            },
            "decoder": {"type": "Sequence", "decoders": [
                {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
                {"type": "Replace", "pattern": {"String": "</w>"}, "content": " "},
                {"type": "Strip", "content": " ", "start": 0, "stop": 1},
            ]},
            "model": bpe(ids, merges, Some("</w>"), Some(CLIP_END))?,
        });
        Self::from_definition(&definition, vocab, CLIP_END)
    }

    /// OPT's byte-level BPE: `</s> text`, padded with `<pad>`.
    pub fn opt(vocab: &Path, merges: &Path) -> Result<Self, TokenizerError> {
        let ids = read_vocab_json(vocab)?;
        let definition = json!({
            "version": "1.0", "truncation": null, "padding": null,
            "added_tokens": added(&ids, &["<s>", "<pad>", "</s>", "<unk>"]),
            "normalizer": null,
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [special_piece("</s>"), {"Sequence": {"id": "A", "type_id": 0}}],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                "special_tokens": {"</s>": {"id": "</s>", "ids": [id_of(&ids, "</s>", vocab)?], "tokens": ["</s>"]}},
            },
            "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
            "model": bpe(ids, merges, None, None)?,
        });
        Self::from_definition(&definition, vocab, "<pad>")
    }

    /// T5's unigram model from `spiece.model`, with `extra_ids` tokens behind its pieces: `text </s>`, padded with `<pad>`.
    pub fn t5(path: &Path, extra_ids: usize) -> Result<Self, TokenizerError> {
        let model = SentencePieces::read(path)?;
        let mut vocab: Vec<(String, f32)> = model.pieces;
        vocab.extend((0..extra_ids).rev().map(|index| (format!("<extra_id_{index}>"), 0.0)));
        let ids: serde_json::Map<String, Value> =
            vocab.iter().enumerate().map(|(id, (piece, _))| (piece.clone(), json!(id))).collect();
        let extra: Vec<String> = (0..extra_ids).map(|index| format!("<extra_id_{index}>")).collect();
        let special: Vec<&str> =
            ["<pad>", T5_END, "<unk>"].into_iter().chain(extra.iter().map(String::as_str)).collect();
        let pieces = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true});
        let definition = json!({
            "version": "1.0", "truncation": null, "padding": null,
            "added_tokens": added(&ids, &special),
            "normalizer": null,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, pieces]},
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [{"Sequence": {"id": "A", "type_id": 0}}, special_piece(T5_END)],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, special_piece(T5_END), {"Sequence": {"id": "B", "type_id": 0}}, special_piece(T5_END)],
                "special_tokens": {T5_END: {"id": T5_END, "ids": [id_of(&ids, T5_END, path)?], "tokens": [T5_END]}},
            },
            "decoder": pieces,
            "model": {"type": "Unigram", "unk_id": model.unknown, "vocab": vocab, "byte_fallback": false},
        });
        let mut tokenizer = Self::from_definition(&definition, path, "<pad>")?;
        if !model.normalizer.is_empty() {
            let rules = Precompiled::from(&model.normalizer).map_err(|error| file_error(path, error.to_string()))?;
            tokenizer.inner.with_normalizer(Some(rules));
        }
        Ok(tokenizer)
    }

    /// Adds a special token, such as BLIP-2's `[DEC]`, behind the vocabulary unless it is there; gives its id.
    pub fn add_special_token(&mut self, token: &str) -> i64 {
        self.inner.add_special_tokens(&[AddedToken::from(token, true)]);
        self.token_id(token).expect("just added")
    }

    /// The ids of `text` with special tokens, cut (inside them) to `max_length`.
    pub fn encode(&self, text: &str, max_length: usize) -> Vec<i64> {
        let specials = self.inner.get_post_processor().map_or(0, |processor| processor.added_tokens(false));
        let mut encoding = self.inner.encode_fast(text, false).expect("these pipelines encode any text");
        encoding.truncate(max_length.saturating_sub(specials), 0, TruncationDirection::Right);
        let encoding = self.inner.post_process(encoding, None, true).expect("special tokens are in the vocabulary");
        encoding.get_ids().iter().map(|&id| i64::from(id)).collect()
    }

    /// A batch filled up to its longest text: ids and mask `[B, L]`, int64.
    pub fn encode_batch(&self, texts: &[impl AsRef<str>], max_length: usize) -> (Tensor, Tensor) {
        self.encode_padded(texts, max_length, Padding::Longest)
    }

    /// A batch filled up as `padding` says: ids and mask `[B, L]`, int64.
    pub fn encode_padded(&self, texts: &[impl AsRef<str>], max_length: usize, padding: Padding) -> (Tensor, Tensor) {
        let rows: Vec<Vec<i64>> = texts.iter().map(|text| self.encode(text.as_ref(), max_length)).collect();
        let rows: Vec<&[i64]> = rows.iter().map(Vec::as_slice).collect();
        let length = match padding {
            Padding::Longest | Padding::LongestLeft => longest(&rows),
            Padding::MaxLength => max_length,
        };
        self.fill_up(&rows, length, padding == Padding::LongestLeft)
    }

    /// Encoded texts filled up to the longest: ids and mask `[B, L]`, int64.
    pub fn pad(&self, rows: &[&[i64]]) -> (Tensor, Tensor) {
        self.fill_up(rows, longest(rows), false)
    }

    fn fill_up(&self, rows: &[&[i64]], length: usize, left: bool) -> (Tensor, Tensor) {
        let shape = [rows.len() as i64, length as i64];
        let mut ids = vec![self.pad; rows.len() * length];
        let mut mask = vec![0i64; rows.len() * length];
        for (index, row) in rows.iter().enumerate() {
            let before = if left { length - row.len() } else { 0 };
            let start = index * length + before;
            ids[start..start + row.len()].copy_from_slice(row);
            mask[start..start + row.len()].fill(1);
        }
        (Tensor::from_slice(&ids).view(shape), Tensor::from_slice(&mask).view(shape).to_kind(Kind::Int64))
    }

    /// Text of ids; special tokens and ids outside the vocabulary are left out.
    pub fn decode(&self, ids: &[i64]) -> String {
        let known: Vec<u32> = ids.iter().filter_map(|&id| u32::try_from(id).ok()).collect();
        self.inner.decode(&known, true).expect("these decoders accept any tokens")
    }

    /// The id of a token.
    pub fn token_id(&self, token: &str) -> Option<i64> {
        self.inner.token_to_id(token).map(i64::from)
    }

    /// The id that fills batches up.
    pub fn pad_id(&self) -> i64 {
        self.pad
    }

    /// Tokens, added ones included.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// Writes it as a `tokenizer.json`, added tokens included.
    pub fn save(&self, path: &Path) -> Result<(), TokenizerError> {
        self.inner.save(path, true).map_err(|error| file_error(path, error.to_string()))
    }

    /// The first token of this tokenizer, by id, that `other` lacks or gives another id; and its id here.
    pub fn first_difference(&self, other: &Tokenizer) -> Option<(String, i64)> {
        let mut tokens: Vec<(String, i64)> =
            self.inner.get_vocab(true).into_iter().map(|(token, id)| (token, i64::from(id))).collect();
        tokens.sort_by_key(|(_, id)| *id);
        tokens.into_iter().find(|(token, id)| other.token_id(token) != Some(*id))
    }

    fn from_json_file_with(path: &Path, settings: &Settings) -> Result<Self, TokenizerError> {
        let mut inner: tokenizers::Tokenizer =
            serde_json::from_str(&read(path)?).map_err(|error| file_error(path, error.to_string()))?;
        let own = inner.get_padding().map(|padding| padding.pad_token.clone());
        let named = settings.pad_token().or(own);
        let usual = || USUAL_PADS.iter().find(|pad| inner.token_to_id(pad).is_some()).map(ToString::to_string);
        let token = named.or_else(usual).ok_or_else(|| file_error(path, "no token pads".to_string()))?;
        let missing = || TokenizerError::NoToken { path: path.to_path_buf(), token: token.clone() };
        let pad = i64::from(inner.token_to_id(&token).ok_or_else(missing)?);
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|error| file_error(path, error.to_string()))?;
        Ok(Tokenizer { inner, pad })
    }

    fn from_definition(definition: &Value, path: &Path, pad: &str) -> Result<Self, TokenizerError> {
        let inner: tokenizers::Tokenizer =
            serde_json::from_value(definition.clone()).map_err(|error| file_error(path, error.to_string()))?;
        let missing = || TokenizerError::NoToken { path: path.to_path_buf(), token: pad.to_string() };
        let pad = i64::from(inner.token_to_id(pad).ok_or_else(missing)?);
        Ok(Tokenizer { inner, pad })
    }
}

/// What of `tokenizer_config.json` matters.
#[derive(Default, Deserialize)]
struct Settings {
    pad_token: Option<Value>,
    do_lower_case: Option<bool>,
    extra_ids: Option<usize>,
}

impl Settings {
    fn read(folder: &Path) -> Result<Self, TokenizerError> {
        let path = folder.join("tokenizer_config.json");
        if !path.is_file() {
            return Ok(Settings::default());
        }
        serde_json::from_str(&read(&path)?).map_err(|error| file_error(&path, error.to_string()))
    }

    /// A token is a string, or an object with its `content`.
    fn pad_token(&self) -> Option<String> {
        let token = self.pad_token.as_ref()?;
        token.as_str().or_else(|| token.get("content")?.as_str()).map(str::to_string)
    }
}

fn bpe(
    ids: serde_json::Map<String, Value>,
    merges: &Path,
    end_of_word: Option<&str>,
    unknown: Option<&str>,
) -> Result<Value, TokenizerError> {
    let text = read(merges)?;
    let pairs: Vec<&str> =
        text.lines().filter(|line| !line.starts_with("#version") && !line.trim().is_empty()).collect();
    Ok(json!({
        "type": "BPE", "dropout": null, "unk_token": unknown, "continuing_subword_prefix": end_of_word.map(|_| ""),
        "end_of_word_suffix": end_of_word, "fuse_unk": false, "byte_fallback": false, "vocab": ids, "merges": pairs,
    }))
}

fn special_piece(token: &str) -> Value {
    json!({"SpecialToken": {"id": token, "type_id": 0}})
}

/// Those of `tokens` that the vocabulary has, as special tokens.
fn added(ids: &serde_json::Map<String, Value>, tokens: &[&str]) -> Value {
    let entry = |(token, id): (&&str, &Value)| json!({"id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true});
    let mut present: Vec<_> = tokens.iter().filter_map(|token| Some((token, ids.get(*token)?))).collect();
    present.sort_by_key(|(_, id)| id.as_u64());
    Value::Array(present.into_iter().map(entry).collect())
}

fn id_of(ids: &serde_json::Map<String, Value>, token: &str, path: &Path) -> Result<u64, TokenizerError> {
    let missing = || TokenizerError::NoToken { path: path.to_path_buf(), token: token.to_string() };
    ids.get(token).and_then(Value::as_u64).ok_or_else(missing)
}

fn read_vocab_json(path: &Path) -> Result<serde_json::Map<String, Value>, TokenizerError> {
    serde_json::from_str(&read(path)?).map_err(|error| file_error(path, error.to_string()))
}

fn read(path: &Path) -> Result<String, TokenizerError> {
    std::fs::read_to_string(path).map_err(|error| file_error(path, error.to_string()))
}

fn file_error(path: &Path, reason: String) -> TokenizerError {
    TokenizerError::File { path: path.to_path_buf(), reason }
}

/// The length of the longest of encoded texts.
fn longest(rows: &[&[i64]]) -> usize {
    rows.iter().map(|row| row.len()).max().unwrap_or(0)
}

#[cfg(test)]
mod tests;
