//! The trainable tensors by name: recorded while a model takes them, so that declaration order is parameter order.

use std::cell::RefCell;

use tch::Tensor;

use crate::weights::{TensorSource, WeightsError};

/// Named leaves of the autograd graph, in declaration order.
#[derive(Default)]
pub struct Parameters(Vec<(String, Tensor)>);

impl Parameters {
    /// Name and tensor of each.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.0.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// The tensors alone; shallow clones, which share storage and gradient.
    pub fn tensors(&self) -> Vec<Tensor> {
        self.0.iter().map(|(_, tensor)| tensor.shallow_clone()).collect()
    }

    /// How many tensors.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many numbers.
    pub fn count(&self) -> usize {
        self.0.iter().map(|(_, tensor)| tensor.numel()).sum()
    }
}

/// Passes tensors on as fresh leaves that require a gradient, and remembers them.
pub(super) struct Recorder<'a> {
    source: &'a dyn TensorSource,
    taken: RefCell<Vec<(String, Tensor)>>,
}

impl<'a> Recorder<'a> {
    pub fn new(source: &'a dyn TensorSource) -> Self {
        Recorder { source, taken: RefCell::default() }
    }

    pub fn into_parameters(self) -> Parameters {
        Parameters(self.taken.into_inner())
    }
}

impl TensorSource for Recorder<'_> {
    fn tensor(&self, name: &str, shape: &[i64]) -> Result<Tensor, WeightsError> {
        // A copy: training must not write into the tensor that the source still holds.
        let leaf = self.source.tensor(name, shape)?.detach().copy().set_requires_grad(true);
        self.taken.borrow_mut().push((name.to_string(), leaf.shallow_clone()));
        Ok(leaf)
    }

    fn has(&self, name: &str) -> bool {
        self.source.has(name)
    }

    fn tied(&self, name: &str, tied_to: &str, value: &Tensor) -> Result<(), WeightsError> {
        self.source.tied(name, tied_to, value)
    }
}
