//! What can go wrong in training and evaluation.

use quern_capfilt::{ManifestError, ReadPartError};
use quern_collective::CollectiveError;
use quern_corpus::RowId;
use quern_corpus::annotated::AnnotatedError;
use quern_corpus::images::ImageError;
use quern_corpus::plan::PlanError;
use quern_corpus::reader::ReadError;
use quern_corpus::store::StoreError;
use quern_models::blip2::PromptTooLong;
use quern_models::save::SaveError;
use quern_models::source::SourceError;
use quern_models::tokenize::TokenizerError;
use quern_models::weights::WeightsError;

/// Why training or evaluation ended early.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The recipe asks for something that can't be.
    #[error("recipe: {0}")]
    Recipe(String),
    /// A model's files aren't there and can't be fetched.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A model's files.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The tokenizer's files.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The output store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An export's weights.
    #[error(transparent)]
    Save(#[from] SaveError),
    /// An export's other files, or its folder.
    #[error("{0}")]
    Export(String),
    /// CapFilt's manifest.
    #[error("{0}; training reads what CapFilt wrote, so let that finish first")]
    Manifest(#[from] ManifestError),
    /// A data part of CapFilt's output.
    #[error("{url}: {source}; run `quern capfilt verify` on the output")]
    Part {
        /// Which.
        url: String,
        /// What is wrong with it.
        source: ReadPartError,
    },
    /// CapFilt's output and its manifest, or its input, don't fit together.
    #[error("{0}")]
    Corpus(String),
    /// The input's files can't be listed.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The input's images can't be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A held-out set can't be read.
    #[error(transparent)]
    Annotated(#[from] AnnotatedError),
    /// An image can't be decoded.
    #[error(
        "the image of row {row} can't be used: {source}; leave the row out of the data set, or let it go through CapFilt, which quarantines it"
    )]
    Image {
        /// Whose.
        row: RowId,
        /// Why.
        source: ImageError,
    },
    /// A prompt has no room in the language model.
    #[error(transparent)]
    Prompt(#[from] PromptTooLong),
    /// A prompt for a model that takes none.
    #[error(
        "the prompt {prompt:?} can't be answered: the checkpoint is stage 1's, which only captions; name one of stage 2"
    )]
    NoPrompts {
        /// The prompt.
        prompt: String,
    },
    /// A peer died or the world was aborted.
    #[error(transparent)]
    Collective(#[from] CollectiveError),
    /// A checkpoint can't be used.
    #[error("checkpoint {path}: {reason}")]
    Checkpoint {
        /// Where.
        path: String,
        /// Why.
        reason: String,
    },
    /// The coordinator (or whoever controls the run) does not accept a report or a checkpoint.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The loss is no longer a number.
    #[error(
        "the loss is not finite at step {step}; lower optimiser.peak_lr or lengthen optimiser.warmup_steps, and resume from a checkpoint before it"
    )]
    Diverged {
        /// The step.
        step: u64,
    },
    /// Another thread asked for an end.
    #[error("it was told to stop")]
    Stopped,
    /// A thread or runtime that could not be started, or died.
    #[error("{0}")]
    System(String),
}

/// A report or a checkpoint was not accepted: this world is not the current one, or its coordinator is gone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("training was refused: {0}")]
pub struct Refused(pub String);
