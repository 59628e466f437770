//! What determines a run's result, and its digest.
//!
//! Two recipes with one hash give the same bytes from the same inputs. In the hash: the method with all its
//! settings, the seed, `shard_rows` and `limits`, the data sets by name, columns and kind of images, the models and what is evaluated
//! on by their folder's name, whether opt-outs are honoured, `cluster.threads` (sums round differently). Not in it: where things lie (`path`, `output`, a model's
//! parent folders), the recipe's `name`, how URLs are fetched, `checkpoint_every`, `recompute`, leases, heartbeats, attempts,
//! `cluster.price` and `cluster.kubernetes`, and the number of ranks unless `semantics: lavis` makes it part of the method. A section or key
//! that was added later is not in it where it is left out.
//!
//! Data sets and models are known here by name alone; what they contained is recorded in the output (models by
//! the digests of their files).

use serde::Serialize;

use crate::inputs::{Format, Images};
use crate::recipe::{CapFilt, Columns, Dataset, ImageLimits, Recipe, Semantics, Stage1, Stage2};
use crate::tasks::{Evaluation, Export};

/// Raised when the meaning of a recipe changes without its text changing.
const METHOD_VERSION: u32 = 1;

#[derive(Serialize)]
struct Identity<'a> {
    method_version: u32,
    seed: u64,
    datasets: Vec<DatasetIdentity<'a>>,
    shard_rows: u64,
    limits: &'a ImageLimits,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    ignores_opt_out: bool,
    capfilt: Option<CapFilt>,
    #[serde(skip_serializing_if = "Option::is_none")]
    captions: Option<String>,
    stage1: Option<Stage1>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stage2: Option<Stage2>,
    #[serde(skip_serializing_if = "Option::is_none")]
    evaluation: Option<Evaluation>,
    #[serde(skip_serializing_if = "Option::is_none")]
    export: Option<&'a Export>,
    threads: u32,
}

#[derive(Serialize)]
struct DatasetIdentity<'a> {
    name: &'a str,
    columns: &'a Columns,
    #[serde(skip_serializing_if = "Option::is_none")]
    format: Option<Format>,
    #[serde(skip_serializing_if = "Option::is_none")]
    images: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_rows: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    weight: Option<f64>,
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
            ignores_opt_out: !self.fetch.honour_opt_out,
            capfilt: self.capfilt.as_ref().map(capfilt_by_name),
            captions: self.captions.as_deref().map(folder_name),
            stage1: self.stage1.as_ref().map(stage1_by_name),
            stage2: self.stage2.as_ref().map(stage2_by_name),
            evaluation: self.evaluation.as_ref().map(evaluation_by_name),
            export: self.export.as_ref(),
            threads: self.cluster.threads,
        };
        // Structs serialise in the order of their fields, so the text is canonical.
        let json = serde_json::to_vec(&identity).expect("an identity holds only what JSON can state");
        blake3::hash(&json).to_hex().to_string()
    }
}

impl<'a> DatasetIdentity<'a> {
    fn of(dataset: &'a Dataset) -> Self {
        DatasetIdentity {
            name: &dataset.name,
            columns: &dataset.columns,
            format: dataset.format,
            images: match &dataset.images {
                Images::Bytes => None,
                Images::Paths(_) => Some("paths"),
                Images::Urls => Some("urls"),
            },
            max_rows: dataset.max_rows,
            weight: dataset.weight,
            capfilt: dataset.capfilt,
        }
    }
}

fn capfilt_by_name(capfilt: &CapFilt) -> CapFilt {
    CapFilt { captioner: folder_name(&capfilt.captioner), ranker: folder_name(&capfilt.ranker), ..capfilt.clone() }
}

fn stage1_by_name(stage1: &Stage1) -> Stage1 {
    Stage1 {
        image_encoder: folder_name(&stage1.image_encoder),
        tokenizer: folder_name(&stage1.tokenizer),
        init: stage1.init.as_deref().map(folder_name),
        ranks: ranks_by(stage1.semantics, stage1.ranks),
        checkpoint_every: 1,
        ..stage1.clone()
    }
}

fn stage2_by_name(stage2: &Stage2) -> Stage2 {
    Stage2 {
        language_model: folder_name(&stage2.language_model),
        qformer: stage2.qformer.as_deref().map(folder_name),
        image_encoder: stage2.image_encoder.as_deref().map(folder_name),
        ranks: ranks_by(stage2.semantics, stage2.ranks),
        recompute: false,
        checkpoint_every: 1,
        ..stage2.clone()
    }
}

fn evaluation_by_name(evaluation: &Evaluation) -> Evaluation {
    let mut evaluation = evaluation.clone();
    evaluation.datasets_mut().for_each(|dataset| *dataset = folder_name(dataset));
    evaluation
}

fn ranks_by(semantics: Semantics, ranks: u32) -> u32 {
    if semantics == Semantics::Lavis { ranks } else { 1 }
}

fn folder_name(path: &str) -> String {
    path.trim_end_matches('/').rsplit('/').next().unwrap_or_default().to_string()
}
