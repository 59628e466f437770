//! Digests of the models that wrote and ranked the captions: the same folder contents, the same digests.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// The files of a model folder besides its weights that determine what it computes.
const SETTINGS: [&str; 10] = [
    "config.json",
    "open_clip_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
];

/// Formats of weights, the one that is read first.
const WEIGHTS: [&str; 2] = [".safetensors", ".bin"];

/// A model folder or one of its files can't be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the {role}'s {path}: {source}", path = .path.display())]
pub struct ModelFileError {
    /// `captioner` or `ranker`: the recipe's key.
    pub role: &'static str,
    /// The folder or file.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// BLAKE3 (as `b3sum` prints it) of every file of captioner and ranker that determines the result, weights above all:
/// `captioner/model.safetensors`, `ranker/tokenizer.json` and so on. The folders are local: what the recipe names may
/// have been fetched into them.
///
/// # Errors
/// When a folder or a file can't be read, or a folder holds no weights.
pub fn model_digests(captioner: &Path, ranker: &Path) -> Result<BTreeMap<String, String>, ModelFileError> {
    let mut digests = BTreeMap::new();
    for (role, folder) in [("captioner", captioner), ("ranker", ranker)] {
        let failed = |path: &Path, source| ModelFileError { role, path: path.to_owned(), source };
        let names = files(folder).map_err(|source| failed(folder, source))?;
        for name in names {
            let path = folder.join(&name);
            let digest = digest(&path).map_err(|source| failed(&path, source))?;
            digests.insert(format!("{role}/{name}"), digest);
        }
    }
    Ok(digests)
}

fn files(folder: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    // Pickles count where there is nothing else: beside safetensors they are not read.
    let Some(format) = WEIGHTS.iter().find(|format| names.iter().any(|name| is_weights(name, format))) else {
        return Err(io::Error::new(io::ErrorKind::NotFound, "no *.safetensors or *.bin file in it"));
    };
    names.retain(|name| is_weights(name, format) || SETTINGS.contains(&name.as_str()));
    Ok(names)
}

fn is_weights(name: &str, format: &str) -> bool {
    name.strip_suffix(".index.json").unwrap_or(name).ends_with(format)
}

fn digest(path: &Path) -> io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(path)?)?;
    Ok(hasher.finalize().to_hex().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digests(folder: &Path) -> Result<BTreeMap<String, String>, ModelFileError> {
        model_digests(&folder.join("blip"), &folder.join("clip"))
    }

    #[test]
    fn what_determines_the_result_is_digested() {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in [
            ("blip/model.safetensors", "abc"),
            ("blip/README.md", "x"),
            ("blip/pytorch_model.bin", "the same in another format"),
            ("clip/pytorch_model.bin.index.json", "{}"),
            ("clip/pytorch_model-00001-of-00001.bin", ""),
            ("clip/vocab.json", "{}"),
        ] {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        let digests = digests(folder.path()).unwrap();
        let names: Vec<_> = digests.keys().map(String::as_str).collect();
        let shard = "ranker/pytorch_model-00001-of-00001.bin";
        let index = "ranker/pytorch_model.bin.index.json";
        assert_eq!(names, ["captioner/model.safetensors", shard, index, "ranker/vocab.json"]);
        // `printf abc | b3sum`
        let abc = "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85";
        assert_eq!(digests["captioner/model.safetensors"], abc);
    }

    #[test]
    fn a_folder_without_weights_is_named() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("blip")).unwrap();
        std::fs::write(folder.path().join("blip/config.json"), "{}").unwrap();
        let error = digests(folder.path()).unwrap_err().to_string();
        assert!(error.contains("captioner") && error.contains("blip") && error.contains("safetensors"), "{error}");
    }
}
