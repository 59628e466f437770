//! CapFilt on a device: caption, rank, keep (BLIP, arXiv 2201.12086; BLIP-2 §3.3).
//!
//! [`Engine::run_rows`] takes a shard's rows and gives their outcomes: an image is encoded once by BLIP, captions are
//! sampled from it with keyed draws, exact duplicates are dropped, CLIP scores each distinct caption, and the best are
//! kept. A row that fails is quarantined with stage and reason, and never stops a shard.
//!
//! # The same bytes every time
//! What a floating-point kernel computes for one lane may depend on the shape of the whole batch, so no shape here
//! depends on anything but the position of rows in their shard:
//! - images are batched by fixed row ranges, `batch_images` rows each; a row that can't be decoded leaves its lane empty
//!   (zeros go in, nothing is taken out), so a broken image changes no other row's captions or scores;
//! - a row's captions are embedded as a batch of their own, padded to the longest of them.
//!
//! Draws are counter-based: the token `step` of caption `c` of a row depends on (seed, row, `c`, `step`) alone.

mod captioner;
mod engine;
mod error;
mod pass;
mod pixels;
mod ranker;

pub use captioner::{Captioner, Written};
pub use engine::Engine;
pub use error::EngineError;
pub use pass::pass_rows;
pub use ranker::Ranker;
