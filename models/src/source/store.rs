//! A copy of a model's folder in an object store, kept in the model cache.
//!
//! A file is fetched when its size or its tag (ETag, else the time of its last change) is not what it was. It is
//! written under another name and renamed when it is whole; a killed fetch leaves nothing that would be read.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::future::Future;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::{Stream, StreamExt};
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use url::Url;

use super::{Environment, Files, SourceError, lock};

/// Hexadecimal digits of a URL's digest in its cache folder's name.
const DIGEST_DIGITS: usize = 16;
/// How the variables begin that hold credentials and endpoints.
const CREDENTIALS: [&str; 3] = ["AWS_", "GOOGLE_", "AZURE_"];
/// Where the tags of fetched files are, beside them.
const TAGS: &str = ".tags";
/// Locked by whoever fetches into the folder.
const LOCK: &str = ".lock";

/// What tells one version of an object from another.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Tag {
    size: u64,
    version: String,
}

impl Tag {
    fn of(meta: &ObjectMeta) -> Self {
        Tag { size: meta.size, version: meta.e_tag.clone().unwrap_or_else(|| meta.last_modified.to_rfc3339()) }
    }
}

/// A folder of an object store and its copy.
pub struct Mirror {
    store: Box<dyn ObjectStore>,
    prefix: object_store::path::Path,
    url: String,
    folder: PathBuf,
    /// Held while this lives.
    _lock: File,
}

impl Mirror {
    /// `folder`'s copy; credentials and endpoints come from the environment (`AWS_*`, `GOOGLE_*`, `AZURE_*`).
    pub fn new(environment: &Environment, folder: &Url) -> Result<Self, SourceError> {
        let url = folder.as_str().trim_end_matches('/').to_string();
        // A plain web server is asked for as such, and so is an endpoint that the environment names.
        let is_endpoint = |(key, value): (String, String)| key.contains("_ENDPOINT") && value.starts_with("http://");
        let is_plain = folder.scheme() == "http" || credentials().any(is_endpoint);
        let plain = is_plain.then(|| ("allow_http".to_string(), "true".to_string()));
        let options = credentials().chain(plain);
        let (store, prefix) = object_store::parse_url_opts(folder, options)
            .map_err(|source| SourceError::Store { url: url.clone(), source })?;
        let folder = environment.model_cache.join(cache_name(&url));
        let lock = lock(&folder.join(LOCK))?;
        Ok(Mirror { store, prefix, url, folder, _lock: lock })
    }

    async fn fetch(&self, name: &str) -> Result<Option<PathBuf>, SourceError> {
        let url = format!("{}/{name}", self.url);
        let failed = |source| SourceError::Store { url: url.clone(), source };
        let object = self.prefix.clone().join(name);
        let path = self.folder.join(name);
        let meta = match self.store.head(&object).await {
            Ok(meta) => meta,
            Err(object_store::Error::NotFound { .. }) => {
                // What was fetched earlier must not be taken for a part of the model.
                return remove(&path).map(|()| None);
            }
            Err(source) => return Err(failed(source)),
        };
        let tag_path = self.folder.join(TAGS).join(name);
        if is_current(&path, &tag_path, &Tag::of(&meta)) {
            return Ok(Some(path));
        }
        let found = self.store.get(&object).await.map_err(failed)?;
        let tag = Tag::of(&found.meta);
        remove(&tag_path)?;
        save(&path, &url, tag.size, found.into_stream()).await?;
        let text = serde_json::to_vec(&tag).expect("a tag is plain");
        let size = text.len() as u64;
        save(&tag_path, &url, size, futures::stream::iter([Ok(Bytes::from(text))])).await?;
        Ok(Some(path))
    }
}

impl Files for Mirror {
    fn get(&mut self, name: &str) -> Result<Option<PathBuf>, SourceError> {
        block_on(self.fetch(name))
    }

    fn nothing(&self, expected: String) -> SourceError {
        SourceError::Nothing { location: self.url.clone(), expected }
    }
}

/// The variables that are about object stores. Those that aren't text are none that a store reads.
fn credentials() -> impl Iterator<Item = (String, String)> {
    let variables =
        std::env::vars_os().filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)));
    variables.filter(|(key, _)| CREDENTIALS.iter().any(|prefix| key.starts_with(prefix)))
}

/// Readable, and different for different URLs.
fn cache_name(url: &str) -> String {
    let last = url.rsplit('/').next().unwrap_or_default();
    let readable: String = last.chars().filter(|c| c.is_ascii_alphanumeric() || "-_.".contains(*c)).collect();
    let digest: String = Sha256::digest(url).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{readable}-{}", &digest[..DIGEST_DIGITS])
}

fn is_current(path: &Path, tag_path: &Path, tag: &Tag) -> bool {
    let stored = fs::read(tag_path).ok().and_then(|text| serde_json::from_slice::<Tag>(&text).ok());
    stored.as_ref() == Some(tag) && fs::metadata(path).is_ok_and(|file| file.len() == tag.size)
}

fn remove(path: &Path) -> Result<(), SourceError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(cache_error(path, error)),
        _ => Ok(()),
    }
}

/// Writes `content`, which has `size` bytes, so that `path` has all of it or is as before.
async fn save(
    path: &Path,
    url: &str,
    size: u64,
    content: impl Stream<Item = object_store::Result<Bytes>>,
) -> Result<(), SourceError> {
    let failed = |error| cache_error(path, error);
    let folder = path.parent().unwrap_or(Path::new(""));
    fs::create_dir_all(folder).map_err(failed)?;
    let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
    let staging = Staging(folder.join(format!(".{name}.part")));
    let mut file = File::create(&staging.0).map_err(failed)?;
    let mut found = 0;
    let mut content = std::pin::pin!(content);
    while let Some(bytes) = content.next().await {
        let bytes = bytes.map_err(|source| SourceError::Store { url: url.into(), source })?;
        found += bytes.len() as u64;
        file.write_all(&bytes).map_err(failed)?;
    }
    if found != size {
        return Err(SourceError::Incomplete { url: url.into(), expected: size, found });
    }
    file.sync_all().map_err(failed)?;
    fs::rename(&staging.0, path).map_err(failed)
}

/// A file that goes unless it was renamed.
struct Staging(PathBuf);

impl Drop for Staging {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn cache_error(path: &Path, source: std::io::Error) -> SourceError {
    SourceError::Cache { path: path.to_path_buf(), source }
}

/// Runs `work` on a thread of its own, since a runtime can't be started within another.
fn block_on<T: Send>(work: impl Future<Output = T> + Send) -> T {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build();
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| runtime().expect("a runtime").block_on(work));
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

#[cfg(test)]
mod tests;
