//! What was done with what was trained: evaluations and exports, a folder each, which is called by its content:
//! `evaluation/{digest}/retrieval.json`, `export/{digest}/model.safetensors`.
//!
//! So attempts at a task that differ never mix, those that don't write the same files, and the manifest says which one
//! counts.

use std::collections::BTreeMap;

use quern_corpus::store::{Folder, StoreError};
use serde::{Deserialize, Serialize};

use crate::part::DIGEST_DIGITS;

/// A task that is done, as the manifest names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskEntry {
    /// `evaluate`, `export`.
    pub task: String,
    /// The checkpoint that training ended with, relative to the output.
    pub checkpoint: String,
    /// The result's folder, relative to the output.
    pub path: String,
    /// The digest of its files.
    pub digest: String,
}

/// The files of a result, as far as they are known: the digest of each one's content by its name within the folder.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResultFiles(BTreeMap<String, blake3::Hash>);

impl ResultFiles {
    /// Takes a file into account.
    fn add(&mut self, name: &str, content: &[u8]) {
        self.0.insert(name.to_owned(), blake3::hash(content));
    }

    /// Of all names and contents.
    pub fn digest(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for (name, content) in &self.0 {
            hasher.update(blake3::hash(name.as_bytes()).as_bytes()).update(content.as_bytes());
        }
        hasher.finalize().to_hex()[..DIGEST_DIGITS].to_owned()
    }

    /// Their names within the folder, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Those that are below `path` in a folder.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn read(output: &Folder, path: &str) -> Result<Self, StoreError> {
        let mut files = ResultFiles::default();
        for file in output.list(path).await? {
            let name = file.strip_prefix(path).unwrap_or(&file).trim_start_matches('/');
            files.add(name, &output.get(&file).await?);
        }
        Ok(files)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_is_of_names_and_contents_whatever_the_order() {
        let of = |files: &[(&str, &str)]| {
            let mut all = ResultFiles::default();
            files.iter().for_each(|(name, content)| all.add(name, content.as_bytes()));
            all.digest()
        };
        let both = of(&[("a", "1"), ("b", "2")]);
        assert_eq!(both, of(&[("b", "2"), ("a", "1")]));
        for other in [of(&[("a", "2"), ("b", "1")]), of(&[("a", "1"), ("c", "2")]), of(&[("a", "1")])] {
            assert_ne!(both, other);
        }
    }
}
