//! One step of stage 2 on one rank (BLIP-2 §3.3): the gradient of the frozen language model's loss by the weights before it.
//!
//! The graph is cut at the visual tokens: the language model gives the derivative of its summed loss by them, `g`; ONE
//! backward of Σ(tokens · g) takes it on to the weights; one sum over the ranks adds gradients, losses and counts. The
//! mean is over all targets of the global batch, so the result doesn't depend on how that is cut into ranks.

use quern_collective::{Collective, CollectiveError};
use quern_corpus::{Keyed, Purpose};
use quern_models::language::{LanguageModel, LossOptions, Texts};
use quern_models::qformer::{Bridge, Dropout};
use tch::{Kind, Tensor};

use super::noise::Stream;
use super::{LanguageMean, reduce};

/// This rank's rows of a global batch.
pub struct BridgeBatch {
    /// Frozen encoder's features, before the trainable LayerNorm, `[B, N, V]`.
    pub features: Tensor,
    /// What the language model reads and is to say.
    pub texts: Texts,
    /// Each row's [`RowId::key`](quern_corpus::RowId::key).
    pub rows: Vec<u64>,
}

/// What a step depends on, besides the weights and the batch.
#[derive(Debug, Clone, Copy)]
pub struct BridgeOptions {
    /// Over what the mean is taken.
    pub mean: LanguageMean,
    /// Seed of the run.
    pub seed: u64,
    /// The optimiser step.
    pub step: u64,
    /// Whether the language model's layers are computed again in the backward pass.
    pub recompute: bool,
    /// Whether the tensors on the way are wanted.
    pub probes: bool,
}

/// What a step computes.
pub struct BridgeOutput {
    /// One tensor per parameter, in their order, the same on every rank.
    pub gradients: Vec<Tensor>,
    /// Loss per target of the global batch, the same on every rank.
    pub loss: f64,
    /// Mean over this rank's own targets.
    pub local: f64,
    /// What this rank saw, if it was asked for.
    pub probes: Option<BridgeProbes>,
}

/// Tensors on the way, detached; what the goldens compare.
pub struct BridgeProbes {
    /// What the language model sees of the images, `[B, Q, W]`.
    pub visual_tokens: Tensor,
    /// Its logits: OPT `[B, Q + L, vocabulary]`, T5 `[B, T, vocabulary]`.
    pub logits: Tensor,
}

/// Computes the gradient of the global batch's loss; the weights stay as they are, and the language model's take none.
///
/// Every rank of `collective` calls it with its own slice and the same `options`.
///
/// # Errors
/// When a peer is lost.
pub fn bridge_step(
    bridge: &Bridge,
    language_model: &dyn LanguageModel,
    batch: &BridgeBatch,
    collective: &dyn Collective,
    options: &BridgeOptions,
) -> Result<BridgeOutput, CollectiveError> {
    for (_, parameter) in bridge.parameters().iter() {
        parameter.shallow_clone().zero_grad();
    }
    let key = |&row: &u64| Keyed::new(options.seed, row, Purpose::Dropout, options.step).bits(Stream::Visual as u64);
    let dropout = Dropout::keyed(&bridge.config.qformer, batch.rows.iter().map(key).collect());
    let visual = bridge.visual_tokens(&batch.features.to_kind(Kind::Float), &dropout);
    let asked = LossOptions { recompute: options.recompute, probes: options.probes };
    let computed = language_model.loss(&visual.detach(), &batch.texts, asked);
    let local_targets = computed.targets as f64; // every text has one
    let local = computed.sum.double_value(&[]) / local_targets;

    // What a rank's sums are divided by before they are added, and what the sum is divided by.
    let before = match options.mean {
        LanguageMean::Tokens => 1.0,
        LanguageMean::Ranks => local_targets * collective.size() as f64,
    };
    ((&visual * computed.gradient.to_kind(Kind::Float)).sum(Kind::Float) / before).backward();
    let loss = &computed.sum / before;
    let targets = Tensor::from(local_targets as f32).to_device(loss.device());
    let (gradients, [loss, targets]) = reduce(bridge.parameters(), [&loss, &targets], collective)?;
    let after = match options.mean {
        LanguageMean::Tokens => targets,
        LanguageMean::Ranks => 1.0,
    };
    let probes = computed.logits.map(|logits| BridgeProbes { visual_tokens: visual.detach(), logits });
    Ok(BridgeOutput {
        gradients: gradients.into_iter().map(|gradient| gradient / after).collect(),
        loss: loss / after,
        local,
        probes,
    })
}
