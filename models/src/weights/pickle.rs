//! Tensors of a file that `torch.save` wrote, without executing anything in it.
//!
//! Such a file is a pickle: a small program that builds objects, which Python would let call any function. Here the
//! [`machine`] knows tensors and plain containers and refuses every other name. The storages' bytes lie beside the
//! pickle, in a zip [`archive`] or, before PyTorch 1.6, behind it ([`legacy`]); they stay where they are until a
//! tensor is taken. Reproduces `torch/serialization.py` and `torch/_weights_only_unpickler.py`.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use super::WeightsError;
use super::error::format_error;
use super::layout::Named;
use super::stored::{MappedFile, StoredTensor, View};
use machine::{Fault, Machine, Pickled, Storage, Value};

mod archive;
mod legacy;
mod machine;

pub(super) use archive::zip_tensors;
pub(super) use legacy::legacy_tensors;

/// Where training checkpoints keep the state dict, beside optimiser, config and epoch (LAVIS, open_clip).
const WRAPPERS: [&str; 2] = ["model", "state_dict"];

/// Where the bytes of each storage are, by its key. A range may end behind the file: it was truncated.
type Storages<'a> = HashMap<&'a str, Range<usize>>;

/// The tensors of the state dict that was pickled.
fn state_dict(
    file: &Arc<MappedFile>,
    pickled: &Pickled,
    storages: &Storages,
    big_endian: bool,
) -> Result<Named, WeightsError> {
    let whole = pickled.dict(pickled.root);
    let entry = |name: &str| whole?.iter().find(|(key, _)| matches!(key, Value::Text(text) if *text == name));
    let wrapped = WRAPPERS.iter().find_map(|name| pickled.dict(entry(name)?.1));
    let Some(entries) = wrapped.or(whole) else {
        let reason = format!("it holds {}, not a state dict", pickled.describe(pickled.root));
        return Err(format_error(&file.path, reason));
    };
    let mut tensors = Vec::with_capacity(entries.len());
    for &(key, value) in entries {
        let Value::Text(name) = key else {
            let reason = format!("a key of its state dict is {}, not text", pickled.describe(key));
            return Err(format_error(&file.path, reason));
        };
        let Value::Tensor(tensor) = value else {
            let (path, name) = (file.path.clone(), name.to_string());
            return Err(WeightsError::NotATensor { path, name, found: pickled.describe(value) });
        };
        let tensor = &pickled.tensors[tensor];
        let bytes = storage_bytes(file, name, &tensor.storage, storages)?;
        let view = View { shape: tensor.shape.clone(), strides: tensor.strides.clone(), offset: tensor.offset };
        let stored = StoredTensor::new(file, bytes, tensor.storage.kind, view)
            .map_err(|reason| format_error(&file.path, format!("tensor {name}: {reason}")))?;
        tensors.push((name.to_string(), if big_endian { stored.in_big_endian() } else { stored }));
    }
    Ok(tensors)
}

/// The bytes of the elements that the pickle says a storage has.
fn storage_bytes(
    file: &MappedFile,
    name: &str,
    storage: &Storage,
    storages: &Storages,
) -> Result<Range<usize>, WeightsError> {
    let Storage { key, kind, elements } = storage;
    let absent = || format_error(&file.path, format!("tensor {name} is in storage {key:?}, which is not in the file"));
    let range = storages.get(key).ok_or_else(absent)?;
    let expected = elements.saturating_mul(kind.elt_size_in_bytes() as u64);
    let found = range.end.min(file.bytes().len()).saturating_sub(range.start) as u64;
    if found < expected {
        let (path, name) = (file.path.clone(), name.to_string());
        return Err(WeightsError::Truncated { path, name, expected, found });
    }
    Ok(range.start..range.start + expected as usize)
}

/// What stopped the machine, as an error about `file`.
fn refused(file: &MappedFile, fault: Fault) -> WeightsError {
    match fault {
        Fault::Damaged(reason) => format_error(&file.path, reason),
        Fault::Foreign(name) => WeightsError::Foreign { path: file.path.clone(), name },
    }
}

/// Runs the pickle in `bytes` of `file`.
fn unpickle<'a>(file: &'a MappedFile, bytes: &'a [u8]) -> Result<Pickled<'a>, WeightsError> {
    Machine::new(bytes).run().map_err(|fault| refused(file, fault))
}

#[cfg(test)]
mod tests;
