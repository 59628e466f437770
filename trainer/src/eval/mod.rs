//! What a trained model is worth: [`retrieval`](mod@retrieval) of images and texts, and [`captions`](mod@captions) by
//! [`metrics`].

pub mod captions;
mod estimate;
mod held_out;
pub mod metrics;
pub mod retrieval;

pub use estimate::{Estimate, paired_gain};
