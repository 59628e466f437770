//! The strict source: a checkpoint's tensors, each taken once, none left over.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use tch::{Device, Kind, Tensor};

use crate::save::Outgoing;

use super::error::{format_error, io_error};
use super::stored::StoredTensor;
use super::{Scope, TensorSource, WeightsError, layout};

/// Stored buffers that no model of ours has as a parameter; Hugging Face and LAVIS checkpoints carry them.
const KNOWN_BUFFERS: [&str; 2] = ["position_ids", "num_batches_tracked"];

/// A checkpoint's tensors, read one by one as they are taken.
pub struct Weights {
    location: String,
    entries: BTreeMap<String, Entry>,
    taken: RefCell<BTreeSet<String>>,
    device: Device,
    kind: Kind,
}

/// One tensor: in memory, or in a file.
enum Entry {
    Memory { tensor: Tensor, location: Arc<str> },
    Stored(StoredTensor),
}

impl Weights {
    /// Opens a weights file (safetensors, or a pickle that `torch.save` wrote), or a model folder: `model.safetensors`,
    /// `pytorch_model.bin`, the `.index.json` of shards of either, `open_clip_model.safetensors`,
    /// `open_clip_pytorch_model.bin`, in this order.
    ///
    /// Floating tensors arrive on `device` as `kind`, whatever precision they are stored in; integers keep theirs.
    /// Of a training checkpoint (`{"model": {…}, "optimizer": …}`), the tensors under `model` or `state_dict` are taken.
    pub fn open(folder_or_file: &Path, device: Device, kind: Kind) -> Result<Self, WeightsError> {
        let mut weights = Weights::empty(&folder_or_file.display().to_string(), device, kind);
        for (name, tensor) in layout::tensors(folder_or_file)? {
            weights.insert(name, Entry::Stored(tensor))?;
        }
        Ok(weights)
    }

    /// Weights from tensors in memory; `location` names them in errors.
    pub fn from_tensors(
        tensors: impl IntoIterator<Item = (String, Tensor)>,
        location: &str,
        device: Device,
        kind: Kind,
    ) -> Result<Self, WeightsError> {
        let mut weights = Weights::empty(location, device, kind);
        let location: Arc<str> = location.into();
        for (name, tensor) in tensors {
            weights.insert(name, Entry::Memory { tensor, location: location.clone() })?;
        }
        Ok(weights)
    }

    fn empty(location: &str, device: Device, kind: Kind) -> Self {
        Weights { location: location.into(), entries: BTreeMap::new(), taken: RefCell::default(), device, kind }
    }

    /// Renames every tensor by `rename` (an architecture's other spelling, a wrapper's prefix); `None` drops it from
    /// the strictness check as a tensor of a part that this model does not have.
    pub fn rename(self, rename: impl Fn(&str) -> Option<String>) -> Result<Self, WeightsError> {
        let mut renamed = Weights::empty(&self.location, self.device, self.kind);
        for (name, entry) in self.entries {
            if let Some(name) = rename(&name) {
                renamed.insert(name, entry)?;
            }
        }
        Ok(renamed)
    }

    /// The top scope.
    pub fn root(&self) -> Scope<'_> {
        Scope::root(self)
    }

    /// Where tensors arrive.
    pub fn device(&self) -> Device {
        self.device
    }

    /// The names of all tensors, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// The tensor `name` as it is stored, in whatever kind these weights arrive; it is read when it is written.
    pub fn outgoing(&self, name: &str) -> Option<Outgoing<'_>> {
        let entry = self.entries.get(name)?;
        Some(match entry {
            Entry::Memory { tensor, .. } => Outgoing::held(name, tensor),
            Entry::Stored(tensor) => {
                let (kind, shape) = (tensor.kind(), tensor.shape().to_vec());
                Outgoing::read_later(name, kind, shape, move || tensor.read(Device::Cpu, kind))
            }
        })
    }

    /// The shape in which `name` is stored, if it is there.
    pub fn shape(&self, name: &str) -> Option<Vec<i64>> {
        self.entries.get(name).map(Entry::shape)
    }

    /// These tensors and `others`, such as those of a file beside the model's; a name in both is an error.
    pub fn with(mut self, others: Weights) -> Result<Self, WeightsError> {
        for (name, entry) in others.entries {
            self.insert(name, entry)?;
        }
        Ok(self)
    }

    /// Errs if a tensor was not taken, but for known buffers such as `position_ids`.
    pub fn finish(&self) -> Result<(), WeightsError> {
        let taken = self.taken.borrow();
        let extra: Vec<String> = self
            .entries
            .iter()
            .filter(|(name, _)| !taken.contains(*name) && !is_known_buffer(name))
            .map(|(name, entry)| format!("{name} {:?} ({})", entry.shape(), entry.origin()))
            .collect();
        if extra.is_empty() {
            return Ok(());
        }
        Err(WeightsError::Extra { names: extra, location: self.location.clone() })
    }

    fn insert(&mut self, name: String, entry: Entry) -> Result<(), WeightsError> {
        if let Some(first) = self.entries.get(&name) {
            let (first, second) = (first.origin(), entry.origin());
            return Err(WeightsError::Duplicate { name, first, second });
        }
        self.entries.insert(name, entry);
        Ok(())
    }

    fn read(&self, entry: &Entry) -> Tensor {
        let kind = if is_floating(entry.kind()) { self.kind } else { entry.kind() };
        match entry {
            Entry::Memory { tensor, .. } => tensor.to_device(self.device).to_kind(kind),
            Entry::Stored(tensor) => tensor.read(self.device, kind),
        }
    }

    fn near(&self, name: &str) -> Vec<String> {
        let last = name.rsplit('.').next().unwrap_or(name);
        let tail = name.rsplitn(3, '.').take(2).last().unwrap_or(last);
        let taken = self.taken.borrow();
        let open = self.entries.keys().filter(|key| !taken.contains(*key));
        open.filter(|key| key.contains(tail) && key.ends_with(last)).take(3).cloned().collect()
    }
}

impl TensorSource for Weights {
    fn tensor(&self, name: &str, shape: &[i64]) -> Result<Tensor, WeightsError> {
        let Some(entry) = self.entries.get(name) else {
            return Err(WeightsError::Missing {
                name: name.to_string(),
                expected: shape.to_vec(),
                location: self.location.clone(),
                near: self.near(name),
            });
        };
        if entry.shape() != shape {
            return Err(WeightsError::Shape {
                name: name.to_string(),
                expected: shape.to_vec(),
                found: entry.shape(),
                location: entry.origin(),
            });
        }
        let fresh = self.taken.borrow_mut().insert(name.to_string());
        assert!(fresh, "the model declares {name} twice");
        Ok(self.read(entry))
    }

    fn has(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    fn tied(&self, name: &str, tied_to: &str, value: &Tensor) -> Result<(), WeightsError> {
        let Some(entry) = self.entries.get(name) else { return Ok(()) };
        self.taken.borrow_mut().insert(name.to_string());
        if entry.shape() == value.size() && self.read(entry).equal(value) {
            return Ok(());
        }
        Err(WeightsError::NotTied { name: name.to_string(), tied_to: tied_to.to_string(), location: entry.origin() })
    }
}

impl Entry {
    /// What errors call the place that it is from.
    fn origin(&self) -> String {
        match self {
            Entry::Memory { location, .. } => location.to_string(),
            Entry::Stored(tensor) => tensor.path().display().to_string(),
        }
    }

    fn shape(&self) -> Vec<i64> {
        match self {
            Entry::Memory { tensor, .. } => tensor.size(),
            Entry::Stored(tensor) => tensor.shape().to_vec(),
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Entry::Memory { tensor, .. } => tensor.kind(),
            Entry::Stored(tensor) => tensor.kind(),
        }
    }
}

/// Reads a JSON file of a model folder (`config.json` and its kin).
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, WeightsError> {
    let text = std::fs::read(path).map_err(|source| io_error(path, source))?;
    serde_json::from_slice(&text).map_err(|error| format_error(path, error.to_string()))
}

/// All tensors of a weights file or model folder, as they are stored, by name.
pub fn read_tensors(folder_or_file: &Path) -> Result<BTreeMap<String, Tensor>, WeightsError> {
    let weights = Weights::open(folder_or_file, Device::Cpu, Kind::Float)?;
    let stored = |entry| match entry {
        Entry::Memory { tensor, .. } => tensor,
        Entry::Stored(tensor) => tensor.read(Device::Cpu, tensor.kind()),
    };
    Ok(weights.entries.into_iter().map(|(name, entry)| (name, stored(entry))).collect())
}

fn is_known_buffer(name: &str) -> bool {
    KNOWN_BUFFERS.iter().any(|buffer| name.rsplit('.').next() == Some(*buffer))
}

fn is_floating(kind: Kind) -> bool {
    matches!(kind, Kind::Half | Kind::BFloat16 | Kind::Float | Kind::Double)
}
