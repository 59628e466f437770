//! How a tensor travels: a fixed head, its dimensions, its bytes; little-endian.
//!
//! ```text
//! magic u32 · operation u8 · kind u8 · dimensions u8 · 0 · sequence u64 · signature u64 · bytes u64
//! dimension u64 × dimensions
//! element bytes, row-major
//! ```

use tch::{Kind, Tensor};

use crate::Operation;

/// Length of the head in front of the dimensions, in bytes.
pub(super) const HEAD_BYTES: usize = 32;
/// More dimensions than any tensor of ours has.
pub(super) const MAX_DIMENSIONS: usize = 8;
const MAGIC: u32 = u32::from_le_bytes(*b"QCF1");

/// The kinds that travel, each with its code and element size in bytes.
const KINDS: [(Kind, u8, usize); 9] = [
    (Kind::Uint8, 0, 1),
    (Kind::Int8, 1, 1),
    (Kind::Int, 2, 4),
    (Kind::Int64, 3, 8),
    (Kind::Half, 4, 2),
    (Kind::BFloat16, 5, 2),
    (Kind::Float, 6, 4),
    (Kind::Double, 7, 8),
    (Kind::Bool, 8, 1),
];

/// A kind's code in frames; none for kinds that don't travel.
pub(super) fn kind_code(kind: Kind) -> Option<u8> {
    KINDS.iter().find(|entry| entry.0 == kind).map(|entry| entry.1)
}

fn element_bytes(kind: Kind) -> usize {
    KINDS.iter().find(|entry| entry.0 == kind).expect("the kind was checked").2
}

/// What a head says.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Head {
    pub operation: Operation,
    pub kind: Kind,
    pub dimensions: usize,
    pub sequence: u64,
    pub signature: u64,
    pub bytes: u64,
}

/// Head and dimensions of a frame that carries `tensor`, which is contiguous and of a kind that travels.
pub(super) fn encode(operation: Operation, sequence: u64, signature: u64, tensor: &Tensor) -> Vec<u8> {
    let shape = tensor.size();
    let kind = kind_code(tensor.kind()).expect("the kind was checked");
    let mut out = Vec::with_capacity(HEAD_BYTES + 8 * shape.len());
    out.extend(MAGIC.to_le_bytes());
    out.extend([operation as u8, kind, shape.len() as u8, 0]);
    for value in [sequence, signature, byte_length(tensor) as u64] {
        out.extend(value.to_le_bytes());
    }
    for length in shape {
        out.extend((length as u64).to_le_bytes());
    }
    out
}

/// Reads a head; an error says what is wrong with it.
pub(super) fn decode(head: &[u8; HEAD_BYTES]) -> Result<Head, String> {
    let word = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("eight bytes"));
    if head[..4] != MAGIC.to_le_bytes() {
        return Err("bytes that are no frame".into());
    }
    let operation = Operation::from_code(head[4]).ok_or_else(|| format!("operation code {}", head[4]))?;
    let kind = KINDS.iter().find(|entry| entry.1 == head[5]).ok_or_else(|| format!("kind code {}", head[5]))?.0;
    let dimensions = usize::from(head[6]);
    if dimensions > MAX_DIMENSIONS {
        return Err(format!("a tensor of {dimensions} dimensions"));
    }
    Ok(Head { operation, kind, dimensions, sequence: word(8), signature: word(16), bytes: word(24) })
}

/// Reads the dimensions and allocates the tensor that the payload goes into.
pub(super) fn allocate(head: &Head, dimensions: &[u8]) -> Result<Tensor, String> {
    let shape: Vec<u64> =
        dimensions.chunks_exact(8).map(|bytes| u64::from_le_bytes(bytes.try_into().expect("eight bytes"))).collect();
    let bytes = shape
        .iter()
        .try_fold(element_bytes(head.kind) as u64, |product, &length| product.checked_mul(length))
        .filter(|&bytes| bytes == head.bytes && bytes <= i64::MAX as u64);
    if bytes.is_none() || shape.iter().any(|&length| length > i64::MAX as u64) {
        return Err(format!("{:?} {shape:?} in {} bytes", head.kind, head.bytes));
    }
    let shape: Vec<i64> = shape.into_iter().map(|length| length as i64).collect();
    Tensor::f_empty(&shape, (head.kind, tch::Device::Cpu)).map_err(|error| error.to_string())
}

/// Size of a tensor's elements in bytes.
pub(super) fn byte_length(tensor: &Tensor) -> usize {
    tensor.numel() * element_bytes(tensor.kind())
}

/// The bytes of a contiguous CPU tensor.
pub(super) fn bytes(tensor: &Tensor) -> &[u8] {
    let length = byte_length(tensor);
    if length == 0 {
        return &[];
    }
    debug_assert!(tensor.is_contiguous() && tensor.device() == tch::Device::Cpu);
    // SAFETY: a contiguous CPU tensor owns `length` initialised bytes at its data pointer, and outlives the borrow.
    unsafe { std::slice::from_raw_parts(tensor.data_ptr() as *const u8, length) }
}

/// The bytes of a tensor that [`allocate`] made, to be filled in.
pub(super) fn bytes_mut(tensor: &mut Tensor) -> &mut [u8] {
    let length = byte_length(tensor);
    if length == 0 {
        return &mut [];
    }
    // SAFETY: as in `bytes`; the tensor is fresh, so nobody else holds its storage.
    unsafe { std::slice::from_raw_parts_mut(tensor.data_ptr() as *mut u8, length) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded() -> (Vec<u8>, Tensor) {
        let tensor = Tensor::from_slice(&[1f32, 2., 3., 4., 5., 6.]).reshape([2, 3]);
        (encode(Operation::AllGather, 7, 9, &tensor), tensor)
    }

    #[test]
    fn a_frame_comes_back_as_it_went() {
        let (frame, tensor) = encoded();
        let head = decode(frame[..HEAD_BYTES].try_into().unwrap()).unwrap();
        assert_eq!((head.sequence, head.signature, head.bytes, head.dimensions), (7, 9, 24, 2));
        let mut back = allocate(&head, &frame[HEAD_BYTES..]).unwrap();
        bytes_mut(&mut back).copy_from_slice(bytes(&tensor));
        assert_eq!(back.size(), [2, 3]);
        assert_eq!(back, tensor);
    }

    #[test]
    fn foreign_bytes_are_refused() {
        let (frame, _) = encoded();
        let with = |at: usize, value: u8| {
            let mut head: [u8; HEAD_BYTES] = frame[..HEAD_BYTES].try_into().unwrap();
            head[at] = value;
            head
        };
        assert!(decode(&with(0, b'H')).unwrap_err().contains("no frame"));
        assert!(decode(&with(4, 99)).unwrap_err().contains("operation code 99"));
        assert!(decode(&with(5, 99)).unwrap_err().contains("kind code 99"));
        assert!(decode(&with(6, 99)).unwrap_err().contains("99 dimensions"));
        let lying = decode(&with(24, 25)).unwrap();
        assert!(allocate(&lying, &frame[HEAD_BYTES..]).unwrap_err().contains("25 bytes"));
        let head = decode(&with(24, 24)).unwrap();
        assert!(allocate(&head, &[0xff; 16]).is_err(), "dimensions that overflow");
    }
}
