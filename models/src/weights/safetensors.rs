//! Tensors of a safetensors file: <https://github.com/huggingface/safetensors>.

use std::sync::Arc;

use safetensors::tensor::{Dtype, Metadata};
use tch::Kind;

use super::WeightsError;
use super::error::format_error;
use super::stored::{MappedFile, StoredTensor, View};

/// Bytes before a header: its length, little-endian.
const HEADER_LENGTH_BYTES: usize = 8;
/// The largest header that the format allows.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// Every tensor of `file` by name.
pub(super) fn tensors(file: &Arc<MappedFile>) -> Result<Vec<(String, StoredTensor)>, WeightsError> {
    let (metadata, data_start) = header(file)?;
    let size = file.bytes().len();
    let mut tensors = Vec::new();
    for (name, info) in metadata.tensors() {
        let bad = |reason: String| format_error(&file.path, format!("{name}: {reason}"));
        let kind = torch_kind(info.dtype).ok_or_else(|| bad(format!("the unsupported type {:?}", info.dtype)))?;
        let shape: Result<Vec<i64>, _> = info.shape.iter().map(|&extent| i64::try_from(extent)).collect();
        let view = View::contiguous(shape.map_err(|_| bad(format!("the shape {:?}", info.shape)))?);
        let (start, end) = (data_start + info.data_offsets.0, data_start + info.data_offsets.1);
        if end > size {
            let found = size.saturating_sub(start) as u64;
            let (path, expected) = (file.path.clone(), (end - start) as u64);
            return Err(WeightsError::Truncated { path, name, expected, found });
        }
        tensors.push((name.clone(), StoredTensor::new(file, start..end, kind, view).map_err(bad)?));
    }
    let expected = data_start + metadata.data_len();
    if size != expected {
        return Err(format_error(&file.path, format!("{size} bytes long, but its header describes {expected}")));
    }
    Ok(tensors)
}

fn header(file: &MappedFile) -> Result<(Metadata, usize), WeightsError> {
    let bytes = file.bytes();
    let too_short = || format_error(&file.path, format!("{} bytes are too few for its header", bytes.len()));
    let (length, rest) = bytes.split_first_chunk::<HEADER_LENGTH_BYTES>().ok_or_else(too_short)?;
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER_BYTES || length as usize > rest.len() {
        let reason = format!("a header of {length} bytes in a file of {}", bytes.len());
        return Err(format_error(&file.path, reason));
    }
    let header = serde_json::from_slice(&rest[..length as usize]);
    let metadata = header.map_err(|error| format_error(&file.path, error.to_string()))?;
    Ok((metadata, HEADER_LENGTH_BYTES + length as usize))
}

fn torch_kind(dtype: Dtype) -> Option<Kind> {
    Some(match dtype {
        Dtype::BOOL => Kind::Bool,
        Dtype::U8 => Kind::Uint8,
        Dtype::I8 => Kind::Int8,
        Dtype::I16 => Kind::Int16,
        Dtype::I32 => Kind::Int,
        Dtype::I64 => Kind::Int64,
        Dtype::F16 => Kind::Half,
        Dtype::BF16 => Kind::BFloat16,
        Dtype::F32 => Kind::Float,
        Dtype::F64 => Kind::Double,
        _ => return None,
    })
}
