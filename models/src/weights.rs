//! Strict weights: tensors by checkpoint name.
//!
//! A model declares every tensor that it has, by the checkpoint's own name and with its shape, and takes it from a
//! [`TensorSource`] through a [`Scope`] (a name prefix, so that a checkpoint path is a code path). [`Weights`] is the
//! source that reads files (safetensors, PyTorch's pickles, shards of either): a missing, surplus, duplicate or
//! misshapen tensor is an error that names it, its file and the shapes; nothing is ever initialised silently. Sources
//! that initialise or count ([`parameter_count`]) walk the same declarations.

mod checkpoint;
mod counter;
mod error;
mod layout;
mod pickle;
mod safetensors;
mod scope;
mod stored;

pub use checkpoint::{Weights, read_json, read_tensors};
pub use counter::{Counter, parameter_count};
pub use error::WeightsError;
pub(crate) use layout::{WEIGHT_FILES, WeightFile, shards};
pub use scope::{Scope, TensorSource};

#[cfg(test)]
mod tests;
