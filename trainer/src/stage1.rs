//! Stage 1 from the outside: [`run`] carries a recipe's out on one rank, [`Stage1`] is what the loop trains.

use quern_collective::{Collective, CollectiveError};
use quern_corpus::store;
use quern_models::qformer::{Parameters, QFormer};
use quern_recipes::Recipe;
use tch::Device;

use crate::checkpoint;
use crate::error::TrainError;
use crate::loader::Loader;
use crate::optimiser::AdamWOptions;
use crate::setup::Setup;
use crate::step::{Batch, Negatives, Semantics, StepOptions, train_step};
use crate::training::{Control, Gradient, Outcome, Stage, StageLosses, Trainee, on_rank, runtime, train};

/// Stage 1 as the loop trains it.
pub struct Stage1 {
    /// What is trained.
    pub model: QFormer,
    /// Whose gradient.
    pub semantics: Semantics,
    /// Seed of every keyed draw.
    pub seed: u64,
    /// Id of `[DEC]`.
    pub decoder_start: i64,
}

impl Stage for Stage1 {
    type Batch = Batch;

    fn parameters(&self) -> &Parameters {
        self.model.parameters()
    }

    fn device(&self) -> Device {
        self.model.device()
    }

    fn gradient(&self, batch: &Batch, collective: &dyn Collective, step: u64) -> Result<Gradient, CollectiveError> {
        let options = StepOptions {
            semantics: self.semantics,
            seed: self.seed,
            step,
            decoder_start: self.decoder_start,
            negatives: Negatives::Keyed,
            probes: false,
        };
        let output = train_step(&self.model, batch, collective, &options)?;
        Ok(Gradient { tensors: output.gradients, losses: StageLosses::Stage1(output.losses) })
    }
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
    on_rank(collective, || {
        tch::set_num_threads(recipe.cluster.threads as i32);
        let setup = Setup::load(recipe, device)?;
        let plan = setup.plan(recipe, collective.size())?;
        let runtime = runtime()?;
        let output = store::open(&recipe.output)?;
        let options = AdamWOptions::from(&plan.optimiser);
        let stage = |model| setup.stage(recipe, model);
        let mut trainee = match resume {
            None => Trainee::new(stage(setup.initial_model(recipe, device)?)?, options),
            Some(path) => {
                let saved = runtime.block_on(checkpoint::open(&output, path))?;
                saved.must_be_of(&plan.identity)?;
                let model = runtime.block_on(saved.qformer(device))?;
                runtime.block_on(saved.resume(stage(model)?, options, device))?
            }
        };
        let steps = trainee.step..plan.steps;
        let mut loader = Loader::start(recipe, setup.feed(plan.identity.batch), steps, collective, device)?;
        train(&mut trainee, &mut loader, collective, &plan, &output, &runtime, control)
    })
}
