//! What a shard became, as its worker says; and whether that can be true.

use serde::{Deserialize, Serialize};

use crate::ids::ShardId;

/// What a shard became: the files written for it and how its rows fared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartSummary {
    /// Name of the data file relative to the output; `None`: no row was kept or passed.
    pub data: Option<String>,
    /// Name of the quarantine file relative to the output; `None`: no row was quarantined.
    pub quarantine: Option<String>,
    /// Digest of the files' contents.
    pub digest: String,
    /// Rows of the shard.
    pub rows: u64,
    /// Rows with captions chosen by CapFilt.
    pub kept: u64,
    /// Rows whose captions were kept as they are.
    pub passed: u64,
    /// Rows that could not be processed.
    pub quarantined: u64,
    /// Size of both files.
    pub bytes: u64,
}

impl PartSummary {
    /// Checks that the part accounts for every row of its shard and names only files of its own.
    ///
    /// # Errors
    /// One sentence that says what is wrong.
    pub fn check(&self, shard: &ShardId, rows: u64) -> Result<(), String> {
        let (kept, passed, quarantined) = (self.kept, self.passed, self.quarantined);
        let sum = kept.checked_add(passed).and_then(|sum| sum.checked_add(quarantined));
        if self.rows != rows || sum != Some(rows) {
            return Err(format!(
                "the part of {shard} has {} rows ({kept} kept, {passed} passed, {quarantined} quarantined), \
                 the shard has {rows}",
                self.rows
            ));
        }
        if self.digest.is_empty() || !self.digest.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(format!("the part of {shard} has the digest {:?}: letters and digits expected", self.digest));
        }
        check_name("data", &self.data, kept + passed, shard)?;
        check_name("quarantine", &self.quarantine, quarantined, shard)
    }
}

fn check_name(folder: &str, name: &Option<String>, rows: u64, shard: &ShardId) -> Result<(), String> {
    match name {
        None if rows == 0 => Ok(()),
        None => Err(format!("the part of {shard} has {rows} rows for {folder}/ but names no file there")),
        Some(name) => {
            let file = name.strip_prefix(folder).and_then(|rest| rest.strip_prefix('/')).unwrap_or("");
            let plain = !file.contains('/') && !name.contains("..") && !name.chars().any(char::is_control);
            if plain && file.starts_with(&shard.0) && file.ends_with(".parquet") {
                Ok(())
            } else {
                Err(format!("the part of {shard} names {name:?}: {folder}/{shard}-….parquet expected"))
            }
        }
    }
}
