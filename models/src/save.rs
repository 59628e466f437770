//! Weights written for other tools: safetensors in shards as Hugging Face reads them, and PyTorch's own archive.
//!
//! A tensor's bytes are asked for when it is its turn, so that writing a model of any size holds one tensor at a time.

mod pickle;
mod shards;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use tch::{Device, Kind, Tensor};

use crate::weights::WeightsError;

pub use pickle::write_pickle;
pub use shards::{DEFAULT_MAX_SHARD_BYTES, write_safetensors, write_shards};

/// A tensor to be written: what headers say of it, and how it is got.
pub struct Outgoing<'a> {
    /// Its name.
    pub name: String,
    /// Of its numbers.
    pub kind: Kind,
    /// Its shape.
    pub shape: Vec<i64>,
    read: Box<dyn Fn() -> Tensor + 'a>,
}

/// Why weights were not written.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// The file system refuses.
    #[error("cannot write {path}: {source}", path = .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A tensor's numbers have no place in the format.
    #[error("tensor {name} is of kind {kind:?}, which the file's format does not have")]
    Kind {
        /// Its name.
        name: String,
        /// Of its numbers.
        kind: Kind,
    },
    /// What is to be written can't be read.
    #[error(transparent)]
    Weights(#[from] WeightsError),
}

impl<'a> Outgoing<'a> {
    /// A tensor in memory.
    pub fn held(name: impl Into<String>, tensor: &Tensor) -> Self {
        let tensor = tensor.detach();
        let (kind, shape) = (tensor.kind(), tensor.size());
        Outgoing { name: name.into(), kind, shape, read: Box::new(move || tensor.shallow_clone()) }
    }

    /// The same tensor under the name `name`.
    pub fn called(self, name: impl Into<String>) -> Self {
        Outgoing { name: name.into(), ..self }
    }

    /// What `change` makes of the tensor, of another shape.
    pub fn changed(self, shape: Vec<i64>, change: impl Fn(Tensor) -> Tensor + 'a) -> Self {
        let read = self.read;
        Outgoing { name: self.name, kind: self.kind, shape, read: Box::new(move || change(read())) }
    }

    /// A tensor that `read` gives when it is its turn.
    pub fn read_later(name: impl Into<String>, kind: Kind, shape: Vec<i64>, read: impl Fn() -> Tensor + 'a) -> Self {
        Outgoing { name: name.into(), kind, shape, read: Box::new(read) }
    }

    /// Itself.
    pub fn tensor(&self) -> Tensor {
        (self.read)()
    }

    /// The size of its numbers.
    pub fn bytes(&self) -> u64 {
        self.numel() * self.kind.elt_size_in_bytes() as u64
    }

    fn numel(&self) -> u64 {
        self.shape.iter().map(|&extent| extent as u64).product()
    }

    /// Its numbers, row by row.
    fn content(&self) -> Vec<u8> {
        let tensor = self.tensor().to_device(Device::Cpu).contiguous();
        assert!(tensor.kind() == self.kind && tensor.size() == self.shape, "{} is not what was announced", self.name);
        let mut bytes = vec![0u8; self.bytes() as usize];
        tensor.copy_data_u8(&mut bytes, tensor.numel());
        bytes
    }
}
