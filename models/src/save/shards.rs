//! Safetensors files: one, or shards with `model.safetensors.index.json`, as transformers' `save_pretrained` names them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use serde_json::{Map, Value, json};
use tch::Kind;

use super::{Outgoing, SaveError};

/// Above this a model is cut into shards: transformers' limit of old.
pub const DEFAULT_MAX_SHARD_BYTES: u64 = 5_000_000_000;
/// The header is filled up to a multiple of this.
const ALIGNMENT: usize = 8;

/// Writes `model.safetensors` into `folder`, or shards of at most `max_shard_bytes` (a larger tensor has one to itself)
/// with their index.
///
/// # Errors
/// When the file system refuses, or a tensor's kind is none of the format's.
pub fn write_shards(folder: &Path, tensors: Vec<Outgoing>, max_shard_bytes: u64) -> Result<(), SaveError> {
    let total: u64 = tensors.iter().map(Outgoing::bytes).sum();
    let mut shards = cut(tensors, max_shard_bytes);
    if shards.len() <= 1 {
        return write_safetensors(&folder.join("model.safetensors"), shards.pop().unwrap_or_default());
    }
    let count = shards.len();
    let mut places = BTreeMap::new();
    for (index, shard) in shards.into_iter().enumerate() {
        let file = format!("model-{:05}-of-{count:05}.safetensors", index + 1);
        places.extend(shard.iter().map(|tensor| (tensor.name.clone(), file.clone())));
        write_safetensors(&folder.join(&file), shard)?;
    }
    let path = folder.join("model.safetensors.index.json");
    let index = json!({ "metadata": { "total_size": total }, "weight_map": places });
    std::fs::write(&path, format!("{index:#}\n")).map_err(|source| SaveError::Io { path, source })
}

/// Writes one file.
///
/// # Errors
/// See [`write_shards`].
pub fn write_safetensors(path: &Path, mut tensors: Vec<Outgoing>) -> Result<(), SaveError> {
    // Wide numbers first, so that every tensor begins at a multiple of its numbers' size.
    tensors.sort_by(|a, b| (b.kind.elt_size_in_bytes(), &a.name).cmp(&(a.kind.elt_size_in_bytes(), &b.name)));
    let header = header(&tensors)?;
    let write = || {
        let mut file = BufWriter::new(File::create(path)?);
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(&header)?;
        tensors.iter().try_for_each(|tensor| file.write_all(&tensor.content()))?;
        file.into_inner().map_err(|error| error.into_error())?.sync_all()
    };
    write().map_err(|source| SaveError::Io { path: path.to_path_buf(), source })
}

fn header(tensors: &[Outgoing]) -> Result<Vec<u8>, SaveError> {
    let mut entries = Map::new();
    // transformers asks for it
    entries.insert("__metadata__".into(), json!({ "format": "pt" }));
    let mut start = 0;
    for tensor in tensors {
        let end = start + tensor.bytes();
        let dtype = dtype(tensor)?;
        let entry: Value = json!({ "dtype": dtype, "shape": tensor.shape, "data_offsets": [start, end] });
        let before = entries.insert(tensor.name.clone(), entry);
        assert!(before.is_none(), "{} is written twice", tensor.name);
        start = end;
    }
    let mut bytes = Value::Object(entries).to_string().into_bytes();
    bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), b' ');
    Ok(bytes)
}

fn dtype(tensor: &Outgoing) -> Result<&'static str, SaveError> {
    Ok(match tensor.kind {
        Kind::Bool => "BOOL",
        Kind::Uint8 => "U8",
        Kind::Int8 => "I8",
        Kind::Int16 => "I16",
        Kind::Int => "I32",
        Kind::Int64 => "I64",
        Kind::Half => "F16",
        Kind::BFloat16 => "BF16",
        Kind::Float => "F32",
        Kind::Double => "F64",
        kind => return Err(SaveError::Kind { name: tensor.name.clone(), kind }),
    })
}

/// The tensors in order, cut before each that would overfill a shard.
fn cut(tensors: Vec<Outgoing>, max_shard_bytes: u64) -> Vec<Vec<Outgoing>> {
    let mut shards: Vec<Vec<Outgoing>> = Vec::new();
    let mut filled = 0;
    for tensor in tensors {
        let bytes = tensor.bytes();
        match shards.last_mut() {
            Some(shard) if filled + bytes <= max_shard_bytes => {
                filled += bytes;
                shard.push(tensor);
            }
            _ => {
                filled = bytes;
                shards.push(vec![tensor]);
            }
        }
    }
    shards
}
