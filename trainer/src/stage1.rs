//! Stage 1 from the outside: [`run`] carries a recipe out, [`train`] is the loop, [`Control`] is who watches it.

use std::time::Instant;

use quern_collective::Collective;
use quern_corpus::store::{self, Folder};
use quern_recipes::{Optimiser, Recipe};
use tch::{Device, Kind, Tensor};
use tokio::runtime::{Builder, Runtime};

use crate::checkpoint::{self, Identity, Trainee};
use crate::error::{Refused, TrainError};
use crate::loader::Loader;
use crate::optimiser::AdamWOptions;
use crate::schedule::warmup_cosine;
use crate::setup::Setup;
use crate::step::{Batch, Losses, Negatives, Semantics, StepOptions, train_step};

/// Whether a run goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// It does.
    Continue,
    /// All ranks end after the step that is being computed, with a checkpoint.
    Stop,
}

/// One step's report.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepReport {
    /// The step, counted from 0.
    pub step: u64,
    /// Steps of the whole run.
    pub steps: u64,
    /// Losses of the global batch.
    pub losses: Losses,
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

    /// Called on rank 0 when a checkpoint is durable at `path` below the output; `last`: the run is complete with it.
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
    pub losses: Option<Losses>,
}

/// What of a recipe the loop needs.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Whose gradient.
    pub semantics: Semantics,
    /// Steps of the run.
    pub steps: u64,
    /// Steps between checkpoints.
    pub checkpoint_every: u64,
    /// AdamW and its schedule.
    pub optimiser: Optimiser,
    /// What the run's checkpoints are known by.
    pub identity: Identity,
}

/// This rank's slices of the global batches.
pub trait Batches {
    /// The slice of step `step`; steps are asked for in order.
    fn next(&mut self, step: u64) -> Result<Batch, TrainError>;
}

/// Carries out the recipe's stage 1 on one rank: reads what CapFilt wrote under the recipe's output and the data sets'
/// images, trains, writes checkpoints below the output. `resume`: the path of an accepted checkpoint, below the output.
///
/// Not to be called on a thread that drives async tasks: it blocks, and drives its own.
///
/// # Errors
/// See [`TrainError`]; after any of them the world is aborted, so that no peer waits for this rank.
pub fn run(
    recipe: &Recipe,
    collective: &dyn Collective,
    resume: Option<&str>,
    device: Device,
    control: &mut dyn Control,
) -> Result<Outcome, TrainError> {
    let outcome = run_rank(recipe, collective, resume, device, control);
    if outcome.is_err() {
        collective.abort();
    }
    outcome
}

fn run_rank(
    recipe: &Recipe,
    collective: &dyn Collective,
    resume: Option<&str>,
    device: Device,
    control: &mut dyn Control,
) -> Result<Outcome, TrainError> {
    tch::set_num_threads(recipe.cluster.threads as i32);
    let setup = Setup::load(recipe, device)?;
    let plan = setup.plan(recipe, collective.size())?;
    let runtime = runtime()?;
    let output = store::open(&recipe.output)?;
    let options = AdamWOptions::from(&plan.optimiser);
    let mut trainee = match resume {
        None => Trainee::new(setup.initial_model(recipe.seed, device)?, options),
        Some(path) => {
            let resumed = checkpoint::resume(&output, path, &plan.identity, &setup.config, options, device);
            runtime.block_on(resumed)?
        }
    };
    let mut loader = Loader::start(recipe, setup, trainee.step..plan.steps, collective, device)?;
    train(&mut trainee, &mut loader, collective, &plan, &output, &runtime, control)
}

/// The loop: batch, gradient, update, report, checkpoint, until the plan's steps are done or a rank asks to stop.
///
/// # Errors
/// See [`TrainError`].
pub fn train(
    trainee: &mut Trainee,
    batches: &mut dyn Batches,
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
        let computed = train_step(&trainee.model, &batch, collective, &step_options(plan, step))?;
        if !computed.losses.total().is_finite() {
            return Err(TrainError::Diverged { step });
        }
        let learning_rate = warmup_cosine(&plan.optimiser, step, plan.steps);
        trainee.optimiser.step(&computed.gradients, learning_rate);
        trainee.step += 1;
        losses = Some(computed.losses);
        let seconds = begun.elapsed().as_secs_f64();
        let steps = plan.steps;
        let report = StepReport { step, steps, losses: computed.losses, learning_rate, seconds, data_seconds };
        let stop = agree_to_stop(control.steps(&report)?, collective, trainee.model.device())?;
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

fn step_options(plan: &Plan, step: u64) -> StepOptions {
    StepOptions {
        semantics: plan.semantics,
        seed: plan.identity.seed,
        step,
        decoder_start: plan.identity.decoder_start,
        negatives: Negatives::Keyed,
        probes: false,
    }
}

/// Every rank stops at the same step, if one of them wants to.
fn agree_to_stop(wish: Flow, collective: &dyn Collective, device: Device) -> Result<bool, TrainError> {
    let vote = Tensor::from_slice(&[i64::from(wish == Flow::Stop)]).to_device(device);
    let votes = collective.all_reduce_sum(&[vote])?;
    Ok(votes[0].to_kind(Kind::Int64).int64_value(&[0]) > 0)
}

/// Rank 0 writes and offers the checkpoint; the others wait for it, so that none leaves before it is accepted.
fn save(
    trainee: &Trainee,
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

/// A runtime of this thread's own.
pub(crate) fn runtime() -> Result<Runtime, TrainError> {
    let built = Builder::new_current_thread().enable_all().build();
    built.map_err(|error| TrainError::System(format!("can't start an async runtime: {error}")))
}
