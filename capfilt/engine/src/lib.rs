//! CapFilt on a device: caption, rank, keep (BLIP, arXiv 2201.12086; BLIP-2 §3.3).
//!
//! [`Engine::run_shard`] takes a shard's rows and gives their outcomes: an image is encoded once by BLIP, captions are
//! sampled from it with keyed draws, exact duplicates are dropped, CLIP scores each distinct caption, and the best are
//! kept. A row that fails is quarantined with stage and reason, and never stops a shard.
//!
//! # The same bytes every time
//! What a floating-point kernel computes for one lane may depend on the shape of the whole batch, so what shares a batch
//! depends on the shard's rows alone, never on arrival or time:
//! - images are encoded and ranked in groups, `batch_images` rows each by their place in the shard; a row that can't be
//!   decoded leaves its place empty (zeros go in, nothing is taken out);
//! - captions of a group begin in the lanes that are free, lowest first, image by image in the order of rows; that is
//!   decided by the lengths of the captions before;
//! - the texts of a group are embedded in the order of their lengths, as many at a time as are counted, not timed.
//!
//! Draws are counter-based: the token `step` of caption `c` of a row depends on (seed, row, `c`, `step`) alone. So a row has
//! the same captions beside whatever other rows, and the same scores but for rounding.

mod captioner;
mod engine;
mod error;
mod flow;
mod pass;
mod pixels;
mod rank;
mod ranker;

pub use captioner::Captioner;
pub use engine::{Engine, Written};
pub use error::EngineError;
pub use pass::pass_shard;
pub use pixels::Trial;
pub use ranker::Ranker;
