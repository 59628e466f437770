//! The recipe's shape: what a person writes, field for field.
//!
//! Names follow the papers and the checkpoints' own configs. Every struct refuses unknown keys. Defaults are
//! those of BLIP-2 (arXiv 2301.12597) and BLIP (arXiv 2201.12086) where those state one.

use serde::{Deserialize, Serialize};

use crate::embed::EmbedImages;
use crate::filters::Filters;
use crate::inputs::{Fetch, Format, Images};
use crate::kubernetes::Kubernetes;
use crate::tasks::{Evaluation, Export};

/// A run: where the pairs come from, how they are filtered, what is trained on them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// A short name for people; not part of the hash.
    pub name: String,
    /// Seed of every keyed draw of the run.
    #[serde(default = "one")]
    pub seed: u64,
    /// Folder or URL under which everything is written (`data/`, `quarantine/`, `manifest.json`,
    /// `stage1/`, `stage2/`, `evaluation/`, `export/`); not part of the hash.
    pub output: String,
    /// The corpus: a mixture of folders of parquet files or WebDataset tars.
    pub datasets: Vec<Dataset>,
    /// Rows per shard at most. A shard never crosses a file.
    #[serde(default = "default_shard_rows")]
    pub shard_rows: u64,
    /// What is refused before a pixel is allocated.
    #[serde(default)]
    pub limits: ImageLimits,
    /// How images are fetched that a data set has as URLs.
    #[serde(default, skip_serializing_if = "is_default")]
    pub fetch: Fetch,
    /// The CapFilt pass; without it every dataset must say `capfilt: false`.
    #[serde(default)]
    pub capfilt: Option<CapFilt>,
    /// The output of an earlier run over the same data sets: its captions are trained on, and CapFilt does not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub captions: Option<String>,
    /// Q-Former pre-training, stage 1; without it, stage 2 starts from a checkpoint that it names.
    #[serde(default)]
    pub stage1: Option<Stage1>,
    /// Training towards a frozen language model, stage 2; without it the run ends after stage 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage2: Option<Stage2>,
    /// What is measured when training is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evaluation: Option<Evaluation>,
    /// What the last checkpoint is written as for other tools.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub export: Option<Export>,
    /// Where and on how many processes the run is carried out; not part of the hash, but for `threads`.
    #[serde(default)]
    pub cluster: Cluster,
}

impl Recipe {
    /// Whether anything is trained.
    pub fn trains(&self) -> bool {
        self.stage1.is_some() || self.stage2.is_some()
    }

    /// Where the captions are that are trained on: an earlier run's output, or this one's.
    pub fn captioned(&self) -> &str {
        self.captions.as_ref().unwrap_or(&self.output)
    }
}

/// One data set in img2dataset's layout, or one that is mapped onto it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dataset {
    /// Its name: the first part of every RowId. Letters, digits, `-`, `_` and `.`.
    pub name: String,
    /// Folder or URL that holds the files, at any depth.
    pub path: String,
    /// What the files are; `null`: whatever there is, where that is one of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
    /// What the image column holds.
    #[serde(default, skip_serializing_if = "is_default")]
    pub images: Images,
    /// Which columns hold what.
    #[serde(default)]
    pub columns: Columns,
    /// Take so many rows: whole shards drawn from all of them, the last one cut; `null`: all rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_rows: Option<u64>,
    /// How often each row is trained on in an epoch, on average: 2: twice, 0.5: every second time; `null`: once. CapFilt
    /// doesn't look at it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<f64>,
    /// `true`: web captions, CapFilt writes new ones. `false`: the captions are kept as they are.
    #[serde(default = "yes")]
    pub capfilt: bool,
}

/// The columns of a data set; in tar files the extensions of a sample's members.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Columns {
    /// The image: encoded bytes, or as `images` says.
    pub image: String,
    /// The web caption.
    pub caption: String,
    /// A key that is carried along; optional in the file.
    pub key: String,
}

impl Default for Columns {
    fn default() -> Self {
        Columns { image: "jpg".into(), caption: "caption".into(), key: "key".into() }
    }
}

/// Limits that are checked from an image's header.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ImageLimits {
    /// Encoded size in bytes.
    pub max_bytes: u64,
    /// Width times height.
    pub max_pixels: u64,
    /// Width or height, whichever is larger.
    pub max_side: u32,
    /// Frames of an animation, of which the first is used. As the default it is not written.
    #[serde(skip_serializing_if = "ImageLimits::is_default_frames")]
    pub max_frames: u32,
}

impl Default for ImageLimits {
    fn default() -> Self {
        ImageLimits { max_bytes: 32 << 20, max_pixels: 64 << 20, max_side: 16_384, max_frames: DEFAULT_FRAMES }
    }
}

/// A minute and a half at ten frames a second: a longer GIF is a film.
const DEFAULT_FRAMES: u32 = 1000;

impl ImageLimits {
    fn is_default_frames(frames: &u32) -> bool {
        *frames == DEFAULT_FRAMES
    }
}

/// The CapFilt pass (BLIP-2 §3.3): captions are written, ranked with the web caption, and the best are kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CapFilt {
    /// The captioner, a `BlipForConditionalGeneration` in Hugging Face layout.
    pub captioner: String,
    /// The ranker, a `CLIPModel` in Hugging Face layout.
    pub ranker: String,
    /// Captions written per image.
    #[serde(default = "ten")]
    pub candidates: u32,
    /// Captions kept per image.
    #[serde(default = "two")]
    pub keep: u32,
    /// Text that every written caption starts from; it is stripped afterwards.
    #[serde(default)]
    pub prompt: String,
    /// How captions are drawn.
    #[serde(default)]
    pub sampling: Sampling,
    /// Images that are captioned together: a lane each, filled by the shard's rows in order.
    #[serde(default = "default_batch_images")]
    pub batch_images: u32,
    /// Whether the parts carry the images along, and of what size.
    #[serde(default)]
    pub embed_images: EmbedImages,
    /// In what precision the models compute.
    #[serde(default, skip_serializing_if = "is_default")]
    pub precision: CapFiltPrecision,
    /// What a caption must be besides being among the best.
    #[serde(default, skip_serializing_if = "is_default")]
    pub filters: Filters,
}

/// In what precision CapFilt's models compute; single unless another is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CapFiltPrecision {
    /// The captioner.
    pub captioner: Precision,
    /// The ranker.
    pub ranker: Precision,
}

impl Default for CapFiltPrecision {
    fn default() -> Self {
        CapFiltPrecision { captioner: Precision::Float, ranker: Precision::Float }
    }
}

/// Nucleus sampling as BLIP draws its captions (BLIP `predict.py`: top_p 0.9, length 5 to 20 beyond the prompt).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sampling {
    /// Smallest set of tokens whose probability reaches this is drawn from.
    pub top_p: f64,
    /// Only the k likeliest tokens are drawn from; `null`: all. (Hugging Face silently means 50.)
    pub top_k: Option<u32>,
    /// Divides the logits.
    pub temperature: f64,
    /// Tokens at least, begin token and prompt counted.
    pub min_length: u32,
    /// Tokens at most, begin token and prompt counted.
    pub max_length: u32,
    /// Divides positive and multiplies negative logits of tokens already there (BLIP uses 1.1).
    pub repetition_penalty: f64,
}

impl Default for Sampling {
    fn default() -> Self {
        Sampling { top_p: 0.9, top_k: None, temperature: 1.0, min_length: 5, max_length: 20, repetition_penalty: 1.1 }
    }
}

/// Q-Former pre-training, stage 1 (BLIP-2 §3.2): ITC, ITG and ITM over a frozen image encoder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stage1 {
    /// The frozen image encoder, whose penultimate features are used.
    pub image_encoder: String,
    /// Side of the images that the encoder is shown, in pixels; `null`: as its preprocessor says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_size: Option<u32>,
    /// The text tokenizer (BERT's WordPiece); `[DEC]` is added when it is missing.
    pub tokenizer: String,
    /// The Q-Former's size.
    #[serde(default)]
    pub qformer: QFormer,
    /// A BERT that all but the cross-attention starts from; `null`: everything starts at random.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<String>,
    /// Global batch, in images, over all ranks.
    pub batch: u32,
    /// Optimiser steps.
    pub steps: u64,
    /// Ranks of the gang.
    #[serde(default = "one_u32")]
    pub ranks: u32,
    /// Text tokens per caption at most, `[CLS]` and `[SEP]` counted.
    #[serde(default = "default_max_text_length")]
    pub max_text_length: u32,
    /// `exact`: the true gradient of the global-batch loss. `lavis`: what the reference computes.
    #[serde(default)]
    pub semantics: Semantics,
    /// In what precision the frozen model computes.
    #[serde(default, skip_serializing_if = "is_default")]
    pub precision: Stage1Precision,
    /// AdamW and its schedule.
    #[serde(default)]
    pub optimiser: Optimiser,
    /// Random resized crop and flip.
    #[serde(default)]
    pub augment: Augment,
    /// Steps between checkpoints.
    #[serde(default = "default_checkpoint_every")]
    pub checkpoint_every: u64,
}

/// Stage 2 (BLIP-2 §3.3): the Q-Former's queries, projected, become the first tokens of a frozen language model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stage2 {
    /// The frozen language model: an OPT or a T5 in Hugging Face layout, its tokenizer with it.
    pub language_model: String,
    /// The stage-1 checkpoint to start from; `null`: this run's own stage 1.
    #[serde(default)]
    pub qformer: Option<String>,
    /// The frozen image encoder; `null`: stage 1's.
    #[serde(default)]
    pub image_encoder: Option<String>,
    /// Side of the images that the encoder is shown, in pixels; `null`: as its preprocessor says.
    #[serde(default)]
    pub image_size: Option<u32>,
    /// Global batch, in images, over all ranks.
    pub batch: u32,
    /// Optimiser steps.
    pub steps: u64,
    /// Ranks of the gang.
    #[serde(default = "one_u32")]
    pub ranks: u32,
    /// What stands before every caption; its tokens are no targets.
    #[serde(default)]
    pub prompt: String,
    /// Text tokens at most: of prompt and caption together (OPT), of each half (T5); special tokens counted.
    #[serde(default = "default_max_text_length")]
    pub max_text_length: u32,
    /// Which GELU a T5 with gated GELU computes.
    #[serde(default)]
    pub t5_gelu: T5Gelu,
    /// `exact`: one mean over all tokens of the global batch. `lavis`: the mean of the ranks' means.
    #[serde(default)]
    pub semantics: Semantics,
    /// Whether the language model's layers are computed again in the backward pass instead of being remembered.
    #[serde(default)]
    pub recompute: bool,
    /// In what precision the frozen models compute.
    #[serde(default)]
    pub precision: Stage2Precision,
    /// AdamW and its schedule; the paper's minimum is 5e-5 here.
    #[serde(default = "Optimiser::stage2", with = "Stage2Optimiser")]
    pub optimiser: Optimiser,
    /// Random resized crop and flip.
    #[serde(default)]
    pub augment: Augment,
    /// Steps between checkpoints.
    #[serde(default = "default_checkpoint_every")]
    pub checkpoint_every: u64,
}

/// In what precision stage 1's frozen model computes. What is trained is in single precision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Stage1Precision {
    /// The image encoder.
    pub image_encoder: Precision,
}

/// In what precision stage 2's frozen models compute. What is trained is in single precision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Stage2Precision {
    /// The image encoder.
    pub image_encoder: Precision,
    /// The language model.
    pub language_model: Precision,
}

/// The numbers that a frozen model is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// `half` on a GPU (a T5: `bfloat16`, since its states exceed half's range), `float` on a CPU.
    #[default]
    Auto,
    /// 32 bits.
    Float,
    /// 16 bits, IEEE.
    Half,
    /// 16 bits with single precision's range.
    BFloat16,
}

/// Which GELU a T5 with gated GELU computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum T5Gelu {
    /// What its config says: the tanh approximation.
    #[default]
    Config,
    /// What LAVIS computes: the error function.
    Lavis,
}

/// The Q-Former's configuration, in BERT's own names; the default is the paper's (BERT-base, 32 queries).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QFormer {
    /// Width.
    pub hidden_size: u32,
    /// Transformer blocks.
    pub num_hidden_layers: u32,
    /// Attention heads.
    pub num_attention_heads: u32,
    /// Width of the feed-forward layers.
    pub intermediate_size: u32,
    /// Text positions.
    pub max_position_embeddings: u32,
    /// A cross-attention in every n-th block, from the first.
    pub cross_attention_freq: u32,
    /// Learned queries.
    pub num_query_token: u32,
    /// Width of the contrastive projections.
    pub embed_dim: u32,
    /// Dropout on hidden states.
    pub hidden_dropout_prob: f64,
    /// Dropout on attention probabilities.
    pub attention_probs_dropout_prob: f64,
}

impl Default for QFormer {
    fn default() -> Self {
        QFormer {
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            intermediate_size: 3072,
            max_position_embeddings: 512,
            cross_attention_freq: 2,
            num_query_token: 32,
            embed_dim: 256,
            hidden_dropout_prob: 0.1,
            attention_probs_dropout_prob: 0.1,
        }
    }
}

/// Whose gradient a stage computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Semantics {
    /// The true gradient of the global-batch loss; a mean over tokens is over all tokens of the global batch.
    #[default]
    Exact,
    /// LAVIS: the gathered side of ITC is detached, a mean over tokens is per rank, then over ranks.
    Lavis,
}

/// AdamW with linear warm-up and cosine decay per step (BLIP-2 §4.1).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Optimiser {
    /// Learning rate after warm-up.
    pub peak_lr: f64,
    /// Learning rate at the first step.
    pub warmup_lr: f64,
    /// Learning rate at the last step.
    pub min_lr: f64,
    /// Steps of warm-up.
    pub warmup_steps: u64,
    /// AdamW's β1.
    pub beta1: f64,
    /// AdamW's β2 (LAVIS' default is 0.999).
    pub beta2: f64,
    /// AdamW's ε.
    pub epsilon: f64,
    /// Decoupled weight decay on everything but biases and other vectors.
    pub weight_decay: f64,
}

impl Default for Optimiser {
    fn default() -> Self {
        Optimiser {
            peak_lr: 1e-4,
            warmup_lr: 1e-6,
            min_lr: 1e-5,
            warmup_steps: 2000,
            beta1: 0.9,
            beta2: 0.98,
            epsilon: 1e-8,
            weight_decay: 0.05,
        }
    }
}

impl Optimiser {
    /// Stage 2's defaults.
    fn stage2() -> Self {
        Optimiser { min_lr: 5e-5, ..Optimiser::default() }
    }
}

/// [`Optimiser`] as stage 2's section writes it: the same keys, stage 2's defaults.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Optimiser", deny_unknown_fields, default = "Optimiser::stage2")]
struct Stage2Optimiser {
    peak_lr: f64,
    warmup_lr: f64,
    min_lr: f64,
    warmup_steps: u64,
    beta1: f64,
    beta2: f64,
    epsilon: f64,
    weight_decay: f64,
}

/// The training transform: random resized crop (bicubic) and horizontal flip.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Augment {
    /// Share of the image's area that a crop has at least.
    pub min_scale: f64,
    /// Whether half of the images are mirrored. (Wrong for captions that say left and right.)
    pub flip: bool,
}

impl Default for Augment {
    fn default() -> Self {
        Augment { min_scale: 0.5, flip: true }
    }
}

/// Processes and threads. Only `threads` touches the result's bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Cluster {
    /// Threads per worker for tensor arithmetic; part of the hash, since sums may round differently.
    pub threads: u32,
    /// How long a worker may be silent before its lease is given to another, in milliseconds.
    pub lease_ms: u64,
    /// How often a worker reports, in milliseconds.
    pub heartbeat_ms: u64,
    /// Attempts per shard before the whole shard is quarantined.
    pub attempts: u32,
    /// Failures in a row after which a machine's device gets no work any more, while others succeed; 0: never.
    #[serde(skip_serializing_if = "is_three")]
    pub worker_failures: u32,
    /// Device memory that a worker must have to be given a phase's work.
    #[serde(skip_serializing_if = "is_default")]
    pub min_device_memory_gib: MinDeviceMemory,
    /// What a worker costs, for `quern plan`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub price: Option<Price>,
    /// The workers as pods, for `quern k8s render`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kubernetes: Option<Kubernetes>,
}

impl Default for Cluster {
    fn default() -> Self {
        Cluster {
            threads: 1,
            lease_ms: 30_000,
            heartbeat_ms: 2_000,
            attempts: 5,
            worker_failures: 3,
            min_device_memory_gib: MinDeviceMemory::default(),
            price: None,
            kubernetes: None,
        }
    }
}

/// What a worker with its device costs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// An hour of one worker.
    pub per_device_hour: f64,
    /// In what it is paid.
    #[serde(default = "usd")]
    pub currency: String,
}

/// Device memory per phase, in GiB; `null`: any will do. A worker on a CPU has its machine's.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MinDeviceMemory {
    /// Of CapFilt.
    pub capfilt: Option<f64>,
    /// Of stage 1.
    pub stage1: Option<f64>,
    /// Of stage 2.
    pub stage2: Option<f64>,
}

/// What is left to its default is not written, so that a key that comes anew changes no older recipe's hash.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn is_three(value: &u32) -> bool {
    *value == 3
}

fn usd() -> String {
    "USD".into()
}
fn one() -> u64 {
    1
}
fn one_u32() -> u32 {
    1
}
fn two() -> u32 {
    2
}
fn ten() -> u32 {
    10
}
fn yes() -> bool {
    true
}
fn default_shard_rows() -> u64 {
    2_000
}
fn default_batch_images() -> u32 {
    16
}
fn default_max_text_length() -> u32 {
    32
}
fn default_checkpoint_every() -> u64 {
    1_000
}
