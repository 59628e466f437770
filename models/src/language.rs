//! The frozen language models of stage 2 (arXiv 2301.12597 §3.3), behind one trait: OPT and T5.
//!
//! Visual tokens stand before the text's input embeddings. Training asks for the loss and its derivative by the visual
//! tokens, and the graph ends there: the language model's weights take no gradient, and what trains before it goes on
//! from that derivative. Generation asks for a [`StepDecoder`] that has seen the visual tokens and a prompt.
//!
//! Shapes: `B` batch, `Q` visual tokens, `L` text length, `T` target length, `W` width of the input embeddings.

use std::path::Path;

use tch::{Device, Kind, Tensor};

use crate::config::Role;
use crate::generate::StepDecoder;
use crate::opt::Opt;
use crate::t5::{T5, T5Gelu};
use crate::tokenize::Tokenizer;
use crate::weights::WeightsError;

mod counted;
mod layerwise;
#[cfg(test)]
mod tests;

pub(crate) use counted::counted_loss;
pub(crate) use layerwise::{Walk, cut, pull_back};

/// A target that does not count.
pub const IGNORED: i64 = -100;

/// The texts of a batch of images.
pub struct Texts {
    /// `[B, L]`, int64: what stands after the visual tokens (T5: in the encoder).
    pub ids: Tensor,
    /// `[B, L]`, int64: 1 for tokens, 0 for padding.
    pub mask: Tensor,
    /// Targets, int64, [`IGNORED`] where none is counted. OPT: `[B, L]`, in the places of `ids` (the shift is made
    /// here; the last visual token predicts the first). T5: `[B, T]`, what the decoder is to say.
    pub labels: Tensor,
}

/// What generation goes on from.
pub struct Prompt {
    /// `[B, P]`, int64. OPT: padded on the left, with BOS even where the prompt is empty. T5: padded on the right.
    pub ids: Tensor,
    /// `[B, P]`, int64: 1 for tokens, 0 for padding.
    pub mask: Tensor,
}

/// How a loss is computed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LossOptions {
    /// Activation checkpointing: only the layers' inputs are kept, and each layer is computed again on the way back.
    pub recompute: bool,
    /// Whether the logits of all positions are wanted too.
    pub probes: bool,
}

/// A batch's loss.
pub struct LanguageLoss {
    /// Cross-entropy summed over the counted targets, fp32, `[]`.
    pub sum: Tensor,
    /// Counted targets.
    pub targets: i64,
    /// `[B, Q, W]`: the derivative of `sum` by the visual tokens, in their kind.
    pub gradient: Tensor,
    /// fp32, OPT: `[B, Q + L, vocabulary]`; T5: `[B, T, vocabulary]`; as [`LossOptions::probes`] asks.
    pub logits: Option<Tensor>,
}

/// How a language model takes texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// A decoder: the text goes on from the visual tokens.
    Opt,
    /// Encoder and decoder: the text's first part stands beside the visual tokens, its second is to be said.
    T5,
}

/// A frozen language model.
pub trait LanguageModel: Send {
    /// How it takes texts.
    fn family(&self) -> Family;
    /// Of its input embeddings.
    fn width(&self) -> i64;
    /// What stands for `ids [..]` beside visual tokens: `[.., W]`.
    fn embeddings(&self, ids: &Tensor) -> Tensor;
    /// Ids that it has embeddings for.
    fn vocabulary(&self) -> i64;
    /// The most positions of visual tokens and text together, where that is limited.
    fn longest(&self) -> Option<i64>;
    /// Where the weights are.
    fn device(&self) -> Device;
    /// The kind that it computes in.
    fn kind(&self) -> Kind;
    /// The loss of `texts` after `visual [B, Q, W]`, and its derivative by `visual`.
    ///
    /// # Panics
    /// If the sequence exceeds [`longest`](LanguageModel::longest).
    fn loss(&self, visual: &Tensor, texts: &Texts, options: LossOptions) -> LanguageLoss;
    /// Goes on after `visual [B, Q, W]` and `prompt`, one lane per image at first, for up to `max_new_tokens`.
    ///
    /// The first step is fed [`start`](LanguageModel::start) in every lane. T5 begins with it; OPT's first logits come
    /// from the prompt's last token and the id is only counted, as in transformers 4.31 with `inputs_embeds`. So the
    /// lengths of [`Constraints`](crate::generate::Constraints) count this one id for both.
    ///
    /// # Panics
    /// If the sequence could exceed [`longest`](LanguageModel::longest).
    fn decoder<'a>(&'a self, visual: &Tensor, prompt: &Prompt, max_new_tokens: i64) -> Box<dyn StepDecoder + 'a>;
    /// The id that begins every sequence.
    fn start(&self) -> i64;
    /// The id that fills sequences up.
    fn pad(&self) -> i64;
    /// The model's own end. (Captions by OPT end with the newline, which the caller chooses through
    /// [`Ends`](crate::generate::Ends).)
    fn eos(&self) -> i64;
}

/// Reads `config.json` and the weights of a Hugging Face folder; its `model_type` says which model it is.
pub fn load(
    folder: &Path,
    device: Device,
    kind: Kind,
    t5_gelu: T5Gelu,
) -> Result<Box<dyn LanguageModel>, WeightsError> {
    Ok(match family_of(folder)? {
        Family::Opt => Box::new(Opt::load(folder, device, kind)?),
        Family::T5 => Box::new(T5::load(folder, device, kind, t5_gelu)?),
    })
}

/// The family of the model in `folder`, by its `config.json`.
pub fn family_of(folder: &Path) -> Result<Family, WeightsError> {
    match role(&["opt", "t5"]).check(folder)?.as_str() {
        "opt" => Ok(Family::Opt),
        _ => Ok(Family::T5),
    }
}

/// What a folder must hold to be loaded as one of these models.
pub(crate) const fn role(model_types: &'static [&'static str]) -> Role {
    Role { name: "language model", model_types, architectures: &[] }
}

/// A tokenizer of another vocabulary than the model's.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "the tokenizer does not belong to this language model: {reason}; take the tokenizer files of the same checkpoint"
)]
pub struct VocabularyMismatch {
    /// What differs.
    pub reason: String,
}

/// Errs if `tokenizer` gives ids that `model` has no embedding for, or names its special tokens otherwise.
/// (Models may have more embeddings than tokens: their tables are rounded up.)
pub fn check_tokenizer(tokenizer: &Tokenizer, model: &dyn LanguageModel) -> Result<(), VocabularyMismatch> {
    let differs = |reason: String| Err(VocabularyMismatch { reason });
    let (tokens, embeddings) = (tokenizer.vocab_size() as i64, model.vocabulary());
    if tokens > embeddings {
        return differs(format!("{tokens} tokens, but {embeddings} embeddings"));
    }
    if tokenizer.pad_id() != model.pad() {
        return differs(format!(
            "padding is id {} in the tokenizer and {} in the model",
            tokenizer.pad_id(),
            model.pad()
        ));
    }
    match tokenizer.token_id(END) {
        Some(id) if id == model.eos() => Ok(()),
        found => differs(format!("{END} is id {found:?} in the tokenizer, but the model ends with {}", model.eos())),
    }
}

/// The end of a text in OPT's and T5's vocabularies.
const END: &str = "</s>";

/// `mask [B, L]` of a text with the visual tokens before it, which all are visible: `[B, Q + L]`.
pub fn with_visual(mask: &Tensor, queries: i64) -> Tensor {
    Tensor::cat(&[Tensor::ones([mask.size()[0], queries], (mask.kind(), mask.device())), mask.shallow_clone()], 1)
}
