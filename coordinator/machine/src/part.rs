//! What a shard became, as its worker says; and whether that can be true.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ids::ShardId;

/// Reasons that a part may name.
const REASONS: usize = 64;
/// Bytes of a reason's name at most.
const REASON_BYTES: usize = 64;

/// What a shard became: the files written for it and how its rows fared.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, Hash)]
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
    /// Rows in quarantine by `STAGE/REASON`. Empty where a worker says none; what it says sums up to `quarantined`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub reasons: BTreeMap<String, u64>,
}

impl PartSummary {
    /// Its files, relative to the output.
    pub fn files(&self) -> impl Iterator<Item = &String> {
        self.data.iter().chain(&self.quarantine)
    }

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
        self.check_reasons(shard)?;
        check_name("data", &self.data, kept + passed, shard)?;
        check_name("quarantine", &self.quarantine, quarantined, shard)
    }

    fn check_reasons(&self, shard: &ShardId) -> Result<(), String> {
        if self.reasons.is_empty() {
            return Ok(());
        }
        let sum = self.reasons.values().try_fold(0_u64, |sum, rows| sum.checked_add(*rows));
        if sum != Some(self.quarantined) {
            return Err(format!("the reasons of {shard} don't sum up to its {} rows in quarantine", self.quarantined));
        }
        let is_word = |name: &String| {
            let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'/');
            name.len() <= REASON_BYTES && name.bytes().all(fits)
        };
        match self.reasons.keys().find(|name| !is_word(name)) {
            Some(name) => Err(format!("the part of {shard} gives the reason {name:?}: STAGE/REASON expected")),
            None if self.reasons.len() > REASONS => {
                Err(format!("the part of {shard} gives more than {REASONS} reasons"))
            }
            None => Ok(()),
        }
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
