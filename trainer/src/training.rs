//! The loop that both stages share: batch, gradient, update, report, checkpoint; [`Control`] is who watches it.

use std::time::Instant;

use quern_collective::{Collective, CollectiveError};
use quern_corpus::store::Folder;
use quern_models::qformer::Parameters;
use quern_recipes::Optimiser;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};
use tokio::runtime::{Builder, Runtime};

use crate::checkpoint::{self, Identity};
use crate::error::{Refused, TrainError};
use crate::optimiser::{AdamW, AdamWOptions};
use crate::schedule::warmup_cosine;
use crate::step::Losses;

/// Which stage of BLIP-2's pre-training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StageName {
    /// Representation learning with the frozen image encoder.
    #[default]
    Stage1,
    /// Generative learning with the frozen language model.
    Stage2,
}

impl StageName {
    /// `stage1`, `stage2`: the recipe's section, and the folder of its checkpoints.
    pub fn name(self) -> &'static str {
        match self {
            StageName::Stage1 => "stage1",
            StageName::Stage2 => "stage2",
        }
    }
}

/// Whether a run goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// It does.
    Continue,
    /// All ranks end after the step that is being computed, with a checkpoint.
    Stop,
}

/// A step's losses, those of the global batch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum StageLosses {
    /// ITC, ITG and ITM.
    Stage1(Losses),
    /// The language model's, per token.
    Stage2 {
        /// Cross-entropy of a token.
        lm: f64,
    },
}

impl StageLosses {
    /// Their sum, which is minimised.
    pub fn total(&self) -> f64 {
        match self {
            StageLosses::Stage1(losses) => losses.total(),
            StageLosses::Stage2 { lm } => *lm,
        }
    }
}

/// One step's report.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepReport {
    /// The step, counted from 0.
    pub step: u64,
    /// Steps of the whole stage.
    pub steps: u64,
    /// Losses of the global batch.
    pub losses: StageLosses,
    /// Learning rate of its update.
    pub learning_rate: f64,
    /// Wall time of the step on this rank.
    pub seconds: f64,
    /// The part of it that was spent waiting for data.
    pub data_seconds: f64,
}

/// Who watches a run, on every rank.
pub trait Control {
    /// Called on every rank after every step. A stop that one rank asks for is agreed on by all of them; an error ends
    /// this rank at once.
    fn steps(&mut self, report: &StepReport) -> Result<Flow, Refused>;

    /// Called on rank 0 when a checkpoint is durable at `path` below the output; `last`: the stage is complete with it.
    fn checkpoint(&mut self, step: u64, path: &str, digest: &str, last: bool) -> Result<(), Refused>;
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Steps done, those before a resume included.
    pub step: u64,
    /// Whether they are all that the recipe asks for.
    pub complete: bool,
    /// The last step's losses; none if there was nothing left to do.
    pub losses: Option<StageLosses>,
}

/// What of a recipe the loop needs.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Steps of the stage.
    pub steps: u64,
    /// Steps between checkpoints.
    pub checkpoint_every: u64,
    /// AdamW and its schedule.
    pub optimiser: Optimiser,
    /// What the stage's checkpoints are known by.
    pub identity: Identity,
}

/// This rank's slices of the global batches.
pub trait Batches<Batch> {
    /// The slice of step `step`; steps are asked for in order.
    fn next(&mut self, step: u64) -> Result<Batch, TrainError>;
}

/// A stage, as the loop sees it: weights, and how a batch gives their gradient.
pub trait Stage {
    /// This rank's rows of a global batch.
    type Batch;

    /// What is trained.
    fn parameters(&self) -> &Parameters;

    /// Where it is.
    fn device(&self) -> Device;

    /// The gradient of the global batch's loss at step `step`, the same on every rank; the weights stay as they are.
    ///
    /// # Errors
    /// When a peer is lost.
    fn gradient(
        &self,
        batch: &Self::Batch,
        collective: &dyn Collective,
        step: u64,
    ) -> Result<Gradient, CollectiveError>;
}

/// What a step computes.
pub struct Gradient {
    /// One tensor per parameter, in their order.
    pub tensors: Vec<Tensor>,
    /// Losses of the global batch.
    pub losses: StageLosses,
}

/// A stage under training: its weights, the optimiser's state, how far it is.
pub struct Trainee<S> {
    /// The stage.
    pub stage: S,
    /// The optimiser of its parameters.
    pub optimiser: AdamW,
    /// Steps done.
    pub step: u64,
}

impl<S: Stage> Trainee<S> {
    /// A stage before its first step.
    pub fn new(stage: S, options: AdamWOptions) -> Self {
        let optimiser = AdamW::new(options, stage.parameters().iter());
        Trainee { stage, optimiser, step: 0 }
    }
}

/// The loop, until the plan's steps are done or a rank asks to stop.
///
/// # Errors
/// See [`TrainError`].
pub fn train<S: Stage>(
    trainee: &mut Trainee<S>,
    batches: &mut dyn Batches<S::Batch>,
    collective: &dyn Collective,
    plan: &Plan,
    output: &Folder,
    runtime: &Runtime,
    control: &mut dyn Control,
) -> Result<Outcome, TrainError> {
    let mut losses = None;
    while trainee.step < plan.steps {
        let step = trainee.step;
        let begun = Instant::now();
        let batch = batches.next(step)?;
        let data_seconds = begun.elapsed().as_secs_f64();
        let computed = trainee.stage.gradient(&batch, collective, step)?;
        if !computed.losses.total().is_finite() {
            return Err(TrainError::Diverged { step });
        }
        let learning_rate = warmup_cosine(&plan.optimiser, step, plan.steps);
        trainee.optimiser.step(&computed.tensors, learning_rate);
        trainee.step += 1;
        losses = Some(computed.losses);
        let seconds = begun.elapsed().as_secs_f64();
        let steps = plan.steps;
        let report = StepReport { step, steps, losses: computed.losses, learning_rate, seconds, data_seconds };
        let stop = agree_to_stop(control.steps(&report)?, collective, trainee.stage.device())?;
        let complete = trainee.step == plan.steps;
        if stop || complete || trainee.step.is_multiple_of(plan.checkpoint_every) {
            save(trainee, collective, plan, output, runtime, control)?;
        }
        if stop {
            break;
        }
    }
    Ok(Outcome { step: trainee.step, complete: trainee.step >= plan.steps, losses })
}

/// Every rank stops at the same step, if one of them wants to.
fn agree_to_stop(wish: Flow, collective: &dyn Collective, device: Device) -> Result<bool, TrainError> {
    let vote = Tensor::from_slice(&[i64::from(wish == Flow::Stop)]).to_device(device);
    let votes = collective.all_reduce_sum(&[vote])?;
    Ok(votes[0].to_kind(Kind::Int64).int64_value(&[0]) > 0)
}

/// Rank 0 writes and offers the checkpoint; the others wait for it, so that none leaves before it is accepted.
fn save<S: Stage>(
    trainee: &Trainee<S>,
    collective: &dyn Collective,
    plan: &Plan,
    output: &Folder,
    runtime: &Runtime,
    control: &mut dyn Control,
) -> Result<(), TrainError> {
    if collective.rank() == 0 {
        let (path, digest) = runtime.block_on(checkpoint::write(output, trainee, &plan.identity))?;
        control.checkpoint(trainee.step, &path, &digest, trainee.step == plan.steps)?;
    }
    Ok(collective.barrier()?)
}

/// A rank's work on a stage; after any error the world is aborted, so that no peer waits for this rank.
pub(crate) fn on_rank(
    collective: &dyn Collective,
    work: impl FnOnce() -> Result<Outcome, TrainError>,
) -> Result<Outcome, TrainError> {
    let outcome = work();
    if outcome.is_err() {
        collective.abort();
    }
    outcome
}

/// A runtime of this thread's own.
pub(crate) fn runtime() -> Result<Runtime, TrainError> {
    let built = Builder::new_current_thread().enable_all().build();
    built.map_err(|error| TrainError::System(format!("can't start an async runtime: {error}")))
}
