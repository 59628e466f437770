//! Who a row is and what a shard is: the identities that everything is keyed by.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A row's identity: data set name, file relative to the data set's root, row index in that file.
/// All keyed randomness and all accounting use it; a `key` column is only carried along.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowId {
    /// The data set's name in the recipe.
    pub dataset: Arc<str>,
    /// File path relative to the data set's root, `/`-separated.
    pub file: Arc<str>,
    /// Row index in that file.
    pub row: u64,
}

impl RowId {
    /// A 64-bit key of this identity for counter-based draws: the same on every machine and in every version.
    pub fn key(&self) -> u64 {
        let mut hasher = blake3::Hasher::new();
        for part in [&self.dataset, &self.file] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
        hasher.update(&self.row.to_le_bytes());
        let digest = hasher.finalize();
        u64::from_le_bytes(digest.as_bytes()[..8].try_into().expect("a digest has 32 bytes"))
    }
}

impl fmt::Display for RowId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}#{}", self.dataset, self.file, self.row)
    }
}

/// A shard's name, fit for a file name: `{dataset}-{file index:05}-{first row:09}`. Order of names is shard order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ShardId(pub String);

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A shard: a row range of one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardSpec {
    /// Its name.
    pub shard: ShardId,
    /// The data set's name in the recipe.
    pub dataset: String,
    /// File path relative to the data set's root.
    pub file: String,
    /// First row.
    pub row_start: u64,
    /// Number of rows.
    pub rows: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(dataset: &str, file: &str, row: u64) -> RowId {
        RowId { dataset: dataset.into(), file: file.into(), row }
    }

    #[test]
    fn every_part_of_a_row_id_counts_and_parts_never_run_together() {
        let ids = [id("ab", "c", 1), id("a", "bc", 1), id("abc", "", 1), id("ab", "c", 2), id("ab", "c", 256)];
        for (index, row) in ids.iter().enumerate() {
            assert_eq!(row.key(), row.clone().key());
            assert!(ids[..index].iter().all(|other| other.key() != row.key()), "{row}");
        }
    }

    #[test]
    fn a_row_id_reads_as_a_place() {
        assert_eq!(id("web", "a/0.parquet", 17).to_string(), "web/a/0.parquet#17");
    }
}
