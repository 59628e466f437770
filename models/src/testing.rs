//! For tests: pseudo-random values for whatever a model declares, and folders to load it from.

use std::cell::RefCell;
use std::collections::BTreeMap;

use tch::{Device, Kind, Tensor};

use crate::weights::{Scope, TensorSource, WeightsError};

/// A source that has a value for every name, and keeps what was taken.
#[derive(Default)]
pub(crate) struct Arbitrary {
    taken: RefCell<BTreeMap<String, Tensor>>,
}

impl TensorSource for Arbitrary {
    fn tensor(&self, name: &str, shape: &[i64]) -> Result<Tensor, WeightsError> {
        let seed = self.taken.borrow().len() as i64;
        let gain = name.ends_with("weight") && name.to_lowercase().contains("norm");
        let values = arbitrary(seed, shape) + if gain { 1.0 } else { 0.0 };
        self.taken.borrow_mut().insert(name.to_owned(), values.shallow_clone());
        Ok(values)
    }

    fn has(&self, _: &str) -> bool {
        false
    }

    fn tied(&self, _: &str, _: &str, _: &Tensor) -> Result<(), WeightsError> {
        Ok(())
    }
}

/// Values in ±0.4 that look random and are the same for the same seed.
pub(crate) fn arbitrary(seed: i64, shape: &[i64]) -> Tensor {
    let count: i64 = shape.iter().product();
    let ramp = Tensor::arange(count, (Kind::Double, Device::Cpu)) + ((seed + 1) * 1000) as f64;
    let noise = ((ramp * 12.9898).sin() * 43758.5453).frac();
    (noise * 0.4).to_kind(Kind::Float).reshape(shape)
}

/// Every tensor that `load` declares, with a value.
pub(crate) fn declared<M>(load: impl FnOnce(&Scope) -> Result<M, WeightsError>) -> BTreeMap<String, Tensor> {
    let source = Arbitrary::default();
    load(&Scope::root(&source)).map(drop).expect("every name has a value");
    source.taken.into_inner()
}

/// A folder with these files and these tensors in `weights`.
pub(crate) fn model_folder(
    files: &[(&str, &str)],
    weights: &str,
    tensors: &BTreeMap<String, Tensor>,
) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).expect("written");
    }
    let tensors: Vec<(&String, Tensor)> = tensors.iter().map(|(name, tensor)| (name, tensor.contiguous())).collect();
    Tensor::write_safetensors(&tensors, folder.path().join(weights)).expect("written");
    folder
}

/// `‖a - b‖ / ‖b‖`
pub(crate) fn distance(a: &Tensor, b: &Tensor) -> f64 {
    let (a, b) = (a.to_kind(Kind::Double), b.to_kind(Kind::Double));
    (a - &b).norm().double_value(&[]) / b.norm().double_value(&[])
}

/// The message of an error.
pub(crate) fn message<T>(result: Result<T, WeightsError>) -> String {
    result.err().expect("an error").to_string()
}
