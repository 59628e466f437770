//! Where a model comes from: a folder, an object store, or the Hugging Face Hub.
//!
//! [`ModelSource::fetch`] gives a local folder (or file) in each case. What is remote is fetched once, into a cache that
//! later fetches check against the source and otherwise only read: the Hub's own, which Python shares, or one folder per
//! URL. Files appear in either cache whole or not at all.
//!
//! Only what a model is made of is fetched: its settings, and its weights in the format that [`Weights::open`] would
//! choose, so a repository's copies in other formats are left where they are.
//!
//! [`Weights::open`]: crate::weights::Weights::open

mod environment;
mod hub;
mod store;

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use url::Url;

use crate::qformer::foreign::EXTRA_FILE;
use crate::weights::{WEIGHT_FILES, WeightFile, WeightsError, shards};

use environment::Environment;

/// The files beside its weights that determine what a model computes.
const SETTINGS: [&str; 13] = [
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "open_clip_config.json",
];

/// How names of weights files end; a URL that ends so is a file, not a folder.
const WEIGHTS_EXTENSIONS: [&str; 4] = [".safetensors", ".bin", ".pth", ".pt"];

/// Whether a path or URL is a weights file's, by its ending.
pub fn is_weights_file(name: &str) -> bool {
    WEIGHTS_EXTENSIONS.iter().any(|extension| name.ends_with(extension))
}

/// What can go wrong between a model's name and its files.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The text names no place.
    #[error(
        "{text}: {reason}; give a folder, hf://owner/name[@revision], or an s3://, gs://, az://, http(s):// or file:// URL"
    )]
    Malformed {
        /// As given.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// There is no local folder or file.
    #[error("there is no {path}; it must be a model folder in Hugging Face layout, or a weights file", path = .0.display())]
    NoFolder(PathBuf),
    /// The source doesn't have a file that a model needs.
    #[error("{location} has no {expected}; is the name right, and is it yours to read (HF_TOKEN, AWS_*, …)?")]
    Nothing {
        /// Repository or URL.
        location: String,
        /// The file, or the files of which one would do.
        expected: String,
    },
    /// The same of the cache, when the network must not be used.
    #[error("the cache {cache} has no {expected} of {location}, and HF_HUB_OFFLINE is set: fetch it once without, or copy the cache of a machine that has it", cache = .cache.display())]
    Offline {
        /// Repository.
        location: String,
        /// The file, or the files of which one would do.
        expected: String,
        /// Where it would be.
        cache: PathBuf,
    },
    /// The Hub, or the way to it, failed.
    #[error("cannot fetch {file} of {location}: {source}")]
    Hub {
        /// Repository.
        location: String,
        /// The file.
        file: String,
        /// The client's error.
        source: Box<hf_hub::HFError>,
    },
    /// The object store, or the way to it, failed.
    #[error("cannot fetch {url}: {source}")]
    Store {
        /// The object.
        url: String,
        /// The store's error.
        source: object_store::Error,
    },
    /// The store sent less or more than it said.
    #[error("{url} should have {expected} bytes, but {found} arrived")]
    Incomplete {
        /// The object.
        url: String,
        /// Its size.
        expected: u64,
        /// Bytes that arrived.
        found: u64,
    },
    /// The cache can't be used.
    #[error("cannot write the model cache {path}: {source}", path = .path.display())]
    Cache {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// An index of shards that can't be read.
    #[error(transparent)]
    Index(#[from] WeightsError),
}

/// Where a model is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelSource {
    /// A folder in Hugging Face layout, or a weights file, on this machine.
    Local(PathBuf),
    /// The same in an object store or behind a web server.
    Store(Url),
    /// A model repository on the Hugging Face Hub.
    Hub {
        /// Who it belongs to.
        owner: String,
        /// Its name.
        name: String,
        /// Branch, tag or commit; `main` if not given.
        revision: Option<String>,
    },
}

/// What of a model is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Everything,
    /// Configuration and tokenizer.
    Settings,
}

/// A source's files, one by one.
trait Files {
    /// A local copy of `name`, or `None` where the source doesn't have it.
    fn get(&mut self, name: &str) -> Result<Option<PathBuf>, SourceError>;
    /// The error that `expected` is not there.
    fn nothing(&self, expected: String) -> SourceError;
}

impl ModelSource {
    /// Reads a path, an object-store URL, or `hf://owner/name[@revision]`. Nothing is looked up.
    ///
    /// # Errors
    /// [`SourceError::Malformed`].
    pub fn parse(text: &str) -> Result<Self, SourceError> {
        let malformed = |reason: &str| SourceError::Malformed { text: text.into(), reason: reason.into() };
        if text.trim().is_empty() {
            return Err(malformed("an empty name"));
        }
        if let Some(repository) = text.strip_prefix("hf://") {
            let (path, revision) = match repository.split_once('@') {
                Some((path, revision)) => (path, Some(revision.to_string())),
                None => (repository, None),
            };
            return match path.split('/').collect::<Vec<_>>()[..] {
                [owner, name] if !owner.is_empty() && !name.is_empty() && revision.as_deref() != Some("") => {
                    Ok(ModelSource::Hub { owner: owner.into(), name: name.into(), revision })
                }
                _ => Err(malformed("not a repository of the Hub")),
            };
        }
        if !text.contains("://") {
            return Ok(ModelSource::Local(PathBuf::from(text)));
        }
        let url = Url::parse(text).map_err(|error| malformed(&error.to_string()))?;
        if url.scheme() == "file" {
            let path = url.to_file_path().map_err(|()| malformed("a file URL is file:///an/absolute/path"))?;
            return Ok(ModelSource::Local(path));
        }
        object_store::ObjectStoreScheme::parse(&url).map_err(|error| malformed(&error.to_string()))?;
        Ok(ModelSource::Store(url))
    }

    /// The model's folder (or weights file) on this machine, fetched as far as it isn't there. Blocks; may be called
    /// from asynchronous code's blocking threads.
    ///
    /// # Errors
    /// When the source, the cache or the way between them fails; see [`SourceError`].
    pub fn fetch(&self) -> Result<PathBuf, SourceError> {
        self.fetch_with(&Environment::of_process(), Wanted::Everything)
    }

    /// As [`ModelSource::fetch`], without the weights: what a tokenizer or a configuration needs.
    ///
    /// # Errors
    /// As [`ModelSource::fetch`].
    pub fn fetch_settings(&self) -> Result<PathBuf, SourceError> {
        self.fetch_with(&Environment::of_process(), Wanted::Settings)
    }

    fn fetch_with(&self, environment: &Environment, wanted: Wanted) -> Result<PathBuf, SourceError> {
        match self {
            ModelSource::Local(path) if path.exists() => Ok(path.clone()),
            ModelSource::Local(path) => Err(SourceError::NoFolder(path.clone())),
            ModelSource::Hub { owner, name, revision } => {
                model(&mut hub::Repository::new(environment, owner, name, revision.as_deref())?, wanted)
            }
            ModelSource::Store(url) => {
                let (folder, file) = split(url);
                let mut files = store::Mirror::new(environment, &folder)?;
                match file {
                    Some(file) => files.get(&file)?.ok_or_else(|| files.nothing(file)),
                    None => model(&mut files, wanted),
                }
            }
        }
    }
}

/// Parses `text` and fetches what it names: [`ModelSource::parse`] and [`ModelSource::fetch`].
///
/// # Errors
/// Theirs.
pub fn fetch(text: &str) -> Result<PathBuf, SourceError> {
    ModelSource::parse(text)?.fetch()
}

/// Fetches the files of a model; the folder that they are in.
fn model(files: &mut impl Files, wanted: Wanted) -> Result<PathBuf, SourceError> {
    let mut folder = None;
    for name in SETTINGS {
        folder = files.get(name)?.map(parent).or(folder);
    }
    if wanted == Wanted::Settings {
        return folder.ok_or_else(|| files.nothing(SETTINGS.join(" or ")));
    }
    files.get(EXTRA_FILE)?; // beside an export of quern's
    for (name, holds) in WEIGHT_FILES {
        let Some(path) = files.get(name)? else { continue };
        if let WeightFile::Index = holds {
            for file in shards(&path)? {
                if files.get(&file)?.is_none() {
                    return Err(files.nothing(format!("{file}, which its {name} lists")));
                }
            }
        }
        return Ok(parent(path));
    }
    Err(files.nothing(WEIGHT_FILES.map(|(name, _)| name).join(" or ")))
}

/// Waits until nobody else on this machine fetches what `path` stands for; they begin when the file is dropped. The
/// workers of a machine start together, and one of them is enough to fetch.
fn lock(path: &Path) -> Result<File, SourceError> {
    let failed = |source| SourceError::Cache { path: path.to_path_buf(), source };
    fs::create_dir_all(path.parent().unwrap_or(Path::new(""))).map_err(failed)?;
    let file = File::create(path).map_err(failed)?;
    file.lock().map_err(failed)?;
    Ok(file)
}

fn parent(file: PathBuf) -> PathBuf {
    file.parent().unwrap_or(Path::new("")).to_path_buf()
}

/// A URL's folder, and the weights file in it if it names one.
fn split(url: &Url) -> (Url, Option<String>) {
    let last = url.path_segments().and_then(|mut segments| segments.next_back()).unwrap_or_default().to_string();
    if !is_weights_file(&last) {
        return (url.clone(), None);
    }
    let mut folder = url.clone();
    if let Ok(mut segments) = folder.path_segments_mut() {
        segments.pop();
    }
    (folder, Some(last))
}

#[cfg(test)]
mod tests;
