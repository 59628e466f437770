//! Which shards took longest: a small file that the coordinator leaves beside the output, since an output's own bytes are
//! the same whoever made it and however long it took. See docs/decisions/0025.

use quern_corpus::store::{Folder, StoreError};
use serde::{Deserialize, Serialize};

use crate::manifest::Manifest;

/// What the folder beside an output is called, after the output's own name: coordinators keep there what differs from run
/// to run.
pub const BESIDE: &str = ".coordinators";

/// The file within it.
const FILE: &str = "slowest.json";

/// The shards whose accepted parts took longest, the slowest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlowestShards {
    /// Whose: another run in the same output has other shards.
    pub recipe_hash: String,
    /// They.
    pub shards: Vec<SlowShard>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlowShard {
    /// The shard.
    pub shard: String,
    /// Its rows.
    pub rows: u64,
    /// How long the accepted attempt took.
    pub took_ms: u64,
    /// How many attempts were made.
    pub attempts: u32,
    /// Who made the accepted one.
    pub worker: String,
}

impl SlowestShards {
    /// Writes them beside an output.
    ///
    /// # Errors
    /// When the store can't be written.
    pub async fn write(&self, output: &Folder) -> Result<(), StoreError> {
        let text = serde_json::to_vec_pretty(self).expect("names and numbers are plain data");
        output.beside(BESIDE).put(FILE, text.into()).await
    }

    /// Those of the output with this manifest. `None`: there is no such file beside it, as where the output was copied
    /// alone, or none that speaks of this run.
    pub async fn read(output: &Folder, manifest: &Manifest) -> Option<Self> {
        let text = output.beside(BESIDE).get(FILE).await.ok()?;
        let read: SlowestShards = serde_json::from_slice(&text).ok()?;
        (read.recipe_hash == manifest.recipe_hash).then_some(read)
    }
}
