//! Where a part came from: only what determines its bytes, so that every attempt at a shard writes the same.

use std::collections::BTreeMap;

use parquet::file::metadata::KeyValue;

const RUN_ID: &str = "quern.run_id";
const RECIPE_HASH: &str = "quern.recipe_hash";
const SEED: &str = "quern.seed";
const VERSION: &str = "quern.version";
/// Followed by a file's name as in [`crate::model_digests`].
const MODEL: &str = "quern.model.";

/// Where a part came from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Provenance {
    /// The run's id.
    pub run_id: String,
    /// The recipe's hash.
    pub recipe_hash: String,
    /// The seed of every keyed draw.
    pub seed: u64,
    /// BLAKE3 of the files of captioner and ranker, as [`crate::model_digests`] gives them; empty where no model was used.
    pub models: BTreeMap<String, String>,
    /// The version of quern.
    pub version: String,
}

impl Provenance {
    /// The same for a part in whose rows no model had a say.
    pub(crate) fn without_models(&self) -> Self {
        Provenance { models: BTreeMap::new(), ..self.clone() }
    }

    /// As a parquet file's key-value metadata, in a fixed order.
    pub(crate) fn to_metadata(&self) -> Vec<KeyValue> {
        let fixed = [
            (RUN_ID.to_owned(), self.run_id.clone()),
            (RECIPE_HASH.to_owned(), self.recipe_hash.clone()),
            (SEED.to_owned(), self.seed.to_string()),
            (VERSION.to_owned(), self.version.clone()),
        ];
        let models = self.models.iter().map(|(file, digest)| (format!("{MODEL}{file}"), digest.clone()));
        fixed.into_iter().chain(models).map(|(key, value)| KeyValue::new(key, value)).collect()
    }

    /// From a parquet file's key-value metadata; the error names the missing or broken key.
    pub(crate) fn from_metadata(metadata: &[KeyValue]) -> Result<Self, String> {
        let find = |wanted: &str| {
            let found = metadata.iter().find(|entry| entry.key == wanted);
            found.and_then(|entry| entry.value.clone()).ok_or_else(|| format!("the file's metadata has no `{wanted}`"))
        };
        let models = metadata.iter().filter_map(|entry| {
            let file = entry.key.strip_prefix(MODEL)?;
            Some((file.to_owned(), entry.value.clone()?))
        });
        let seed = find(SEED)?;
        Ok(Provenance {
            run_id: find(RUN_ID)?,
            recipe_hash: find(RECIPE_HASH)?,
            seed: seed.parse().map_err(|_| format!("the file's `{SEED}` is `{seed}`, no number"))?,
            models: models.collect(),
            version: find(VERSION)?,
        })
    }
}
