//! What can be wrong with a checkpoint.

use std::path::{Path, PathBuf};

/// What can be wrong with a checkpoint.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// Neither a weights file nor an index was found.
    #[error("no weights at {path}: expected a .safetensors, .bin, .pth or .pt file, or a folder with model.safetensors, pytorch_model.bin, the .index.json of either, or open_clip's names of them", path = .0.display())]
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
    /// A file ends before a tensor does.
    #[error("tensor {name} of {path} needs {expected} bytes, but the file holds {found} of them; it is truncated or still being written", path = .path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Bytes that it needs.
        expected: u64,
        /// Bytes that are there.
        found: u64,
    },
    /// A shard that an index names is not there.
    #[error("{index} says that tensor {name} is in {shard}, which is not there", index = .index.display(), shard = .shard.display())]
    MissingShard {
        /// The index file.
        index: PathBuf,
        /// A tensor of the shard.
        name: String,
        /// The file that is expected.
        shard: PathBuf,
    },
    /// A pickle that is more than tensors and plain containers.
    #[error("{path} uses {name}, which is neither a tensor nor a plain container; nothing in a pickle is executed here: save the state dict alone, `torch.save(model.state_dict(), …)`", path = .path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What it names: `module.name`.
        name: String,
    },
    /// An entry of a state dict that is no tensor.
    #[error("entry {name} of {path} should be a tensor, but is {found}", path = .path.display())]
    NotATensor {
        /// The file.
        path: PathBuf,
        /// The entry.
        name: String,
        /// What it is.
        found: String,
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

/// A file that could not be read.
pub(super) fn io_error(path: &Path, source: std::io::Error) -> WeightsError {
    WeightsError::Io { path: path.to_path_buf(), source }
}

/// A file that is not what it should be.
pub(super) fn format_error(path: &Path, reason: impl Into<String>) -> WeightsError {
    WeightsError::Format { path: path.to_path_buf(), reason: reason.into() }
}
