//! What determines a run's result, and its digest.
//!
//! Two recipes with one hash give the same bytes from the same inputs. In the hash: the method with all its
//! settings, the seed, `shard_rows` and `limits`, the data sets by name and columns, the models by their folder's
//! name, `cluster.threads` (sums round differently). Not in it: where things lie (`path`, `output`, a model's
//! parent folders), the recipe's `name`, `checkpoint_every`, leases, heartbeats and attempts, and the number of
//! ranks unless `semantics: lavis` makes it part of the method.
//!
//! Data sets and models are known here by name alone; what they contained is recorded in the output (models by
//! the digests of their files).

use serde::Serialize;

use crate::recipe::{CapFilt, Columns, Dataset, ImageLimits, Recipe, Semantics, Stage1};

/// Raised when the meaning of a recipe changes without its text changing.
const METHOD_VERSION: u32 = 1;

#[derive(Serialize)]
struct Identity<'a> {
    method_version: u32,
    seed: u64,
    datasets: Vec<DatasetIdentity<'a>>,
    shard_rows: u64,
    limits: &'a ImageLimits,
    capfilt: Option<CapFilt>,
    stage1: Option<Stage1>,
    threads: u32,
}

#[derive(Serialize)]
struct DatasetIdentity<'a> {
    name: &'a str,
    columns: &'a Columns,
    capfilt: bool,
}

impl Recipe {
    /// The BLAKE3 digest, in hex, of what determines the run's result; this module's header lists what that is.
    pub fn hash(&self) -> String {
        let identity = Identity {
            method_version: METHOD_VERSION,
            seed: self.seed,
            datasets: self.datasets.iter().map(DatasetIdentity::of).collect(),
            shard_rows: self.shard_rows,
            limits: &self.limits,
            capfilt: self.capfilt.as_ref().map(capfilt_by_name),
            stage1: self.stage1.as_ref().map(stage1_by_name),
            threads: self.cluster.threads,
        };
        // Structs serialise in the order of their fields, so the text is canonical.
        let json = serde_json::to_vec(&identity).expect("an identity holds only what JSON can state");
        blake3::hash(&json).to_hex().to_string()
    }
}

impl<'a> DatasetIdentity<'a> {
    fn of(dataset: &'a Dataset) -> Self {
        DatasetIdentity { name: &dataset.name, columns: &dataset.columns, capfilt: dataset.capfilt }
    }
}

fn capfilt_by_name(capfilt: &CapFilt) -> CapFilt {
    CapFilt { captioner: folder_name(&capfilt.captioner), ranker: folder_name(&capfilt.ranker), ..capfilt.clone() }
}

fn stage1_by_name(stage1: &Stage1) -> Stage1 {
    Stage1 {
        image_encoder: folder_name(&stage1.image_encoder),
        tokenizer: folder_name(&stage1.tokenizer),
        ranks: if stage1.semantics == Semantics::Lavis { stage1.ranks } else { 1 },
        checkpoint_every: 1,
        ..stage1.clone()
    }
}

fn folder_name(path: &str) -> String {
    path.trim_end_matches('/').rsplit('/').next().unwrap_or_default().to_string()
}
