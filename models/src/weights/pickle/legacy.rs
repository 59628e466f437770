//! The format before PyTorch 1.6 (bert-base-uncased's `pytorch_model.bin`): five pickles (a magic number, a version,
//! the writer's machine, the object, the storages' keys), then each storage: its length in elements, its bytes.
//! Lengths and elements are little-endian whatever machine wrote them.

use std::collections::HashMap;
use std::sync::Arc;

use super::machine::{Pickled, Value};
use super::{Storages, state_dict, unpickle};
use crate::weights::WeightsError;
use crate::weights::error::format_error;
use crate::weights::layout::Named;
use crate::weights::stored::MappedFile;

const MAGIC_NUMBER: i128 = 0x1950_a86a_20f9_469c_fc6c;
const VERSION: i128 = 1001;
/// Bytes of a storage's length.
const LENGTH_BYTES: usize = 8;

/// The tensors of a legacy file's state dict.
pub fn legacy_tensors(file: &Arc<MappedFile>) -> Result<Named, WeightsError> {
    let bad = |reason: &str| format_error(&file.path, reason);
    let mut position = 0;
    let mut next = || -> Result<Pickled, WeightsError> {
        let pickled = unpickle(file, &file.bytes()[position..])?;
        position += pickled.length_bytes;
        Ok(pickled)
    };
    if next()?.root != Value::Integer(MAGIC_NUMBER) {
        return Err(bad("a pickle that torch.save did not write"));
    }
    if next()?.root != Value::Integer(VERSION) {
        return Err(bad("of another version of torch.save's format than 1001"));
    }
    next()?; // the writer's machine
    let object = next()?;
    let keys = next()?;
    let keys = keys.list(keys.root).ok_or_else(|| bad("no list of storages behind its pickle"))?;
    let storages = locate(file, &object, keys, position).map_err(|reason| bad(&reason))?;
    state_dict(file, &object, &storages, false)
}

/// Walks the storages, which lie one behind the other in the order of `keys` from `position` on.
fn locate<'a>(
    file: &MappedFile,
    object: &Pickled,
    keys: &[Value<'a>],
    mut position: usize,
) -> Result<Storages<'a>, String> {
    let kinds: HashMap<&str, _> = object.storages.iter().map(|storage| (storage.key, storage.kind)).collect();
    let mut storages = HashMap::new();
    for key in keys {
        let Value::Text(key) = *key else { return Err("a storage's key is not text".into()) };
        let kind = kinds.get(key).ok_or_else(|| format!("storage {key:?} belongs to no tensor"))?;
        let length = file.bytes().get(position..).and_then(|rest| rest.first_chunk::<LENGTH_BYTES>());
        // Where the file ends before it, nothing of the storage is there.
        let elements = length.map_or(0, |length| u64::from_le_bytes(*length));
        let start = position.saturating_add(LENGTH_BYTES).min(file.bytes().len());
        let bytes = usize::try_from(elements).unwrap_or(usize::MAX).saturating_mul(kind.elt_size_in_bytes());
        position = start.saturating_add(bytes);
        storages.insert(key, start..position);
    }
    Ok(storages)
}
