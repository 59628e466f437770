//! A run as one YAML document: parsed, validated, resolved and hashed. No tokio, no torch.
//!
//! - [`Recipe::parse`] and [`Recipe::read`]: from YAML, with errors that say file, line, column and what was expected;
//! - [`Recipe::validate`]: the rules that types can't state;
//! - [`Recipe::resolve`]: relative paths made absolute;
//! - [`Recipe::hash`]: what determines the result, as one digest;
//! - [`Recipe::to_json`] and [`Recipe::from_json`]: the form that travels to the workers.

mod embed;
mod error;
mod filters;
mod identity;
mod inputs;
mod kubernetes;
mod languages;
mod locate;
mod parse;
mod recipe;
mod redact;
mod resolve;
mod tasks;
mod validate;

pub use embed::{EmbedImages, Shrink};
pub use error::RecipeError;
pub use filters::{Dedup, Filters};
pub use inputs::*;
pub use kubernetes::*;
pub use languages::{language, languages};
pub use recipe::*;
pub use redact::{Redacting, redacted};
pub use tasks::*;
