//! Trained Q-Formers as other tools load them: folders for Hugging Face's `Blip2*` classes, state dicts for LAVIS.
//!
//! Whatever a class has no place for goes into [`EXTRA_FILE`](crate::qformer::foreign::EXTRA_FILE) beside the model, and
//! [`Checkpoint`](crate::qformer::foreign::Checkpoint) reads it back.

mod hugging_face;
mod inventory;
mod language;
mod lavis;
mod vision;

pub use hugging_face::{generation, qformer, retrieval};
pub use language::LanguagePart;
pub use lavis::{LavisFile, lavis};
pub use vision::VisionPart;

#[cfg(test)]
mod tests;
