//! What a trained model is worth: [`retrieval`](mod@retrieval) of images and texts, and [`captions`](mod@captions) by
//! [`metrics`].

use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::TrainError;

pub mod captions;
mod estimate;
mod held_out;
pub mod metrics;
pub mod retrieval;

pub use estimate::{Estimate, paired_gain};

/// Ends an evaluation between two batches when `stop` is raised.
fn heed(stop: &AtomicBool) -> Result<(), TrainError> {
    if stop.load(Ordering::SeqCst) { Err(TrainError::Stopped) } else { Ok(()) }
}
