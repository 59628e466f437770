//! What is done with what was trained: sections `evaluation` and `export`. Keys are called as the options of `quern eval`
//! and `quern export`, and mean the same.

use serde::{Deserialize, Serialize};

use crate::recipe::Recipe;
use crate::validate::{Checked, at_least_one, require, within};

/// What is measured when training is over.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evaluation {
    /// Image→text and text→image retrieval with stage 1's last checkpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retrieval: Option<RetrievalEvaluation>,
    /// Captions by stage 2's last checkpoint beside people's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caption: Option<CaptionEvaluation>,
}

/// `quern eval retrieval`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetrievalEvaluation {
    /// A parquet file, a folder of them or a URL.
    pub dataset: String,
    /// Images at most; `null`: all.
    #[serde(default)]
    pub limit: Option<u64>,
    /// Each query's candidates that ITM judges; 0: ITC alone.
    #[serde(default = "default_rerank")]
    pub rerank: u64,
}

/// `quern eval caption`, with beams.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaptionEvaluation {
    /// A parquet file, a folder of them or a URL.
    pub dataset: String,
    /// Images at most; `null`: all.
    #[serde(default)]
    pub limit: Option<u64>,
    /// What captions go on from; `null`: `stage2.prompt`.
    #[serde(default)]
    pub prompt: Option<String>,
    /// Beams of the beam search.
    #[serde(default = "default_beams")]
    pub beams: u32,
    /// Exponent of the length that a beam's score is divided by.
    #[serde(default = "one")]
    pub length_penalty: f64,
    /// Tokens at most.
    #[serde(default = "default_max_length")]
    pub max_length: u32,
    /// Tokens at least, the start counted.
    #[serde(default = "default_min_length")]
    pub min_length: u32,
    /// Scores of tokens that already occur are divided by this where positive, multiplied where negative.
    #[serde(default = "one")]
    pub repetition_penalty: f64,
}

/// What the last checkpoint is written as for other tools: `quern export`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Export {
    /// For whom.
    pub to: ExportTarget,
    /// The whole model, or the Q-Former's blocks alone.
    #[serde(default)]
    pub part: ExportPart,
    /// For LAVIS: safetensors instead of a `.pth`.
    #[serde(default)]
    pub safetensors: bool,
    /// Weights are cut into files of at most this size.
    #[serde(default = "default_max_shard_bytes")]
    pub max_shard_bytes: u64,
}

/// For whom an export is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExportTarget {
    /// Hugging Face transformers.
    Hf,
    /// Salesforce LAVIS.
    Lavis,
}

/// What of a model is exported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExportPart {
    /// Image encoder, Q-Former, and stage 2's language model.
    #[default]
    Whole,
    /// `Blip2QFormerModel`.
    Qformer,
}

impl Recipe {
    /// Whether what is to be done with what is trained can be done with it.
    pub(crate) fn tasks_hold(&self) -> Checked {
        for (key, is_given) in [("evaluation", self.evaluation.is_some()), ("export", self.export.is_some())] {
            require(self.trains() || !is_given, key, || {
                "is given, but nothing is trained: add a `stage1` or `stage2` section".into()
            })?;
        }
        self.evaluation.as_ref().map_or(Ok(()), |evaluation| evaluation.validate(self))?;
        self.export.as_ref().map_or(Ok(()), |export| export.validate(self))
    }
}

impl Evaluation {
    /// What is read, by its key.
    pub fn datasets(&self) -> impl Iterator<Item = (&'static str, &String)> {
        let retrieval = self.retrieval.iter().map(|retrieval| ("evaluation.retrieval.dataset", &retrieval.dataset));
        retrieval.chain(self.caption.iter().map(|caption| ("evaluation.caption.dataset", &caption.dataset)))
    }

    pub(crate) fn datasets_mut(&mut self) -> impl Iterator<Item = &mut String> {
        let retrieval = self.retrieval.iter_mut().map(|retrieval| &mut retrieval.dataset);
        retrieval.chain(self.caption.iter_mut().map(|caption| &mut caption.dataset))
    }

    fn validate(&self, recipe: &Recipe) -> Checked {
        require(self.retrieval.is_some() || self.caption.is_some(), "evaluation", || {
            "does not say what is measured: add `retrieval` or `caption`".into()
        })?;
        if let Some(retrieval) = &self.retrieval {
            require(recipe.stage1.is_some(), "evaluation.retrieval", || {
                "needs a `stage1` section, since stage 2's checkpoint has no text side: add one, or measure captions"
                    .into()
            })?;
            held_out(&retrieval.dataset, retrieval.limit, "evaluation.retrieval")?;
        }
        if let Some(caption) = &self.caption {
            require(recipe.stage2.is_some(), "evaluation.caption", || {
                "needs a `stage2` section, whose language model writes: add one, or measure retrieval".into()
            })?;
            caption.validate()?;
        }
        Ok(())
    }
}

impl CaptionEvaluation {
    fn validate(&self) -> Checked {
        let key = |field: &str| format!("evaluation.caption.{field}");
        held_out(&self.dataset, self.limit, "evaluation.caption")?;
        require((1..=64).contains(&self.beams), key("beams"), || format!("is {}, but must be 1 to 64", self.beams))?;
        within(self.length_penalty, true, key("length_penalty"), "a number")?;
        require((2..=4096).contains(&self.max_length), key("max_length"), || {
            format!("is {}, but must be 2 to 4096", self.max_length)
        })?;
        require(self.min_length <= self.max_length, key("min_length"), || {
            format!("is {}, but must be at most max_length, which is {}", self.min_length, self.max_length)
        })?;
        within(self.repetition_penalty, self.repetition_penalty > 0.0, key("repetition_penalty"), "above 0")
    }
}

impl Export {
    fn validate(&self, recipe: &Recipe) -> Checked {
        require(!self.safetensors || self.to == ExportTarget::Lavis, "export.safetensors", || {
            "is for LAVIS, but `export.to` is hf, which always is safetensors: remove the key".into()
        })?;
        let is_whole = self.part == ExportPart::Whole;
        require(is_whole || self.to == ExportTarget::Hf, "export.part", || {
            "is for transformers, but `export.to` is lavis, which has one form: remove the key".into()
        })?;
        require(is_whole || recipe.stage2.is_none(), "export.part", || {
            "is qformer, but stage 2's blocks are exported with their language model: remove the key".into()
        })?;
        at_least_one(self.max_shard_bytes, "export.max_shard_bytes")
    }
}

fn held_out(dataset: &str, limit: Option<u64>, section: &str) -> Checked {
    require(!dataset.trim().is_empty(), format!("{section}.dataset"), || {
        "must name a parquet file, a folder of them or a URL".into()
    })?;
    limit.map_or(Ok(()), |limit| at_least_one(limit, format!("{section}.limit")))
}

fn default_rerank() -> u64 {
    128
}
fn default_beams() -> u32 {
    5
}
fn default_max_length() -> u32 {
    30
}
fn default_min_length() -> u32 {
    1
}
fn one() -> f64 {
    1.0
}
fn default_max_shard_bytes() -> u64 {
    5_000_000_000
}
