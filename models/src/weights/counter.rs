//! Counting a model's parameters: its declarations are walked, nothing of its size is allocated.

use std::cell::Cell;

use tch::{Device, Kind, Tensor};

use super::{Scope, TensorSource, WeightsError};

/// A source that counts what is taken from it. Its tensors have the declared shape over a storage of one element; tied
/// copies count once, as the tensor that they are tied to.
///
/// It holds none of the names that a model asks about ([`TensorSource::has`]): where a checkpoint's layout decides
/// which of two equal declarations is walked, the model falls back to its default.
#[derive(Default)]
pub struct Counter {
    parameters: Cell<i64>,
}

impl Counter {
    /// The number of elements taken so far.
    pub fn parameters(&self) -> i64 {
        self.parameters.get()
    }
}

impl TensorSource for Counter {
    fn tensor(&self, _name: &str, shape: &[i64]) -> Result<Tensor, WeightsError> {
        self.parameters.set(self.parameters.get() + shape.iter().product::<i64>());
        Ok(Tensor::zeros([], (Kind::Float, Device::Cpu)).expand(shape, false))
    }

    fn stacked(&self, names: &[String], shape: &[i64]) -> Result<Tensor, WeightsError> {
        let mut stacked = shape.to_vec();
        stacked[0] *= names.len() as i64;
        self.tensor(&names[0], &stacked)
    }

    fn has(&self, _name: &str) -> bool {
        false
    }

    fn tied(&self, _name: &str, _tied_to: &str, _value: &Tensor) -> Result<(), WeightsError> {
        Ok(())
    }
}

/// The number of parameters of the model that `declare` takes out of a scope. Exactly what PyTorch counts on its meta
/// device, as `sum(p.numel() for p in model.parameters())`.
pub fn parameter_count<M>(declare: impl FnOnce(&Scope) -> Result<M, WeightsError>) -> Result<i64, WeightsError> {
    let counter = Counter::default();
    declare(&Scope::root(&counter))?;
    Ok(counter.parameters())
}
