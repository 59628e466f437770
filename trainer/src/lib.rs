//! Q-Former pre-training, stages 1 and 2: objectives, optimiser, schedules, checkpoints, the loop, evaluation.
//!
//! Method: BLIP-2 (arXiv 2301.12597 §3.2, §3.3); reference: LAVIS `blip2_qformer.py`, `blip2_opt.py`, `blip2_t5.py`.
//! Bottom-up: [`objectives`] are pure functions, [`step`] computes the global batch's gradient over a collective,
//! [`training`] is the loop around it with [`loader`] in front and [`checkpoint`] behind, [`stage1`] and [`stage2`] carry
//! out a recipe's, [`captioner`] writes with what came out, [`eval`] measures it, [`export`] hands it to other tools.

pub mod captioner;
pub mod checkpoint;
mod error;
pub mod eval;
pub mod exchange;
pub mod export;
pub mod language_texts;
pub mod loader;
pub mod objectives;
pub mod optimiser;
pub mod samples;
pub mod schedule;
pub mod setup;
pub mod stage1;
pub mod stage2;
pub mod step;
pub mod training;
pub mod vision;

pub use error::{Refused, TrainError};
