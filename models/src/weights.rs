//! Strict weights: tensors by checkpoint name.
//!
//! A model declares every tensor that it has, by the checkpoint's own name and with its shape, and takes it from a
//! [`TensorSource`] through a [`Scope`] (a name prefix, so that a checkpoint path is a code path). [`Weights`] is the
//! source that reads files (safetensors, PyTorch's pickles, shards of either): a missing, surplus, duplicate or
//! misshapen tensor is an error that names it, its file and the shapes; nothing is ever initialised silently. Sources
//! that initialise or count ([`parameter_count`]) walk the same declarations.

mod checkpoint;
mod counter;
mod error;
mod layout;
mod pickle;
mod safetensors;
mod scope;
mod stored;

<<<<<<< HEAD
use safetensors::tensor::{Dtype, Metadata};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tch::{Device, Kind, Tensor};

/// Bytes before a safetensors header: its length, little-endian.
const HEADER_LENGTH_BYTES: u64 = 8;
/// The largest header that the format allows.
const MAX_HEADER_BYTES: u64 = 100_000_000;
/// Stored buffers that no model of ours has as a parameter; Hugging Face and LAVIS checkpoints carry them.
const KNOWN_BUFFERS: [&str; 2] = ["position_ids", "num_batches_tracked"];

/// What can be wrong with a checkpoint.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// Neither a weights file nor an index was found.
    #[error("no weights at {path}: expected model.safetensors or model.safetensors.index.json there, or a .safetensors file (convert a pytorch_model.bin with `save_pretrained(..., safe_serialization=True)`)", path = .0.display())]
    NotFound(PathBuf),
    /// A file could not be read.
    #[error("cannot read {path}: {source}", path = .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is not what its name says.
    #[error("{path} is damaged or of another format: {reason}", path = .path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A tensor that the model has is not in the checkpoint.
    #[error("tensor {name} (shape {expected:?}) is missing from {location}; the nearest names there: {near:?}")]
    Missing {
        /// Full name in the checkpoint.
        name: String,
        /// The shape that the model needs.
        expected: Vec<i64>,
        /// File or folder.
        location: String,
        /// Names in the checkpoint that end alike.
        near: Vec<String>,
    },
    /// A tensor has another shape than the model.
    #[error("tensor {name} of {location} has shape {found:?}, but the model's config asks for {expected:?}")]
    Shape {
        /// Full name in the checkpoint.
        name: String,
        /// The shape that the model needs.
        expected: Vec<i64>,
        /// The shape in the file.
        found: Vec<i64>,
        /// The file.
        location: String,
    },
    /// The same tensor twice.
    #[error("tensor {name} is in {first} and again in {second}")]
    Duplicate {
        /// Full name in the checkpoint.
        name: String,
        /// Where it was first.
        first: String,
        /// Where it is again.
        second: String,
    },
    /// Tensors that the model does not have.
    #[error("{location} holds {count} tensors that the model does not have: {names:?}; is it a checkpoint of this architecture and depth?", count = .names.len())]
    Extra {
        /// The first of them, with their files.
        names: Vec<String>,
        /// File or folder.
        location: String,
    },
    /// A stored copy of a tied tensor differs from the tensor that it is tied to.
    #[error("tensor {name} of {location} differs from {tied_to}, to which the model ties it")]
    NotTied {
        /// Full name in the checkpoint.
        name: String,
        /// The tensor that the model uses.
        tied_to: String,
        /// File or folder.
        location: String,
    },
    /// A config value that the model can't be built from.
    #[error("{location}: {reason}")]
    Config {
        /// File or model.
        location: String,
        /// What is wrong.
        reason: String,
    },
}

/// Where a model's tensors come from: files, an initialiser, a recorder.
pub trait TensorSource {
    /// The tensor `name` of `shape`; each name is taken once.
    fn tensor(&self, name: &str, shape: &[i64]) -> Result<Tensor, WeightsError>;
    /// Whether the source holds `name` at all (an initialiser says yes to the native names only).
    fn has(&self, name: &str) -> bool;
    /// Accounts for a stored copy `name` of the tensor `tied_to`, whose value is `value`; absent is fine, different is an error.
    fn tied(&self, name: &str, tied_to: &str, value: &Tensor) -> Result<(), WeightsError>;
}

/// A name prefix in a source.
#[derive(Clone)]
pub struct Scope<'a> {
    source: &'a dyn TensorSource,
    prefix: String,
}

impl<'a> Scope<'a> {
    /// The whole source.
    pub fn root(source: &'a dyn TensorSource) -> Self {
        Scope { source, prefix: String::new() }
    }

    /// The names below `name` (`"a.b"` descends twice; an empty name stays here).
    pub fn sub(&self, name: impl AsRef<str>) -> Scope<'a> {
        Scope { source: self.source, prefix: self.full(name.as_ref()) }
    }

    /// The `index`-th element of the list `name`, as in `layers.3`.
    pub fn item(&self, name: &str, index: usize) -> Scope<'a> {
        self.sub(format!("{name}.{index}"))
    }

    /// Takes the tensor `name` of `shape`.
    pub fn tensor(&self, name: &str, shape: &[i64]) -> Result<Tensor, WeightsError> {
        self.source.tensor(&self.full(name), shape)
    }

    /// Whether `name` is there.
    pub fn has(&self, name: &str) -> bool {
        self.source.has(&self.full(name))
    }

    /// See [`TensorSource::tied`]; both names are relative to the source's root.
    pub fn tied(&self, name: &str, tied_to: &str, value: &Tensor) -> Result<(), WeightsError> {
        self.source.tied(&self.full(name), tied_to, value)
    }

    /// The full name of `name` in the source.
    pub fn full(&self, name: &str) -> String {
        match (self.prefix.is_empty(), name.is_empty()) {
            (true, _) => name.to_string(),
            (false, true) => self.prefix.clone(),
            (false, false) => format!("{}.{name}", self.prefix),
        }
    }
}

/// A checkpoint's tensors, read one by one as they are taken.
pub struct Weights {
    location: String,
    entries: BTreeMap<String, Entry>,
    taken: RefCell<BTreeSet<String>>,
    device: Device,
    kind: Kind,
}

/// One tensor: in memory, or a range of a file.
enum Entry {
    Memory(Tensor),
    Stored { file: PathBuf, dtype: Kind, shape: Vec<i64>, offset: u64, bytes: usize },
}

#[derive(Deserialize)]
struct ShardIndex {
    weight_map: BTreeMap<String, String>,
}

impl Weights {
    /// Opens a `.safetensors` file, or a folder with `model.safetensors` or `model.safetensors.index.json`.
    /// Floating tensors arrive on `device` as `kind`, whatever precision they are stored in; integers keep theirs.
    pub fn open(folder_or_file: &Path, device: Device, kind: Kind) -> Result<Self, WeightsError> {
        let mut weights = Weights {
            location: folder_or_file.display().to_string(),
            entries: BTreeMap::new(),
            taken: RefCell::default(),
            device,
            kind,
        };
        let single = folder_or_file.join("model.safetensors");
        let index = folder_or_file.join("model.safetensors.index.json");
        if folder_or_file.is_file() {
            weights.add_file(folder_or_file)?;
        } else if index.is_file() {
            weights.add_shards(folder_or_file, &index)?;
        } else if single.is_file() {
            weights.add_file(&single)?;
        } else {
            return Err(WeightsError::NotFound(folder_or_file.to_path_buf()));
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
        let mut weights = Weights {
            location: location.to_string(),
            entries: BTreeMap::new(),
            taken: RefCell::default(),
            device,
            kind,
        };
        for (name, tensor) in tensors {
            weights.insert(name, Entry::Memory(tensor), location)?;
        }
        Ok(weights)
    }

    /// Renames every tensor by `rename` (an architecture's other spelling, a wrapper's prefix); `None` drops it from
    /// the strictness check as a tensor of a part that this model does not have.
    pub fn rename(self, rename: impl Fn(&str) -> Option<String>) -> Result<Self, WeightsError> {
        let Weights { location, entries, taken, device, kind } = self;
        let mut renamed = Weights { location, entries: BTreeMap::new(), taken, device, kind };
        for (name, entry) in entries {
            if let Some(name) = rename(&name) {
                let origin = renamed.origin(&entry);
                renamed.insert(name, entry, &origin)?;
            }
        }
        Ok(renamed)
    }

    /// Where tensors arrive.
    pub fn device(&self) -> Device {
        self.device
    }

    /// The names of all tensors, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// The shape in which `name` is stored.
    pub fn shape(&self, name: &str) -> Option<Vec<i64>> {
        self.entries.get(name).map(Entry::shape)
    }

    /// These tensors and `others`, such as those of a file beside the model's; a name in both is an error.
    pub fn with(mut self, others: Weights) -> Result<Self, WeightsError> {
        let Weights { location, entries, .. } = others;
        for (name, entry) in entries {
            let origin =
                if let Entry::Stored { file, .. } = &entry { file.display().to_string() } else { location.clone() };
            self.insert(name, entry, &origin)?;
        }
        Ok(self)
    }

    /// The top scope.
    pub fn root(&self) -> Scope<'_> {
        Scope::root(self)
    }

    /// Errs if a tensor was not taken, but for known buffers such as `position_ids`.
    pub fn finish(&self) -> Result<(), WeightsError> {
        let taken = self.taken.borrow();
        let extra: Vec<String> = self
            .entries
            .iter()
            .filter(|(name, _)| !taken.contains(*name) && !is_known_buffer(name))
            .map(|(name, entry)| format!("{name} {:?} ({})", entry.shape(), self.origin(entry)))
            .collect();
        if extra.is_empty() {
            return Ok(());
        }
        Err(WeightsError::Extra { names: extra, location: self.location.clone() })
    }

    fn add_shards(&mut self, folder: &Path, index: &Path) -> Result<(), WeightsError> {
        let ShardIndex { weight_map } = read_json(index)?;
        let files: BTreeSet<&String> = weight_map.values().collect();
        for file in files {
            if Path::new(file).components().count() != 1 || file == ".." {
                return Err(format_error(index, format!("shard {file:?} is not a plain file name")));
            }
            self.add_file(&folder.join(file))?;
        }
        for (name, file) in &weight_map {
            match self.entries.get(name) {
                Some(Entry::Stored { file: found, .. }) if found.ends_with(file) => {}
                _ => return Err(format_error(index, format!("{name} is not in {file} as the index says"))),
            }
        }
        match self.entries.keys().find(|name| !weight_map.contains_key(*name)) {
            Some(name) => Err(format_error(index, format!("{name} is in a shard but not in the index"))),
            None => Ok(()),
        }
    }

    fn add_file(&mut self, path: &Path) -> Result<(), WeightsError> {
        let (metadata, data_start) = read_header(path)?;
        for (name, info) in metadata.tensors() {
            let dtype = torch_kind(info.dtype)
                .ok_or_else(|| format_error(path, format!("{name} has the unsupported type {:?}", info.dtype)))?;
            let entry = Entry::Stored {
                file: path.to_path_buf(),
                dtype,
                shape: info.shape.iter().map(|&extent| extent as i64).collect(),
                offset: data_start + info.data_offsets.0 as u64,
                bytes: info.data_offsets.1 - info.data_offsets.0,
            };
            self.insert(name, entry, &path.display().to_string())?;
        }
        Ok(())
    }

    fn insert(&mut self, name: String, entry: Entry, origin: &str) -> Result<(), WeightsError> {
        if let Some(first) = self.entries.get(&name) {
            let (first, second) = (self.origin(first), origin.to_string());
            return Err(WeightsError::Duplicate { name, first, second });
        }
        self.entries.insert(name, entry);
        Ok(())
    }

    fn origin(&self, entry: &Entry) -> String {
        match entry {
            Entry::Memory(_) => self.location.clone(),
            Entry::Stored { file, .. } => file.display().to_string(),
        }
    }

    fn read(&self, entry: &Entry) -> Result<Tensor, WeightsError> {
        let tensor = match entry {
            Entry::Memory(tensor) => tensor.shallow_clone(),
            Entry::Stored { file, dtype, shape, offset, bytes } => {
                let mut buffer = vec![0u8; *bytes];
                let open = File::open(file).and_then(|open| open.read_exact_at(&mut buffer, *offset));
                open.map_err(|source| io_error(file, source))?;
                Tensor::from_data_size(&buffer, shape, *dtype)
            }
        };
        let kind = if tensor.is_floating_point() { self.kind } else { tensor.kind() };
        Ok(tensor.to_device(self.device).to_kind(kind))
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
                location: self.origin(entry),
            });
        }
        let fresh = self.taken.borrow_mut().insert(name.to_string());
        assert!(fresh, "the model declares {name} twice");
        self.read(entry)
    }

    fn has(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    fn tied(&self, name: &str, tied_to: &str, value: &Tensor) -> Result<(), WeightsError> {
        let Some(entry) = self.entries.get(name) else { return Ok(()) };
        self.taken.borrow_mut().insert(name.to_string());
        let stored = self.read(entry)?;
        if stored.size() == value.size() && stored.equal(value) {
            return Ok(());
        }
        Err(WeightsError::NotTied {
            name: name.to_string(),
            tied_to: tied_to.to_string(),
            location: self.origin(entry),
        })
    }
}

impl Entry {
    fn shape(&self) -> Vec<i64> {
        match self {
            Entry::Memory(tensor) => tensor.size(),
            Entry::Stored { shape, .. } => shape.clone(),
        }
    }
}

/// Reads a JSON file of a model folder (`config.json` and its kin).
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, WeightsError> {
    let text = std::fs::read(path).map_err(|source| io_error(path, source))?;
    serde_json::from_slice(&text).map_err(|error| format_error(path, error.to_string()))
}

/// All tensors of one safetensors file, as they are stored, by name.
pub fn read_tensors(path: &Path) -> Result<BTreeMap<String, Tensor>, WeightsError> {
    // Read as doubles, which lose nothing of any stored precision.
    let weights = Weights::open(path, Device::Cpu, Kind::Double)?;
    weights
        .entries
        .iter()
        .map(|(name, entry)| match entry {
            Entry::Stored { dtype, .. } => Ok((name.clone(), weights.read(entry)?.to_kind(*dtype))),
            Entry::Memory(tensor) => Ok((name.clone(), tensor.shallow_clone())),
        })
        .collect()
}

fn read_header(path: &Path) -> Result<(Metadata, u64), WeightsError> {
    let file = File::open(path).map_err(|source| io_error(path, source))?;
    let size = file.metadata().map_err(|source| io_error(path, source))?.len();
    let mut length = [0u8; HEADER_LENGTH_BYTES as usize];
    file.read_exact_at(&mut length, 0).map_err(|source| io_error(path, source))?;
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER_BYTES || length + HEADER_LENGTH_BYTES > size {
        return Err(format_error(path, format!("a header of {length} bytes in a file of {size}")));
    }
    let mut header = vec![0u8; length as usize];
    file.read_exact_at(&mut header, HEADER_LENGTH_BYTES).map_err(|source| io_error(path, source))?;
    let metadata: Metadata = serde_json::from_slice(&header).map_err(|error| format_error(path, error.to_string()))?;
    let data_start = HEADER_LENGTH_BYTES + length;
    let expected = data_start + metadata.data_len() as u64;
    if expected != size {
        return Err(format_error(path, format!("{size} bytes long, but its header describes {expected}")));
    }
    Ok((metadata, data_start))
}

fn is_known_buffer(name: &str) -> bool {
    KNOWN_BUFFERS.iter().any(|buffer| name.rsplit('.').next() == Some(*buffer))
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

fn io_error(path: &Path, source: std::io::Error) -> WeightsError {
    WeightsError::Io { path: path.to_path_buf(), source }
}

fn format_error(path: &Path, reason: String) -> WeightsError {
    WeightsError::Format { path: path.to_path_buf(), reason }
}
=======
pub use checkpoint::{Weights, read_json, read_tensors};
pub use counter::{Counter, parameter_count};
pub use error::WeightsError;
pub(crate) use layout::{WEIGHT_FILES, WeightFile, shards};
pub use scope::{Scope, TensorSource};
>>>>>>> 3ed8989 (weights: pickles, shards of either format, mapped files; counting without allocating; sources: folders, URLs, the Hub)

#[cfg(test)]
mod tests;
