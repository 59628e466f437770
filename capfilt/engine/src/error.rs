//! Why the engine can't be loaded or go on.

use quern_capfilt::ModelFileError;
use quern_models::source::SourceError;
use quern_models::tokenize::TokenizerError;
use quern_models::weights::WeightsError;

/// Why the engine can't be loaded or go on. What is wrong with a single row is no error, but its outcome.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A model's files aren't there and can't be fetched.
    #[error("the {role} can't be fetched: {source}")]
    Source {
        /// `captioner` or `ranker`: the recipe's key.
        role: &'static str,
        /// Why.
        #[source]
        source: SourceError,
    },
    /// Weights or configuration of a model.
    #[error("the {role} can't be loaded: {source}")]
    Model {
        /// `captioner` or `ranker`: the recipe's key.
        role: &'static str,
        /// Which file or tensor.
        #[source]
        source: WeightsError,
    },
    /// A model's tokenizer.
    #[error("the {role} can't be loaded: {source}")]
    Tokenizer {
        /// `captioner` or `ranker`: the recipe's key.
        role: &'static str,
        /// Which file.
        #[source]
        source: TokenizerError,
    },
    /// A model's file can't be digested.
    #[error(transparent)]
    Digest(#[from] ModelFileError),
    /// The model's own files contradict each other, or the recipe asks for what it can't do.
    #[error("the {role} in {folder}: {reason}")]
    Unfit {
        /// `captioner` or `ranker`: the recipe's key.
        role: &'static str,
        /// Its folder.
        folder: String,
        /// What doesn't fit.
        reason: String,
    },
    /// The device failed in the middle, most often for want of memory.
    #[error("tensor arithmetic failed on {device}: {reason}; if memory ran out, lower `capfilt.batch_images`")]
    Device {
        /// The device.
        device: String,
        /// Torch's words.
        reason: String,
    },
}
