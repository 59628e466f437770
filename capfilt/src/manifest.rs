//! `manifest.json`: which parts make up an output. The last file that CapFilt writes; what it doesn't name doesn't count.
//!
//! It is the same bytes for the same inputs, recipe and version: parts are in shard order, and nothing in it tells who
//! did the work, when, where, or on how many workers.

use std::collections::BTreeMap;

use quern_corpus::store::{Folder, StoreError};
use quern_corpus::{ShardId, ShardSpec};
use quern_recipes::{Recipe, Semantics};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::card::{CARD, card};
use crate::part::Part;
use crate::provenance::Provenance;
use crate::tasks::TaskEntry;

/// The manifest's name in an output.
pub const MANIFEST: &str = "manifest.json";
/// Raised when a reader of the older layout would misread the new one.
const LAYOUT: u32 = 1;

/// What an output consists of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The version of this layout.
    pub layout: u32,
    /// The run's id.
    pub run_id: String,
    /// The recipe's hash.
    pub recipe_hash: String,
    /// The seed of every keyed draw.
    pub seed: u64,
    /// The recipe as it was resolved, without what does not touch the result: output, leases, attempts, ranks.
    pub recipe: Value,
    /// BLAKE3 of the models' files, as [`crate::model_digests`] gives them.
    pub models: BTreeMap<String, String>,
    /// Versions of what determines bytes: `quern`, and what the caller adds.
    pub versions: BTreeMap<String, String>,
    /// Sums over all parts and shards.
    pub totals: Totals,
    /// The parts, in shard order.
    pub parts: Vec<PartEntry>,
    /// The shards that could not be done as a whole, in shard order.
    pub quarantined_shards: Vec<QuarantinedShard>,
    /// What was done with what was trained, in order; the manifest is written again for each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tasks: Vec<TaskEntry>,
}

/// Sums over all parts and shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Totals {
    /// Shards with a part.
    pub shards: u64,
    /// Rows in parts.
    pub rows: u64,
    /// Rows with captions that were written and ranked.
    pub kept: u64,
    /// Rows whose caption is kept as it was.
    pub passed: u64,
    /// Rows in quarantine parts.
    pub quarantined: u64,
    /// Bytes of all parts.
    pub bytes: u64,
    /// Shards without a part.
    pub quarantined_shards: u64,
    /// Rows of the shards without a part, as far as they are known.
    pub quarantined_shard_rows: u64,
}

/// A shard's part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartEntry {
    /// The shard's name.
    pub shard: ShardId,
    /// The data set.
    pub dataset: String,
    /// File path relative to the data set's root.
    pub file: String,
    /// First row.
    pub row_start: u64,
    /// Rows.
    pub rows: u64,
    /// Rows with captions that were written and ranked.
    pub kept: u64,
    /// Rows whose caption is kept as it was.
    pub passed: u64,
    /// Rows that could not be processed.
    pub quarantined: u64,
    /// The data file, if any row was kept or passed.
    pub data: Option<String>,
    /// The quarantine file, if any row was quarantined.
    pub quarantine: Option<String>,
    /// The digest of both files' contents.
    pub digest: String,
    /// Bytes of both files.
    pub bytes: u64,
    /// Rows in quarantine by `STAGE/REASON`; empty where the worker did not say.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub reasons: BTreeMap<String, u64>,
}

impl PartEntry {
    /// The entry of a shard's part.
    pub fn new(shard: &ShardSpec, part: &Part) -> Self {
        let name = |file: &Option<(String, bytes::Bytes)>| file.as_ref().map(|(name, _)| name.clone());
        let bytes = part.data.iter().chain(&part.quarantine).map(|(_, bytes)| bytes.len() as u64).sum();
        PartEntry {
            shard: shard.shard.clone(),
            dataset: shard.dataset.clone(),
            file: shard.file.clone(),
            row_start: shard.row_start,
            rows: part.rows,
            kept: part.kept,
            passed: part.passed,
            quarantined: part.quarantined,
            data: name(&part.data),
            quarantine: name(&part.quarantine),
            digest: part.digest.clone(),
            bytes,
            reasons: part.reasons.iter().map(|((stage, reason), rows)| (format!("{stage}/{reason}"), *rows)).collect(),
        }
    }

    /// The shard that it is a part of.
    pub fn spec(&self) -> ShardSpec {
        ShardSpec {
            shard: self.shard.clone(),
            dataset: self.dataset.clone(),
            file: self.file.clone(),
            row_start: self.row_start,
            rows: self.rows,
        }
    }
}

/// A shard that could not be done as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuarantinedShard {
    /// The shard; a file whose footer can't be read has 0 rows.
    #[serde(flatten)]
    pub shard: ShardSpec,
    /// Why.
    pub reason: String,
}

/// Why there is no manifest.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// It can't be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It is not one that this version reads.
    #[error("{url}: {reason}")]
    Foreign {
        /// Where it is.
        url: String,
        /// What is wrong.
        reason: String,
    },
}

impl Manifest {
    /// A manifest of these parts and shards, in whatever order they come. `provenance` is that of the parts;
    /// `versions` adds to quern's own.
    pub fn new(
        recipe: &Recipe,
        provenance: &Provenance,
        versions: BTreeMap<String, String>,
        mut parts: Vec<PartEntry>,
        mut quarantined_shards: Vec<QuarantinedShard>,
    ) -> Self {
        parts.sort_by(|a, b| order(&a.shard, &a.file, a.row_start).cmp(&order(&b.shard, &b.file, b.row_start)));
        quarantined_shards.sort_by(|a, b| a.shard.shard.cmp(&b.shard.shard));
        let mut versions = versions;
        versions.insert("quern".into(), provenance.version.clone());
        Manifest {
            layout: LAYOUT,
            run_id: provenance.run_id.clone(),
            recipe_hash: provenance.recipe_hash.clone(),
            seed: provenance.seed,
            recipe: what_touches_the_result(recipe),
            models: provenance.models.clone(),
            versions,
            totals: Totals::of(&parts, &quarantined_shards),
            parts,
            quarantined_shards,
            tasks: Vec::new(),
        }
    }

    /// All its shards, with a part and without.
    pub fn shards(&self) -> Vec<ShardSpec> {
        let with_parts = self.parts.iter().map(PartEntry::spec);
        with_parts.chain(self.quarantined_shards.iter().map(|shard| shard.shard.clone())).collect()
    }

    /// The provenance that every part must carry; parts without ranked rows name no models.
    pub fn provenance(&self) -> Provenance {
        Provenance {
            run_id: self.run_id.clone(),
            recipe_hash: self.recipe_hash.clone(),
            seed: self.seed,
            models: self.models.clone(),
            version: self.versions.get("quern").cloned().unwrap_or_default(),
        }
    }

    /// As it is written.
    pub fn to_json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("a manifest holds only what JSON can state");
        text.push('\n');
        text
    }

    /// Out of what was written; the error says what is wrong.
    pub fn from_json(text: &[u8]) -> Result<Self, String> {
        let manifest: Value = serde_json::from_slice(text).map_err(|error| format!("no JSON: {error}"))?;
        match manifest.get("layout").and_then(Value::as_u64) {
            Some(layout) if layout == u64::from(LAYOUT) => {}
            Some(layout) => return Err(format!("layout {layout}, but this version of quern reads {LAYOUT}")),
            None => return Err("no `layout` in it: not a manifest that quern wrote".into()),
        }
        serde_json::from_value(manifest).map_err(|error| format!("not a manifest that quern wrote: {error}"))
    }

    /// Writes it to an output, over an older one, and before it the card that belongs to it.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn write(&self, output: &Folder) -> Result<(), ManifestError> {
        if let Some(card) = card(self) {
            output.put(CARD, card.into()).await?;
        }
        Ok(output.put(MANIFEST, self.to_json().into()).await?)
    }

    /// Reads it from an output.
    ///
    /// # Errors
    /// When there is none (CapFilt is not done), or it is not one that this version reads.
    pub async fn read(output: &Folder) -> Result<Self, ManifestError> {
        let text = output.get(MANIFEST).await?;
        Manifest::from_json(&text).map_err(|reason| ManifestError::Foreign { url: output.url_of(MANIFEST), reason })
    }
}

impl Totals {
    /// The sums of these.
    pub fn of(parts: &[PartEntry], quarantined_shards: &[QuarantinedShard]) -> Self {
        let sum = |of: fn(&PartEntry) -> u64| parts.iter().map(of).sum();
        Totals {
            shards: parts.len() as u64,
            rows: sum(|part| part.rows),
            kept: sum(|part| part.kept),
            passed: sum(|part| part.passed),
            quarantined: sum(|part| part.quarantined),
            bytes: sum(|part| part.bytes),
            quarantined_shards: quarantined_shards.len() as u64,
            quarantined_shard_rows: quarantined_shards.iter().map(|shard| shard.shard.rows).sum(),
        }
    }
}

fn order<'a>(shard: &'a ShardId, file: &'a str, row_start: u64) -> (&'a ShardId, &'a str, u64) {
    (shard, file, row_start)
}

/// The recipe without what [`Recipe::hash`] leaves out as irrelevant to the result, but with the paths of data sets and
/// models, so that tools find the images again.
fn what_touches_the_result(recipe: &Recipe) -> Value {
    let mut value = serde_json::to_value(recipe).expect("a recipe holds only what JSON can state");
    if let Some(fields) = value.as_object_mut() {
        fields.remove("output");
        fields.insert("cluster".into(), json!({ "threads": recipe.cluster.threads }));
    }
    // How fast the web is asked changes nothing; whose wish not to be asked is heard does.
    if let Some(fetch) = value.get_mut("fetch").and_then(Value::as_object_mut) {
        fetch.retain(|key, _| key == "honour_opt_out");
    }
    let semantics = [
        ("stage1", recipe.stage1.as_ref().map(|stage1| stage1.semantics)),
        ("stage2", recipe.stage2.as_ref().map(|stage2| stage2.semantics)),
    ];
    for (section, semantics) in semantics {
        let Some(stage) = value.get_mut(section).and_then(Value::as_object_mut) else { continue };
        stage.remove("checkpoint_every");
        stage.remove("recompute");
        if semantics != Some(Semantics::Lavis) {
            stage.remove("ranks");
        }
    }
    value
}
