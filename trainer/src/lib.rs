//! Q-Former pre-training, stage 1: objectives, optimiser, schedules, checkpoints, the loop, evaluation.
//!
//! Method: BLIP-2 (arXiv 2301.12597 §3.2); reference: LAVIS `blip2_qformer.py`. Bottom-up: [`objectives`] are pure
//! functions, [`step`] computes the global batch's gradient over a collective, [`stage1`] is the loop around it with
//! [`loader`] in front and [`checkpoint`] behind, [`eval`] measures retrieval.

pub mod checkpoint;
mod error;
pub mod eval;
pub mod exchange;
pub mod loader;
pub mod objectives;
pub mod optimiser;
pub mod samples;
pub mod schedule;
pub mod setup;
pub mod stage1;
pub mod step;

pub use error::{Refused, TrainError};
