//! What `torch.save` writes of `{"model": {name: tensor, …}}`, as LAVIS' `load_checkpoint` reads it: a zip archive of one
//! pickle and the tensors' storages. (<https://docs.python.org/3/library/pickletools.html>, PyTorch
//! `torch/serialization.py`.) `torch.load(…, weights_only=True)` accepts it.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use tch::Kind;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use super::{Outgoing, SaveError};

/// PyTorch's alignment of storages.
const ALIGNMENT: u16 = 64;
/// The format's version.
const VERSION: &[u8] = b"3\n";

/// Opcodes of protocol 2.
mod op {
    pub const PROTOCOL_2: &[u8] = b"\x80\x02";
    pub const STOP: u8 = b'.';
    pub const MARK: u8 = b'(';
    pub const EMPTY_DICT: u8 = b'}';
    pub const EMPTY_TUPLE: u8 = b')';
    pub const TUPLE: u8 = b't';
    pub const SET_ITEMS: u8 = b'u';
    pub const GLOBAL: u8 = b'c';
    pub const REDUCE: u8 = b'R';
    pub const PERSISTENT_ID: u8 = b'Q';
    pub const FALSE: u8 = 0x89;
    pub const UNICODE: u8 = b'X';
    pub const LONG: u8 = 0x8a;
}

/// Writes `tensors` as the value of `key`.
///
/// # Errors
/// When the file system refuses, or a tensor's kind is none of a parameter's.
pub fn write_pickle(path: &Path, key: &str, tensors: Vec<Outgoing>) -> Result<(), SaveError> {
    let pickle = pickle(key, &tensors)?;
    let root = path.file_stem().map_or("archive".into(), |stem| stem.to_string_lossy());
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Stored)
        .with_alignment(ALIGNMENT)
        .large_file(true);
    let write = || {
        let mut archive = ZipWriter::new(BufWriter::new(File::create(path)?));
        let mut entry = |name: &str, content: &[u8]| {
            archive.start_file(format!("{root}/{name}"), options)?;
            archive.write_all(content)
        };
        entry("data.pkl", &pickle)?;
        entry("byteorder", b"little")?;
        for (index, tensor) in tensors.iter().enumerate() {
            entry(&format!("data/{index}"), &tensor.content())?;
        }
        entry("version", VERSION)?;
        archive.finish()?.into_inner().map_err(|error| error.into_error())?.sync_all()
    };
    write().map_err(|source| SaveError::Io { path: path.to_path_buf(), source })
}

fn pickle(key: &str, tensors: &[Outgoing]) -> Result<Vec<u8>, SaveError> {
    let mut out = Pickle(op::PROTOCOL_2.to_vec());
    out.push(&[op::EMPTY_DICT, op::MARK]);
    out.text(key);
    out.push(&[op::EMPTY_DICT, op::MARK]);
    for (index, tensor) in tensors.iter().enumerate() {
        out.text(&tensor.name);
        out.tensor(tensor, index)?;
    }
    out.push(&[op::SET_ITEMS, op::SET_ITEMS, op::STOP]);
    Ok(out.0)
}

struct Pickle(Vec<u8>);

impl Pickle {
    fn push(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    fn text(&mut self, text: &str) {
        self.push(&[op::UNICODE]);
        self.push(&(text.len() as u32).to_le_bytes());
        self.push(text.as_bytes());
    }

    fn integer(&mut self, value: i64) {
        let bytes = value.to_le_bytes();
        self.push(&[op::LONG, bytes.len() as u8]);
        self.push(&bytes);
    }

    fn integers(&mut self, values: &[i64]) {
        self.push(&[op::MARK]);
        values.iter().for_each(|&value| self.integer(value));
        self.push(&[op::TUPLE]);
    }

    fn global(&mut self, module: &str, name: &str) {
        self.push(&[op::GLOBAL]);
        self.push(format!("{module}\n{name}\n").as_bytes());
    }

    /// `_rebuild_tensor_v2(storage, offset, size, stride, requires_grad, backward_hooks)`
    fn tensor(&mut self, tensor: &Outgoing, index: usize) -> Result<(), SaveError> {
        let storage = match tensor.kind {
            Kind::Float => "FloatStorage",
            Kind::Half => "HalfStorage",
            Kind::BFloat16 => "BFloat16Storage",
            Kind::Double => "DoubleStorage",
            Kind::Int64 => "LongStorage",
            kind => return Err(SaveError::Kind { name: tensor.name.clone(), kind }),
        };
        self.global("torch._utils", "_rebuild_tensor_v2");
        self.push(&[op::MARK, op::MARK]);
        self.text("storage");
        self.global("torch", storage);
        self.text(&index.to_string());
        self.text("cpu");
        self.integer(tensor.numel() as i64);
        self.push(&[op::TUPLE, op::PERSISTENT_ID]);
        self.integer(0);
        self.integers(&tensor.shape);
        self.integers(&strides(&tensor.shape));
        self.push(&[op::FALSE]);
        self.global("collections", "OrderedDict");
        self.push(&[op::EMPTY_TUPLE, op::REDUCE, op::TUPLE, op::REDUCE]);
        Ok(())
    }
}

/// Of a tensor that lies row by row.
fn strides(shape: &[i64]) -> Vec<i64> {
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis];
    }
    strides
}
