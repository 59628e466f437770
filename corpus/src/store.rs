//! Folders behind paths and URLs: the local file system, S3, Google Cloud Storage, Azure, HTTP.
//!
//! Credentials and endpoints come from the standard environment variables (`AWS_*`, `GOOGLE_*`, `AZURE_*`), as
//! `object_store` reads them. Local writes are atomic and durable, and a killed writer leaves no stray file. A store that
//! fails in passing is asked again: a request by `object_store` (`connect`), and what that can't mend by [`Patient`].

mod connect;
mod error;
mod patient;

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutPayload};
use url::Url;

pub use self::error::StoreError;
pub(crate) use self::error::is_passing;
pub use self::patient::Patient;
use crate::local;

/// A folder in an object store. Names below it are relative and `/`-separated.
#[derive(Debug, Clone)]
pub struct Folder {
    /// The store.
    pub store: Arc<dyn ObjectStore>,
    /// The folder in it.
    pub prefix: Path,
    /// The folder as people write it, without a closing slash.
    pub url: String,
    local: Option<Arc<LocalFileSystem>>,
}

/// Opens the folder at a path or URL; nothing is read or made yet.
///
/// # Errors
/// [`StoreError::Location`] for text that names no location, or whose store can't be set up from the environment.
pub fn open(url_or_path: &str) -> Result<Folder, StoreError> {
    let location = |reason: String| StoreError::Location { url: url_or_path.into(), reason };
    if url_or_path.trim().is_empty() {
        return Err(location("an empty path".into()));
    }
    if !url_or_path.contains("://") {
        return open_local(std::path::Path::new(url_or_path), url_or_path);
    }
    let url = Url::parse(url_or_path).map_err(|error| location(error.to_string()))?;
    if url.scheme() == "file" {
        let path = url.to_file_path().map_err(|()| location("a file URL is file:///an/absolute/path".into()))?;
        return open_local(&path, url_or_path);
    }
    let (store, prefix) = connect::connect(&url).map_err(location)?;
    Ok(Folder::new(Arc::new(Patient::new(store)), prefix, url_or_path))
}

fn open_local(path: &std::path::Path, given: &str) -> Result<Folder, StoreError> {
    let location = |reason: String| StoreError::Location { url: given.into(), reason };
    let path = std::path::absolute(path).map_err(|error| location(error.to_string()))?;
    let prefix = Path::from_absolute_path(&path).map_err(|error| location(error.to_string()))?;
    let store = Arc::new(LocalFileSystem::new().with_fsync(true));
    let url = path.display().to_string();
    Ok(Folder { local: Some(store.clone()), ..Folder::new(store, prefix, &url) })
}

impl Folder {
    /// The folder `prefix` of any store; `url` is what errors call it.
    pub fn new(store: Arc<dyn ObjectStore>, prefix: Path, url: &str) -> Self {
        Folder { store, prefix, url: url.trim_end_matches('/').to_owned(), local: None }
    }

    /// Whether the folder is in the local file system, where a read costs no round trip.
    pub(crate) fn is_local(&self) -> bool {
        self.local.is_some()
    }

    /// The URL of an object below this folder, for messages.
    pub fn url_of(&self, relative: &str) -> String {
        if relative.is_empty() { self.url.clone() } else { format!("{}/{relative}", self.url) }
    }

    /// Where an object below this folder is in [`Folder::store`].
    ///
    /// # Errors
    /// [`StoreError::Location`] for a name that is no path below a folder (`..`, empty parts).
    pub fn path_of(&self, relative: &str) -> Result<Path, StoreError> {
        let joined = match (self.prefix.as_ref(), relative) {
            ("", relative) => relative.to_owned(),
            (prefix, "") => prefix.to_owned(),
            (prefix, relative) => format!("{prefix}/{relative}"),
        };
        Path::parse(joined)
            .map_err(|error| StoreError::Location { url: self.url_of(relative), reason: error.to_string() })
    }

    /// Reads a whole object.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when there is none, others by cause.
    pub async fn get(&self, relative: &str) -> Result<Bytes, StoreError> {
        let path = self.path_of(relative)?;
        let read = async { self.store.get(&path).await?.bytes().await };
        read.await.map_err(|error| StoreError::new("read", self.url_of(relative), error))
    }

    /// Writes a whole object, replacing what was there: readers see the old one or the new one, and when this
    /// returns, the new one survives a loss of power.
    ///
    /// # Errors
    /// [`StoreError::NoSpace`] on a full disk, others by cause.
    pub async fn put(&self, relative: &str, bytes: Bytes) -> Result<(), StoreError> {
        let path = self.path_of(relative)?;
        let written = match &self.local {
            Some(local) => write_local(local, &path, bytes, local::write).await,
            None => self.store.put(&path, PutPayload::from_bytes(bytes)).await.map(|_| ()),
        };
        written.map_err(|error| StoreError::new("write", self.url_of(relative), error))
    }

    /// Writes an object where there is none yet, in one step: of several that try at once, one is told `true`. When this
    /// returns, the object survives a loss of power.
    ///
    /// # Errors
    /// When the store refuses, or can't do this.
    pub async fn put_new(&self, relative: &str, bytes: Bytes) -> Result<bool, StoreError> {
        let path = self.path_of(relative)?;
        let written = match &self.local {
            Some(local) => write_local(local, &path, bytes, local::write_new).await,
            None => self.store.put_opts(&path, PutPayload::from_bytes(bytes), PutMode::Create.into()).await.map(|_| ()),
        };
        match written {
            Ok(()) => Ok(true),
            Err(object_store::Error::AlreadyExists { .. }) => Ok(false),
            Err(error) => Err(StoreError::new("write", self.url_of(relative), error)),
        }
    }

    /// The folder beside this one whose name is this one's with `suffix` behind it.
    pub fn beside(&self, suffix: &str) -> Folder {
        let prefix = Path::from(format!("{}{suffix}", self.prefix));
        Folder { prefix, url: format!("{}{suffix}", self.url), ..self.clone() }
    }

    /// Whether an object is there.
    ///
    /// # Errors
    /// When the store can't say.
    pub async fn exists(&self, relative: &str) -> Result<bool, StoreError> {
        match self.size(relative).await {
            Ok(_) => Ok(true),
            Err(StoreError::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// An object's size in bytes.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when there is none, others by cause.
    pub async fn size(&self, relative: &str) -> Result<u64, StoreError> {
        let path = self.path_of(relative)?;
        let head = self.store.head(&path).await;
        head.map(|meta| meta.size).map_err(|error| StoreError::new("read", self.url_of(relative), error))
    }

    /// All objects under `under` (empty: all of the folder) at any depth, relative to this folder, sorted.
    /// A folder that does not exist has none.
    ///
    /// # Errors
    /// When the store can't list. (Plain web servers can't: HTTP listing needs WebDAV.)
    pub async fn list(&self, under: &str) -> Result<Vec<String>, StoreError> {
        Ok(self.list_sizes(under).await?.into_iter().map(|(name, _)| name).collect())
    }

    /// As [`Folder::list`], with each object's size in bytes.
    ///
    /// # Errors
    /// As [`Folder::list`].
    pub async fn list_sizes(&self, under: &str) -> Result<Vec<(String, u64)>, StoreError> {
        let path = self.path_of(under)?;
        let metas: Vec<_> = match self.store.list(Some(&path)).try_collect().await {
            Ok(metas) => metas,
            Err(error) => match StoreError::new("list", self.url_of(under), error) {
                StoreError::NotFound { .. } => Vec::new(),
                error => return Err(error),
            },
        };
        let mut found: Vec<(String, u64)> = metas
            .into_iter()
            .filter(|meta| !meta.location.filename().is_some_and(local::is_staging))
            .map(|meta| (self.relative(&meta.location), meta.size))
            .collect();
        found.sort();
        Ok(found)
    }

    /// Deletes an object; that there is none is no error.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn delete(&self, relative: &str) -> Result<(), StoreError> {
        let path = self.path_of(relative)?;
        let deleted = self.store.delete(&path).await;
        match deleted.map_err(|error| StoreError::new("delete", self.url_of(relative), error)) {
            Err(StoreError::NotFound { .. }) => Ok(()),
            result => result,
        }
    }

    fn relative(&self, location: &Path) -> String {
        let full = location.as_ref();
        full.strip_prefix(self.prefix.as_ref()).unwrap_or(full).trim_start_matches('/').to_owned()
    }
}

/// Writes a file as `write` does, off the runtime's threads.
async fn write_local(
    local: &LocalFileSystem,
    path: &Path,
    bytes: Bytes,
    write: fn(&std::path::Path, &[u8]) -> io::Result<()>,
) -> object_store::Result<()> {
    let file = local.path_to_filesystem(path)?;
    let written = tokio::task::spawn_blocking(move || write(&file, &bytes)).await?;
    written.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => {
            object_store::Error::AlreadyExists { path: path.to_string(), source: Box::new(error) }
        }
        _ => object_store::Error::Generic { store: "LocalFileSystem", source: Box::new(error) },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use object_store::memory::InMemory;

    /// What every folder does, whatever is behind it.
    async fn conforms(folder: &Folder) {
        assert_eq!(folder.list("").await.unwrap(), Vec::<String>::new());
        assert!(!folder.exists("a/b.txt").await.unwrap());
        let missing = folder.get("a/b.txt").await.unwrap_err();
        assert!(matches!(&missing, StoreError::NotFound { url } if url == &folder.url_of("a/b.txt")), "{missing}");
        for content in ["one", "two, and longer", ""] {
            folder.put("a/b.txt", Bytes::from(content)).await.unwrap();
            assert_eq!(folder.get("a/b.txt").await.unwrap(), content);
            assert_eq!(folder.size("a/b.txt").await.unwrap(), content.len() as u64);
        }
        folder.put("a/with space", Bytes::from("x")).await.unwrap();
        folder.put("c", Bytes::from("x")).await.unwrap();
        assert_eq!(folder.list("").await.unwrap(), ["a/b.txt", "a/with space", "c"]);
        assert_eq!(folder.list("a").await.unwrap(), ["a/b.txt", "a/with space"]);
        assert!(matches!(folder.get("../c").await, Err(StoreError::Location { .. })));
        assert!(!folder.put_new("c", Bytes::from("late")).await.unwrap());
        assert_eq!(folder.get("c").await.unwrap(), "x");
        assert!(folder.put_new("d/new", Bytes::from("first")).await.unwrap());
        assert_eq!(folder.get("d/new").await.unwrap(), "first");
        let beside = folder.beside(".notes");
        assert_eq!(beside.list("").await.unwrap(), Vec::<String>::new());
        beside.put("n", Bytes::from("x")).await.unwrap();
        assert_eq!(folder.list("d").await.unwrap(), ["d/new"]);
        beside.delete("n").await.unwrap();
        folder.delete("d/new").await.unwrap();
        folder.delete("c").await.unwrap();
        folder.delete("c").await.unwrap();
        assert!(!folder.exists("c").await.unwrap());
    }

    #[tokio::test]
    async fn a_local_folder_conforms() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("not made yet");
        conforms(&open(path.to_str().unwrap()).unwrap()).await;
        let url = Url::from_file_path(root.path().join("by url")).unwrap();
        conforms(&open(url.as_str()).unwrap()).await;
    }

    #[tokio::test]
    async fn a_folder_in_memory_conforms() {
        conforms(&Folder::new(Arc::new(InMemory::new()), Path::from("some/where"), "memory:///some/where/")).await;
        conforms(&Folder::new(Arc::new(InMemory::new()), Path::default(), "memory://")).await;
    }

    #[test]
    fn what_is_no_location_is_refused_with_advice() {
        for bad in ["", "  ", "ftp://host/x", "s3://", "file://host/x", "http://"] {
            let error = open(bad).unwrap_err();
            assert!(matches!(error, StoreError::Location { .. }), "{bad}: {error}");
            assert!(error.to_string().contains("s3://"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_write_below_a_file_names_the_url() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("file"), "x").unwrap();
        let folder = open(root.path().to_str().unwrap()).unwrap();
        let error = folder.put("file/below", Bytes::from("x")).await.unwrap_err();
        assert!(error.to_string().contains("file/below"), "{error}");
    }
}
