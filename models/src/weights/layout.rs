//! Which files of a model folder hold its weights, and in what format each is.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Deserialize;

use super::checkpoint::read_json;
use super::error::format_error;
use super::stored::{MappedFile, StoredTensor};
use super::{WeightsError, pickle, safetensors};

/// Files that hold all weights, or an index of shards that do, in the order in which a folder is searched: Hugging
/// Face's own order, then open_clip's names.
pub(crate) const WEIGHT_FILES: [(&str, WeightFile); 6] = [
    ("model.safetensors", WeightFile::Tensors),
    ("model.safetensors.index.json", WeightFile::Index),
    ("pytorch_model.bin", WeightFile::Tensors),
    ("pytorch_model.bin.index.json", WeightFile::Index),
    ("open_clip_model.safetensors", WeightFile::Tensors),
    ("open_clip_pytorch_model.bin", WeightFile::Tensors),
];

/// What a file of weights is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum WeightFile {
    /// It holds tensors.
    Tensors,
    /// It lists the files that do.
    Index,
}

/// How a file begins that Git left in place of a large one.
const LFS_POINTER: &[u8] = b"version https://git-lfs";
/// How a zip archive begins.
const ZIP: &[u8] = b"PK\x03\x04";
/// How a pickle of protocol 2 to 5 begins.
const PICKLE: u8 = 0x80;

#[derive(Deserialize)]
struct ShardIndex {
    weight_map: BTreeMap<String, String>,
}

/// Tensors by name; a file may hold a name twice.
pub(super) type Named = Vec<(String, StoredTensor)>;

/// Every tensor of a weights file or of a model folder.
pub(super) fn tensors(folder_or_file: &Path) -> Result<Named, WeightsError> {
    if folder_or_file.is_file() {
        return file_tensors(folder_or_file);
    }
    for (name, holds) in WEIGHT_FILES {
        let path = folder_or_file.join(name);
        if path.is_file() {
            return match holds {
                WeightFile::Tensors => file_tensors(&path),
                WeightFile::Index => shard_tensors(folder_or_file, &path),
            };
        }
    }
    Err(WeightsError::NotFound(folder_or_file.to_path_buf()))
}

/// The format is read off the content: `.bin`, `.pt` and `.pth` say nothing.
fn file_tensors(path: &Path) -> Result<Named, WeightsError> {
    let file = MappedFile::open(path)?;
    match file.bytes() {
        bytes if bytes.starts_with(LFS_POINTER) => {
            Err(format_error(path, "it is Git's pointer to the file; fetch the file itself with `git lfs pull`"))
        }
        bytes if bytes.starts_with(ZIP) => pickle::zip_tensors(&file),
        // A safetensors file may begin with this byte too: the length of its header. Its ninth byte tells.
        [PICKLE, rest @ ..] if rest.get(7) != Some(&b'{') => pickle::legacy_tensors(&file),
        _ => safetensors::tensors(&file),
    }
}

fn shard_tensors(folder: &Path, index: &Path) -> Result<Named, WeightsError> {
    let weight_map = weight_map(index)?;
    let mut tensors = Vec::new();
    let mut opened = BTreeSet::new();
    for (name, file) in &weight_map {
        if !opened.insert(file) {
            continue;
        }
        let path = folder.join(file);
        if !path.is_file() {
            return Err(WeightsError::MissingShard { index: index.into(), name: name.clone(), shard: path });
        }
        tensors.extend(file_tensors(&path)?);
    }
    check_index(index, &weight_map, &tensors)?;
    Ok(tensors)
}

/// The files that an index lists.
pub(crate) fn shards(index: &Path) -> Result<BTreeSet<String>, WeightsError> {
    Ok(weight_map(index)?.into_values().collect())
}

/// An index: the file of each tensor.
fn weight_map(index: &Path) -> Result<BTreeMap<String, String>, WeightsError> {
    let ShardIndex { weight_map } = read_json(index)?;
    match weight_map.values().find(|file| Path::new(file).components().count() != 1 || *file == "..") {
        Some(file) => Err(format_error(index, format!("shard {file:?} is not a plain file name"))),
        None => Ok(weight_map),
    }
}

/// Every tensor must be in one shard, the one that the index names, and in the index.
fn check_index(index: &Path, weight_map: &BTreeMap<String, String>, tensors: &Named) -> Result<(), WeightsError> {
    let mut found: BTreeMap<&String, &Path> = BTreeMap::new();
    for (name, tensor) in tensors {
        if let Some(first) = found.insert(name, tensor.path()) {
            let (first, second) = (first.display().to_string(), tensor.path().display().to_string());
            return Err(WeightsError::Duplicate { name: name.clone(), first, second });
        }
    }
    for (name, file) in weight_map {
        let reason = match found.get(name) {
            Some(path) if path.ends_with(file) => continue,
            Some(path) => format!("{name} is not in {file} as the index says, but in {}", path.display()),
            None => format!("{name} is not in {file} as the index says, nor in another shard"),
        };
        return Err(format_error(index, reason));
    }
    match tensors.iter().find(|(name, _)| !weight_map.contains_key(name)) {
        Some((name, tensor)) => {
            Err(format_error(index, format!("{name} is in {}, but not in the index", tensor.path().display())))
        }
        None => Ok(()),
    }
}
