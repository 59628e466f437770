//! A run as one YAML document: parsed, validated, resolved and hashed. No tokio, no torch.

mod recipe;

pub use recipe::*;
