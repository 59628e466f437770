//! Checkpoints: `stage1/step-000200/` with `model.safetensors` (the trainable weights in LAVIS' names),
//! `optimiser.safetensors` (both moments of each) and `state.json` (where the run stands), written last; `stage2/…`
//! likewise.
//!
//! A step is a pure function of (weights, moments, seed, step), so that is all a resumed run needs. Nothing in a
//! checkpoint tells when, where or on how many ranks it was written.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use quern_corpus::store::{self, Folder};
use quern_models::qformer::{Bridge, BridgeConfig, Projection, QFormer, QFormerConfig, foreign};
use quern_models::source;
use quern_models::weights::Weights;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};
use tokio::runtime::Runtime;

use crate::error::TrainError;
use crate::optimiser::AdamWOptions;
use crate::training::{Stage, StageName, Trainee};

/// Raised when a reader of the older layout would misread the new one.
const LAYOUT: u32 = 1;
const MODEL: &str = "model.safetensors";
const OPTIMISER: &str = "optimiser.safetensors";
const STATE: &str = "state.json";
/// How names of the Hub's models begin, which are no stores.
const HUB: &str = "hf://";

/// Where a run stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// The version of this layout.
    pub layout: u32,
    /// Which stage.
    #[serde(default)]
    pub stage: StageName,
    /// Steps done; the next step to compute has this number.
    pub step: u64,
    /// Position in the sample order: rows trained on so far.
    pub samples: u64,
    /// Updates that the optimiser made.
    pub updates: i64,
    /// Seed of every keyed draw.
    pub seed: u64,
    /// Global batch.
    pub batch: u32,
    /// The recipe's hash.
    pub recipe_hash: String,
    /// The Q-Former's sizes.
    pub qformer: QFormerConfig,
    /// Id of `[DEC]`; stage 1's alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decoder_start: Option<i64>,
    /// What the Q-Former is projected to; stage 2's alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language_model: Option<LanguageIdentity>,
    /// Version of quern that wrote it.
    pub version: String,
}

/// The frozen language model that a stage 2 was trained towards.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LanguageIdentity {
    /// Its folder's or repository's name.
    pub name: String,
    /// The projection to it, by the kind of model.
    pub projection: Projection,
    /// Width of its embeddings.
    pub width: i64,
    /// Entries of its vocabulary.
    pub vocabulary: i64,
}

/// What of a run goes into its checkpoints and must be the same when it resumes.
#[derive(Debug, Clone, PartialEq)]
pub struct Identity {
    /// Seed of every keyed draw.
    pub seed: u64,
    /// Global batch.
    pub batch: u32,
    /// The recipe's hash.
    pub recipe_hash: String,
    /// What is trained.
    pub trained: Trained,
}

/// What a checkpoint's weights are.
#[derive(Debug, Clone, PartialEq)]
pub enum Trained {
    /// A Q-Former with both sides.
    QFormer {
        /// Its sizes.
        config: QFormerConfig,
        /// Id of `[DEC]`.
        decoder_start: i64,
    },
    /// Its query side with a projection.
    Bridge {
        /// The Q-Former's sizes.
        config: QFormerConfig,
        /// What it is projected to.
        language_model: LanguageIdentity,
    },
}

impl Identity {
    /// The stage.
    pub fn stage(&self) -> StageName {
        match self.trained {
            Trained::QFormer { .. } => StageName::Stage1,
            Trained::Bridge { .. } => StageName::Stage2,
        }
    }
}

/// The path of a stage's checkpoint after `step` steps, relative to the output.
pub fn path(stage: StageName, step: u64) -> String {
    format!("{}/step-{step:06}", stage.name())
}

/// Writes a checkpoint into `output`; gives its path and the digest of its files.
///
/// # Errors
/// When the store does not take it.
pub async fn write<S: Stage>(
    output: &Folder,
    trainee: &Trainee<S>,
    identity: &Identity,
) -> Result<(String, String), TrainError> {
    let path = path(identity.stage(), trainee.step);
    let slots = trainee.optimiser.slots();
    let moments = slots.iter().flat_map(|slot| {
        [(format!("exp_avg/{}", slot.name), &slot.exp_avg), (format!("exp_avg_sq/{}", slot.name), &slot.exp_avg_sq)]
    });
    let weights = trainee.stage.parameters().iter().map(|(name, tensor)| (name.to_string(), tensor));
    let state =
        serde_json::to_vec_pretty(&state_of(trainee, identity)).expect("a state holds only what JSON can state");
    let files = [(MODEL, encode(weights)), (OPTIMISER, encode(moments)), (STATE, state)];
    let mut digest = blake3::Hasher::new();
    for (name, bytes) in files {
        digest.update(blake3::hash(&bytes).as_bytes());
        output.put(&format!("{path}/{name}"), Bytes::from(bytes)).await?;
    }
    Ok((path, digest.finalize().to_hex().to_string()))
}

fn state_of<S: Stage>(trainee: &Trainee<S>, identity: &Identity) -> State {
    let (qformer, decoder_start, language_model) = match identity.trained.clone() {
        Trained::QFormer { config, decoder_start } => (config, Some(decoder_start), None),
        Trained::Bridge { config, language_model } => (config, None, Some(language_model)),
    };
    State {
        layout: LAYOUT,
        stage: identity.stage(),
        step: trainee.step,
        samples: trainee.step * u64::from(identity.batch),
        updates: trainee.optimiser.updates(),
        seed: identity.seed,
        batch: identity.batch,
        recipe_hash: identity.recipe_hash.clone(),
        qformer,
        decoder_start,
        language_model,
        version: env!("CARGO_PKG_VERSION").to_string(),
    }
}

/// A checkpoint whose state has been read.
pub struct Saved {
    folder: Folder,
    path: String,
    /// Where the run that wrote it stood.
    pub state: State,
}

/// Opens the checkpoint at `path`, below `output` or a location of its own.
///
/// # Errors
/// When there is none, or its state is not one that this version reads.
pub async fn open(output: &Folder, path: &str) -> Result<Saved, TrainError> {
    let (folder, path) = locate(output, path)?;
    let name = format!("{path}/{STATE}");
    let state: State = serde_json::from_slice(&folder.get(&name).await?)
        .map_err(|error| damaged(&folder, &name, error.to_string()))?;
    match state.layout {
        LAYOUT => Ok(Saved { folder, path, state }),
        layout => Err(damaged(&folder, &name, format!("layout {layout}, but this version of quern reads {LAYOUT}"))),
    }
}

/// A checkpoint, whoever wrote it.
pub enum Found {
    /// quern's.
    Own(Box<Saved>),
    /// LAVIS' `.pth` or a Hugging Face folder.
    Foreign(Box<foreign::Checkpoint>),
}

/// Opens what is at `path`: a checkpoint of quern's, below `output` or a location of its own; or else another's.
///
/// # Errors
/// When there is neither, or it can't be read.
pub fn find(runtime: &Runtime, output: &Folder, path: &str, device: Device) -> Result<Found, TrainError> {
    let is_elsewhere = path.starts_with(HUB) || source::is_weights_file(path) || Path::new(path).is_file();
    if !is_elsewhere {
        let (folder, name) = locate(output, path)?;
        if runtime.block_on(folder.exists(&format!("{name}/{STATE}")))? {
            return Ok(Found::Own(Box::new(runtime.block_on(open(output, path))?)));
        }
        if !path.contains("://") && !Path::new(path).exists() {
            let reason = format!("there is no {path}, neither here nor below {}", output.url);
            return Err(TrainError::Checkpoint { path: path.to_owned(), reason });
        }
    }
    Ok(Found::Foreign(Box::new(foreign::Checkpoint::open(&source::fetch(path)?, device)?)))
}

impl Saved {
    /// Where it is.
    pub fn url(&self) -> String {
        self.folder.url_of(&self.path)
    }

    /// Refuses another run's checkpoint.
    ///
    /// # Errors
    /// When it is one.
    pub fn must_be_of(&self, identity: &Identity) -> Result<(), TrainError> {
        let found = self.identity()?;
        match &found == identity {
            true => Ok(()),
            false => Err(self.unfit(format!(
                "it belongs to another run (there {found:?}; here {identity:?}); give its own recipe, or start anew with \
                 another output"
            ))),
        }
    }

    fn identity(&self) -> Result<Identity, TrainError> {
        let State { stage, seed, batch, recipe_hash, qformer, decoder_start, language_model, .. } = self.state.clone();
        let trained = match (stage, decoder_start, language_model) {
            (StageName::Stage1, Some(decoder_start), None) => Trained::QFormer { config: qformer, decoder_start },
            (StageName::Stage2, None, Some(language_model)) => Trained::Bridge { config: qformer, language_model },
            (stage, ..) => {
                let reason = format!("{STATE} does not say what a checkpoint of {} needs", stage.name());
                return Err(self.unfit(reason));
            }
        };
        Ok(Identity { seed, batch, recipe_hash, trained })
    }

    /// Stage 1's trained model.
    ///
    /// # Errors
    /// When it is of another stage, or damaged.
    pub async fn qformer(&self, device: Device) -> Result<QFormer, TrainError> {
        match self.identity()?.trained {
            Trained::QFormer { config, .. } => Ok(QFormer::from_weights(&self.weights(device).await?, &config)?),
            Trained::Bridge { .. } => {
                Err(self.unfit("it is stage 2's, which has no text side: name a checkpoint of stage 1".into()))
            }
        }
    }

    /// Stage 2's trained model.
    ///
    /// # Errors
    /// When it is of another stage, or damaged.
    pub async fn bridge(&self, device: Device) -> Result<Bridge, TrainError> {
        match self.identity()?.trained {
            Trained::Bridge { config, language_model } => {
                let LanguageIdentity { projection, width, .. } = language_model;
                let config = BridgeConfig { qformer: config, projection, language_width: width };
                Ok(Bridge::from_weights(&self.weights(device).await?, &config)?)
            }
            Trained::QFormer { .. } => {
                Err(self.unfit("it is stage 1's, which has no projection: name a checkpoint of stage 2".into()))
            }
        }
    }

    /// `stage`, whose weights are the checkpoint's, with its optimiser and step.
    ///
    /// # Errors
    /// When the optimiser's state is damaged.
    pub async fn resume<S: Stage>(
        &self,
        stage: S,
        options: AdamWOptions,
        device: Device,
    ) -> Result<Trainee<S>, TrainError> {
        let mut trainee = Trainee { step: self.state.step, ..Trainee::new(stage, options) };
        let name = format!("{}/{OPTIMISER}", self.path);
        let mut saved = decode(&self.folder, &name).await?;
        let mut take = |key: String, like: &Tensor| match saved.remove(&key) {
            Some(tensor) if tensor.size() == like.size() => Ok(tensor.to_device(device)),
            Some(tensor) => {
                let reason = format!("{key} has shape {:?}, not {:?}", tensor.size(), like.size());
                Err(damaged(&self.folder, &name, reason))
            }
            None => Err(damaged(&self.folder, &name, format!("{key} is missing"))),
        };
        trainee.optimiser.restore(self.state.updates, |parameter, like| {
            Ok::<_, TrainError>((
                take(format!("exp_avg/{parameter}"), like)?,
                take(format!("exp_avg_sq/{parameter}"), like)?,
            ))
        })?;
        Ok(trainee)
    }

    async fn weights(&self, device: Device) -> Result<Weights, TrainError> {
        let name = format!("{}/{MODEL}", self.path);
        let tensors = decode(&self.folder, &name).await?;
        Ok(Weights::from_tensors(tensors, &self.folder.url_of(&name), device, Kind::Float)?)
    }

    /// It can't be used, because of `reason`.
    pub fn unfit(&self, reason: String) -> TrainError {
        TrainError::Checkpoint { path: self.url(), reason }
    }
}

/// A path below the output, or a location of its own.
fn locate(output: &Folder, path: &str) -> Result<(Folder, String), TrainError> {
    let trimmed = path.trim_end_matches('/');
    match trimmed.rsplit_once('/') {
        Some((parent, last)) if path.starts_with('/') || path.contains("://") => {
            Ok((store::open(parent)?, last.to_string()))
        }
        _ => Ok((output.clone(), trimmed.to_string())),
    }
}

fn encode<'a>(tensors: impl Iterator<Item = (String, &'a Tensor)>) -> Vec<u8> {
    let stored: BTreeMap<String, (Vec<usize>, Vec<u8>)> = tensors
        .map(|(name, tensor)| {
            let tensor = tensor.detach().to_device(Device::Cpu).to_kind(Kind::Float).contiguous();
            let mut bytes = vec![0u8; tensor.numel() * size_of::<f32>()];
            tensor.copy_data_u8(&mut bytes, tensor.numel());
            (name, (tensor.size().iter().map(|&extent| extent as usize).collect(), bytes))
        })
        .collect();
    let views = stored.iter().map(|(name, (shape, bytes))| {
        (name, TensorView::new(Dtype::F32, shape.clone(), bytes).expect("as many bytes as the shape asks for"))
    });
    safetensors::serialize(views, None).expect("distinct names")
}

async fn decode(folder: &Folder, name: &str) -> Result<BTreeMap<String, Tensor>, TrainError> {
    let bytes = folder.get(name).await?;
    let file = SafeTensors::deserialize(&bytes).map_err(|error| damaged(folder, name, error.to_string()))?;
    file.iter()
        .map(|(key, view)| match view.dtype() {
            Dtype::F32 => {
                let shape: Vec<i64> = view.shape().iter().map(|&extent| extent as i64).collect();
                Ok((key.to_string(), Tensor::from_data_size(view.data(), &shape, Kind::Float)))
            }
            other => Err(damaged(folder, name, format!("{key} is of type {other:?}, not F32"))),
        })
        .collect()
}

fn damaged(folder: &Folder, name: &str, reason: String) -> TrainError {
    TrainError::Checkpoint { path: folder.url_of(name), reason }
}
