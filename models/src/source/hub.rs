//! A repository of the Hugging Face Hub, through its client and in its cache.

use std::fs::File;
use std::path::{Path, PathBuf};

use hf_hub::repository::RepoTypeModel;
use hf_hub::{HFClient, HFError, HFRepositorySync};

use super::{Environment, Files, SourceError, lock};

/// A repository at one revision.
pub struct Repository {
    repository: HFRepositorySync<RepoTypeModel>,
    location: String,
    /// As asked for; once a file is there, the commit that it came from, so that all files are of one commit.
    revision: Option<String>,
    offline: bool,
    cache: PathBuf,
    found: bool,
    /// Held while this lives. The client's own locks are per file, and whoever waited for one fetches it again.
    _lock: Option<File>,
}

impl Repository {
    pub fn new(
        environment: &Environment,
        owner: &str,
        name: &str,
        revision: Option<&str>,
    ) -> Result<Self, SourceError> {
        let location = format!("hf://{owner}/{name}{}", revision.map(|name| format!("@{name}")).unwrap_or_default());
        let cache = environment.hub_cache.clone().unwrap_or_else(hf_hub::resolve_cache_dir);
        let mut client = HFClient::builder().cache_dir(&cache);
        if let Some(endpoint) = &environment.endpoint {
            client = client.endpoint(endpoint);
        }
        let client = client.build_sync().map_err(|source| failed(&location, "the repository", source))?;
        let repository = client.model(owner, name);
        let (revision, offline) = (revision.map(String::from), environment.offline);
        // A cache that is only read may be read-only.
        let lock_path = cache.join(".locks").join(format!("quern--{owner}--{name}.lock"));
        let lock = (!offline).then(|| lock(&lock_path)).transpose()?;
        Ok(Repository { repository, location, revision, offline, cache, found: false, _lock: lock })
    }
}

impl Files for Repository {
    fn get(&mut self, name: &str) -> Result<Option<PathBuf>, SourceError> {
        let download = || {
            let file = self.repository.download_file().filename(name).local_files_only(self.offline);
            file.maybe_revision(self.revision.clone()).send()
        };
        let mut result = download();
        // Python fetches the same file; the client gives up after ten seconds.
        while let Err(HFError::CacheLockTimeout { .. }) = result {
            result = download();
        }
        match result {
            Ok(path) => {
                if !self.found {
                    self.revision = commit(&path).or(self.revision.take());
                    self.found = true;
                }
                Ok(Some(path))
            }
            Err(HFError::EntryNotFound { .. }) => Ok(None),
            Err(HFError::LocalEntryNotFound { .. }) if self.offline => Ok(None),
            Err(source) => Err(failed(&self.location, name, source)),
        }
    }

    fn nothing(&self, expected: String) -> SourceError {
        let location = self.location.clone();
        match self.offline {
            true => SourceError::Offline { location, expected, cache: self.cache.clone() },
            false => SourceError::Nothing { location, expected },
        }
    }
}

/// The commit in `…/snapshots/<commit>/<file>`.
fn commit(path: &Path) -> Option<String> {
    let folder = path.parent()?;
    (folder.parent()?.file_name()? == "snapshots").then(|| folder.file_name()?.to_str().map(String::from))?
}

fn failed(location: &str, file: &str, source: HFError) -> SourceError {
    SourceError::Hub { location: location.into(), file: file.into(), source: Box::new(source) }
}
