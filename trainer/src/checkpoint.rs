//! Checkpoints: `stage1/step-000200/` with `model.safetensors` (the trainable weights in LAVIS' names),
//! `optimiser.safetensors` (both moments of each) and `state.json` (where the run stands), written last.
//!
//! A step is a pure function of (weights, moments, seed, step), so that is all a resumed run needs. Nothing in a
//! checkpoint tells when, where or on how many ranks it was written.

use std::collections::BTreeMap;

use bytes::Bytes;
use quern_corpus::store::{self, Folder};
use quern_models::qformer::{QFormer, QFormerConfig};
use quern_models::weights::Weights;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use crate::error::TrainError;
use crate::optimiser::{AdamW, AdamWOptions};

/// Raised when a reader of the older layout would misread the new one.
const LAYOUT: u32 = 1;
const MODEL: &str = "model.safetensors";
const OPTIMISER: &str = "optimiser.safetensors";
const STATE: &str = "state.json";

/// Where a run stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// The version of this layout.
    pub layout: u32,
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
    /// The model's sizes.
    pub qformer: QFormerConfig,
    /// Id of `[DEC]`.
    pub decoder_start: i64,
    /// Version of quern that wrote it.
    pub version: String,
}

/// What is trained: the weights and the optimiser's state.
pub struct Trainee {
    /// The Q-Former.
    pub model: QFormer,
    /// Its optimiser.
    pub optimiser: AdamW,
    /// Steps done.
    pub step: u64,
}

impl Trainee {
    /// A model before its first step.
    pub fn new(model: QFormer, options: AdamWOptions) -> Self {
        let optimiser = AdamW::new(options, model.parameters().iter());
        Trainee { model, optimiser, step: 0 }
    }
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
    /// Id of `[DEC]`.
    pub decoder_start: i64,
}

/// The path of the checkpoint after `step` steps, relative to the output.
pub fn path(step: u64) -> String {
    format!("stage1/step-{step:06}")
}

/// Writes a checkpoint into `output`; gives its path and the digest of its files.
pub async fn write(output: &Folder, trainee: &Trainee, identity: &Identity) -> Result<(String, String), TrainError> {
    let path = path(trainee.step);
    let slots = trainee.optimiser.slots();
    let moments = slots.iter().flat_map(|slot| {
        [(format!("exp_avg/{}", slot.name), &slot.exp_avg), (format!("exp_avg_sq/{}", slot.name), &slot.exp_avg_sq)]
    });
    let weights = trainee.model.parameters().iter().map(|(name, tensor)| (name.to_string(), tensor));
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

/// Reads the checkpoint at `path` as the state of the run `identity`; another run's is refused.
pub async fn resume(
    output: &Folder,
    path: &str,
    identity: &Identity,
    config: &QFormerConfig,
    options: AdamWOptions,
    device: Device,
) -> Result<Trainee, TrainError> {
    let (folder, path) = locate(output, path)?;
    let state = read_state(&folder, &path).await?;
    let found = Identity {
        seed: state.seed,
        batch: state.batch,
        recipe_hash: state.recipe_hash.clone(),
        decoder_start: state.decoder_start,
    };
    if &found != identity || &state.qformer != config {
        let reason = format!(
            "it belongs to another run (there {found:?}, {:?}; here {identity:?}, {config:?}); give its own recipe, or \
             start anew with another output",
            state.qformer
        );
        return Err(TrainError::Checkpoint { path: folder.url_of(&path), reason });
    }
    let model = read_model(&folder, &path, config, device).await?;
    let mut trainee = Trainee { step: state.step, ..Trainee::new(model, options) };
    let name = format!("{path}/{OPTIMISER}");
    let mut saved = decode(&folder, &name).await?;
    let mut take = |key: String, like: &Tensor| match saved.remove(&key) {
        Some(tensor) if tensor.size() == like.size() => Ok(tensor.to_device(device)),
        Some(tensor) => {
            Err(damaged(&folder, &name, format!("{key} has shape {:?}, not {:?}", tensor.size(), like.size())))
        }
        None => Err(damaged(&folder, &name, format!("{key} is missing"))),
    };
    trainee.optimiser.restore(state.updates, |parameter, like| {
        Ok::<_, TrainError>((
            take(format!("exp_avg/{parameter}"), like)?,
            take(format!("exp_avg_sq/{parameter}"), like)?,
        ))
    })?;
    Ok(trainee)
}

/// The trained model of the checkpoint at `path`, and its state.
pub async fn load_model(output: &Folder, path: &str, device: Device) -> Result<(QFormer, State), TrainError> {
    let (folder, path) = locate(output, path)?;
    let state = read_state(&folder, &path).await?;
    Ok((read_model(&folder, &path, &state.qformer, device).await?, state))
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

fn state_of(trainee: &Trainee, identity: &Identity) -> State {
    State {
        layout: LAYOUT,
        step: trainee.step,
        samples: trainee.step * u64::from(identity.batch),
        updates: trainee.optimiser.updates(),
        seed: identity.seed,
        batch: identity.batch,
        recipe_hash: identity.recipe_hash.clone(),
        qformer: trainee.model.config.clone(),
        decoder_start: identity.decoder_start,
        version: env!("CARGO_PKG_VERSION").to_string(),
    }
}

async fn read_state(folder: &Folder, path: &str) -> Result<State, TrainError> {
    let name = format!("{path}/{STATE}");
    let state: State =
        serde_json::from_slice(&folder.get(&name).await?).map_err(|error| damaged(folder, &name, error.to_string()))?;
    match state.layout {
        LAYOUT => Ok(state),
        layout => Err(damaged(folder, &name, format!("layout {layout}, but this version of quern reads {LAYOUT}"))),
    }
}

async fn read_model(
    folder: &Folder,
    path: &str,
    config: &QFormerConfig,
    device: Device,
) -> Result<QFormer, TrainError> {
    let name = format!("{path}/{MODEL}");
    let tensors = decode(folder, &name).await?;
    let weights = Weights::from_tensors(tensors, &folder.url_of(&name), device, Kind::Float)?;
    Ok(QFormer::from_weights(&weights, config)?)
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
