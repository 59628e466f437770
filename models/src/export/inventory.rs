//! Which of a checkpoint's tensors a model takes: its declarations are walked, and nothing is read.

use std::cell::RefCell;

use tch::{Device, Kind, Tensor};

use crate::weights::{TensorSource, Weights, WeightsError};

/// A source that notes what is taken of a checkpoint. Its tensors have the declared shape over a storage of one element.
pub(super) struct Inventory<'a> {
    weights: &'a Weights,
    names: RefCell<Vec<String>>,
}

impl<'a> Inventory<'a> {
    pub fn of(weights: &'a Weights) -> Self {
        Inventory { weights, names: RefCell::default() }
    }

    /// What was taken, in order.
    pub fn into_names(self) -> Vec<String> {
        self.names.into_inner()
    }
}

impl TensorSource for Inventory<'_> {
    fn tensor(&self, name: &str, shape: &[i64]) -> Result<Tensor, WeightsError> {
        if self.weights.shape(name).as_deref() != Some(shape) {
            return self.weights.tensor(name, shape); // which says what is wrong
        }
        self.names.borrow_mut().push(name.to_string());
        Ok(Tensor::zeros([], (Kind::Float, Device::Cpu)).expand(shape, false))
    }

    fn stacked(&self, names: &[String], shape: &[i64]) -> Result<Tensor, WeightsError> {
        names.iter().try_for_each(|name| self.tensor(name, shape).map(drop))?;
        let mut stacked = shape.to_vec();
        stacked[0] *= names.len() as i64;
        Ok(Tensor::zeros([], (Kind::Float, Device::Cpu)).expand(&stacked, false))
    }

    fn has(&self, name: &str) -> bool {
        self.weights.has(name)
    }

    /// A copy is left out; whoever loads the export ties again.
    fn tied(&self, _name: &str, _tied_to: &str, _value: &Tensor) -> Result<(), WeightsError> {
        Ok(())
    }
}
