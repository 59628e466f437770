//! How near generated captions are to people's: BLEU-4 and CIDEr on tokens, as pycocoevalcap 1.2 computes them.
//!
//! Pure functions; no tensors. [`tokenise`] makes the tokens that pycocoevalcap's PTBTokenizer makes of captions.

mod bleu;
mod cider;
mod ngrams;
mod tokens;

pub use bleu::bleu;
pub use cider::cider;
pub use tokens::tokenise;

/// An image's generated caption beside its references, as tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    /// What was generated.
    pub hypothesis: Vec<String>,
    /// What people wrote; at least one.
    pub references: Vec<Vec<String>>,
}
