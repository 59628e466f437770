//! A tensor as it lies in a mapped file, and how it becomes a tensor in memory.
//!
//! Files are mapped, not read: a tensor's bytes go from the map straight to the kind and device that were asked for,
//! and the pages behind them are given back at once. So loading holds the model and the tensor at hand, however large
//! the file. A file that is cut short while it is mapped ends the process (SIGBUS), as with every mapping: replace
//! checkpoints by renaming, as quern does.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::{Mmap, UncheckedAdvice};
use tch::{Device, Kind, Tensor};

use super::WeightsError;
use super::error::io_error;

/// More dimensions than any parameter has; PyTorch's kernels stop at 64.
pub(super) const MAX_DIMENSIONS: usize = 16;

/// A file in memory as the kernel pages it in.
pub(super) struct MappedFile {
    pub path: PathBuf,
    map: Mmap,
}

impl MappedFile {
    pub fn open(path: &Path) -> Result<Arc<Self>, WeightsError> {
        let file = File::open(path).map_err(|source| io_error(path, source))?;
        // SAFETY: the map is read-only, and nobody writes to a checkpoint in place (see the module's header).
        let map = unsafe { Mmap::map(&file) }.map_err(|source| io_error(path, source))?;
        Ok(Arc::new(MappedFile { path: path.to_path_buf(), map }))
    }

    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Gives the pages of `range` back; they are read again when touched again.
    fn release(&self, range: &Range<usize>) {
        // SAFETY: the map is read-only and backed by a file, so its pages come back with the same content.
        // A refusal costs memory only.
        let _ = unsafe { self.map.unchecked_advise_range(UncheckedAdvice::DontNeed, range.start, range.len()) };
    }
}

/// Elements of a tensor within a storage, in PyTorch's terms.
pub(super) struct View {
    pub shape: Vec<i64>,
    /// In elements.
    pub strides: Vec<i64>,
    /// In elements.
    pub offset: i64,
}

impl View {
    /// All of a storage, row by row.
    pub fn contiguous(shape: Vec<i64>) -> Self {
        let mut strides = vec![1; shape.len()];
        for axis in (1..shape.len()).rev() {
            strides[axis - 1] = shape[axis].max(1).saturating_mul(strides[axis]);
        }
        View { shape, strides, offset: 0 }
    }

    /// The elements from the first to the last that are touched; an error where they aren't all among `available`.
    fn touched(&self, available: u64) -> Result<Range<u64>, String> {
        let View { shape, strides, offset } = self;
        let outside = || format!("shape {shape:?}, strides {strides:?}, offset {offset} in a storage of {available}");
        let negative = shape.iter().chain(strides).any(|&value| value < 0) || *offset < 0;
        if shape.len() != strides.len() || shape.len() > MAX_DIMENSIONS || negative {
            return Err(outside());
        }
        let count = shape.iter().try_fold(1i64, |count, &extent| count.checked_mul(extent));
        let last = shape
            .iter()
            .zip(strides)
            .try_fold(*offset, |last, (&extent, &stride)| last.checked_add((extent - 1).max(0).checked_mul(stride)?));
        match (count, last) {
            (Some(0), _) => Ok(0..0),
            // More elements than the storage has would be copies of each other: no checkpoint's tensor.
            (Some(count), Some(last)) if (last as u64) < available && count as u64 <= available => {
                Ok(*offset as u64..last as u64 + 1)
            }
            _ => Err(outside()),
        }
    }
}

/// A tensor in a file.
pub(super) struct StoredTensor {
    file: Arc<MappedFile>,
    /// From the first byte that belongs to it to the last.
    range: Range<usize>,
    kind: Kind,
    shape: Vec<i64>,
    strides: Vec<i64>,
    big_endian: bool,
}

impl StoredTensor {
    /// The `view` of the elements in the bytes `storage` of `file`; the reason where it doesn't fit in there.
    pub fn new(file: &Arc<MappedFile>, storage: Range<usize>, kind: Kind, view: View) -> Result<Self, String> {
        let size = kind.elt_size_in_bytes();
        if storage.end > file.bytes().len() || storage.start > storage.end {
            return Err(format!("bytes {storage:?} in a file of {}", file.bytes().len()));
        }
        let touched = view.touched((storage.len() / size) as u64)?;
        let range = storage.start + touched.start as usize * size..storage.start + touched.end as usize * size;
        let View { shape, strides, .. } = view;
        Ok(StoredTensor { file: file.clone(), range, kind, shape, strides, big_endian: false })
    }

    /// The same, with its bytes in the order of a big-endian machine.
    pub fn in_big_endian(self) -> Self {
        StoredTensor { big_endian: true, ..self }
    }

    pub fn path(&self) -> &Path {
        &self.file.path
    }

    pub fn shape(&self) -> &[i64] {
        &self.shape
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// A copy on `device` as `kind`.
    pub fn read(&self, device: Device, kind: Kind) -> Tensor {
        let bytes = &self.file.bytes()[self.range.clone()];
        let size = self.kind.elt_size_in_bytes();
        let count = [(bytes.len() / size) as i64];
        let flat = if self.big_endian {
            let swapped: Vec<u8> = bytes.chunks_exact(size).flat_map(|element| element.iter().rev().copied()).collect();
            Tensor::from_data_size(&swapped, &count, self.kind)
        } else if bytes.is_empty() || !(bytes.as_ptr() as usize).is_multiple_of(size) {
            Tensor::from_data_size(bytes, &count, self.kind)
        } else {
            // SAFETY: aligned, of the stated length, and copied below before `self` can go.
            unsafe { Tensor::from_blob(bytes.as_ptr(), &count, &[1], self.kind, Device::Cpu) }
        };
        let view = flat.as_strided(&self.shape, &self.strides, 0);
        let copy = view.to_device_(device, kind, false, true).contiguous();
        self.file.release(&self.range);
        copy
    }
}
