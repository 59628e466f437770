//! Stage 2 from the outside: [`run`] carries a recipe's out on one rank, [`Stage2`] is what the loop trains,
//! [`BridgeSetup`] what it and captioning are built from.

use quern_collective::{Collective, CollectiveError};
use quern_corpus::store::{self, Folder};
use quern_models::language::{self, Family, LanguageModel};
use quern_models::precision::kind_of;
use quern_models::qformer::foreign::Checkpoint;
use quern_models::qformer::{Bridge, BridgeConfig, Parameters, QFormerConfig};
use quern_models::source;
use quern_models::t5::T5Gelu;
use quern_recipes::{Precision, Recipe, Stage2 as Section, T5Gelu as RecipeGelu};
use tch::{Device, Kind};
use tokio::runtime::Runtime;

use crate::checkpoint::{self, Found, Identity, LanguageIdentity, Saved, Trained};
use crate::error::TrainError;
use crate::language_texts::LanguageTexts;
use crate::loader::{Feed, Loader};
use crate::optimiser::AdamWOptions;
use crate::setup::{initial_seed, qformer_config};
use crate::step::bridge::{BridgeBatch, BridgeOptions, bridge_step};
use crate::step::{LanguageMean, Semantics};
use crate::training::{Control, Gradient, Outcome, Plan, Stage, StageLosses, Trainee, on_rank, runtime, train};
use crate::vision::{FrozenEncoder, ImageTransform};

/// Everything of stage 2 but the weights that are trained.
pub struct BridgeSetup {
    /// The frozen language model.
    pub language_model: Box<dyn LanguageModel>,
    /// What it is known by.
    pub language_identity: LanguageIdentity,
    /// How texts become its ids.
    pub texts: LanguageTexts,
    /// How images become pixels.
    pub images: ImageTransform,
    /// How pixels become features.
    pub encoder: FrozenEncoder,
}

impl BridgeSetup {
    /// Reads the models that the recipe's stage 2 names.
    ///
    /// # Errors
    /// When there is no stage 2 in it, or a model's files are not as they must be.
    pub fn load(recipe: &Recipe, device: Device) -> Result<Self, TrainError> {
        let stage2 = section(recipe)?;
        let folder = source::fetch(&stage2.language_model)?;
        let gelu = gelu_of(stage2);
        let kind = match (stage2.precision.language_model, language::family_of(&folder)?) {
            // A T5's states exceed the range of half precision; LAVIS holds it in bfloat16, too.
            (Precision::Auto, Family::T5) if device.is_cuda() => Kind::BFloat16,
            (precision, _) => kind_of(precision, device),
        };
        let language_model = language::load(&folder, device, kind, gelu)?;
        let texts = LanguageTexts::load(&folder, &*language_model, &stage2.prompt, stage2.max_text_length)?;
        let language_identity = LanguageIdentity {
            name: last_component(&stage2.language_model),
            projection: language_model.family().into(),
            width: language_model.width(),
            vocabulary: language_model.vocabulary(),
        };
        let (encoder, side) = encoder_of(recipe, stage2)?;
        let folder = source::fetch(encoder)?;
        Ok(BridgeSetup {
            language_model,
            language_identity,
            texts,
            images: ImageTransform::load(&folder, side, stage2.augment)?,
            encoder: FrozenEncoder::load(&folder, stage2.precision.image_encoder, device)?,
        })
    }

    /// The bridge before its first step: the query side of the checkpoint `stage1`, and a projection that is the same for
    /// the same recipe, everywhere.
    ///
    /// # Errors
    /// When the checkpoint can't be used, or doesn't fit the image encoder.
    pub fn initial_bridge(
        &self,
        recipe: &Recipe,
        runtime: &Runtime,
        stage1: Found,
        device: Device,
    ) -> Result<Bridge, TrainError> {
        let saved = match stage1 {
            Found::Own(saved) => *saved,
            Found::Foreign(checkpoint) => return self.foreign_bridge(recipe, *checkpoint),
        };
        let model = runtime.block_on(saved.qformer(device))?;
        self.fits(&saved, model.config.encoder_width)?;
        let LanguageIdentity { projection, width, .. } = self.language_identity;
        Ok(Bridge::from_stage1(&model, projection, width, initial_seed(recipe))?)
    }

    /// The bridge of a checkpoint that is not quern's: LAVIS' `.pth` or a Hugging Face folder. Of stage 1, it has the
    /// projection that stage 2 begins with. What a LAVIS checkpoint does not say, such as the number of heads, is as in the recipe's
    /// stage 1, or else as in the paper.
    ///
    /// # Errors
    /// When it can't be used, or doesn't fit the image encoder or the language model.
    pub fn foreign_bridge(&self, recipe: &Recipe, checkpoint: Checkpoint) -> Result<Bridge, TrainError> {
        let sizes = recipe.stage1.as_ref().map(|stage1| stage1.qformer.clone()).unwrap_or_default();
        let qformer = checkpoint.config().unwrap_or_else(|| qformer_config(&sizes, self.encoder.width()));
        let qformer = QFormerConfig { encoder_width: self.encoder.width(), ..qformer };
        let LanguageIdentity { projection, width, .. } = self.language_identity;
        let config = BridgeConfig { qformer, projection, language_width: width };
        Ok(checkpoint.bridge(&config, initial_seed(recipe))?)
    }

    /// The bridge of the stage-2 checkpoint `saved`.
    ///
    /// # Errors
    /// When it can't be used, or was trained towards another language model or with another image encoder.
    pub async fn trained_bridge(&self, saved: &Saved, device: Device) -> Result<Bridge, TrainError> {
        let bridge = saved.bridge(device).await?;
        self.fits(saved, bridge.config.qformer.encoder_width)?;
        match &saved.state.language_model {
            Some(trained) if *trained == self.language_identity => Ok(bridge),
            trained => Err(saved.unfit(format!(
                "it was trained towards {trained:?}, but the recipe names {:?}",
                self.language_identity
            ))),
        }
    }

    fn fits(&self, saved: &Saved, width: i64) -> Result<(), TrainError> {
        match width == self.encoder.width() {
            true => Ok(()),
            false => Err(saved.unfit(format!(
                "its Q-Former reads image features of width {width}, but the recipe's image encoder gives {}; name the \
                 encoder that it was trained with",
                self.encoder.width()
            ))),
        }
    }

    /// What the loop needs of the recipe, to train `bridge`.
    ///
    /// # Errors
    /// When the batch is too small for the ranks.
    pub fn plan(&self, recipe: &Recipe, bridge: &Bridge, ranks: usize) -> Result<Plan, TrainError> {
        let stage2 = section(recipe)?;
        if (stage2.batch as usize) < ranks {
            let batch = stage2.batch;
            return Err(TrainError::Recipe(format!("stage2.batch is {batch}, but {ranks} ranks need a row each")));
        }
        let trained =
            Trained::Bridge { config: bridge.config.qformer.clone(), language_model: self.language_identity.clone() };
        Ok(Plan {
            steps: stage2.steps,
            checkpoint_every: stage2.checkpoint_every,
            optimiser: stage2.optimiser,
            identity: Identity { seed: recipe.seed, batch: stage2.batch, recipe_hash: recipe.hash(), trained },
        })
    }
}

/// The recipe's stage 2.
pub(crate) fn section(recipe: &Recipe) -> Result<&Section, TrainError> {
    recipe.stage2.as_ref().ok_or_else(|| TrainError::Recipe("there is no `stage2` section to train by".into()))
}

/// The image encoder, and the side of its images: stage 2's own or stage 1's.
pub(crate) fn encoder_of<'a>(recipe: &'a Recipe, stage2: &'a Section) -> Result<(&'a str, Option<u32>), TrainError> {
    let stage1 = recipe.stage1.as_ref();
    let encoder = stage2.image_encoder.as_ref().or(stage1.map(|stage1| &stage1.image_encoder));
    let missing =
        || TrainError::Recipe("stage2.image_encoder is not given, and there is no stage 1 to take it from".into());
    let side = stage2.image_size.or(stage1.and_then(|stage1| stage1.image_size));
    Ok((encoder.ok_or_else(missing)?, side))
}

/// The GELU of the recipe's T5.
pub(crate) fn gelu_of(stage2: &Section) -> T5Gelu {
    match stage2.t5_gelu {
        RecipeGelu::Config => T5Gelu::Config,
        RecipeGelu::Lavis => T5Gelu::Lavis,
    }
}

fn last_component(path: &str) -> String {
    path.trim_end_matches('/').rsplit('/').next().unwrap_or_default().to_string()
}

/// Stage 2 as the loop trains it.
pub struct Stage2 {
    /// What is trained.
    pub bridge: Bridge,
    /// What it is trained towards.
    pub language_model: Box<dyn LanguageModel>,
    /// Over what the loss's mean is taken.
    pub mean: LanguageMean,
    /// Seed of every keyed draw.
    pub seed: u64,
    /// Whether the language model's layers are computed again in the backward pass.
    pub recompute: bool,
}

impl Stage for Stage2 {
    type Batch = BridgeBatch;

    fn parameters(&self) -> &Parameters {
        self.bridge.parameters()
    }

    fn device(&self) -> Device {
        self.bridge.device()
    }

    fn gradient(
        &self,
        batch: &BridgeBatch,
        collective: &dyn Collective,
        step: u64,
    ) -> Result<Gradient, CollectiveError> {
        let Stage2 { mean, seed, recompute, .. } = *self;
        let options = BridgeOptions { mean, seed, step, recompute, probes: false };
        let output = bridge_step(&self.bridge, &*self.language_model, batch, collective, &options)?;
        Ok(Gradient { tensors: output.gradients, losses: StageLosses::Stage2 { lm: output.loss } })
    }
}

/// Where a rank begins.
#[derive(Debug, Clone, Copy)]
pub enum Beginning<'a> {
    /// At the first step, from this stage-1 checkpoint: below the output, or a location of its own.
    Stage1(&'a str),
    /// Where this accepted stage-2 checkpoint, below the output, stands.
    Checkpoint(&'a str),
}

/// Carries out the recipe's stage 2 on one rank, as [`stage1::run`](crate::stage1::run) does stage 1.
///
/// # Errors
/// See [`TrainError`]; after any of them the world is aborted, so that no peer waits for this rank.
pub fn run(
    recipe: &Recipe,
    collective: &dyn Collective,
    beginning: Beginning,
    device: Device,
    control: &mut dyn Control,
) -> Result<Outcome, TrainError> {
    on_rank(collective, || {
        tch::set_num_threads(recipe.cluster.threads as i32);
        let runtime = runtime()?;
        let output = store::open(&recipe.output)?;
        let setup = BridgeSetup::load(recipe, device)?;
        let (bridge, saved) = begin(&setup, recipe, &output, &runtime, beginning, device)?;
        let plan = setup.plan(recipe, &bridge, collective.size())?;
        let options = AdamWOptions::from(&plan.optimiser);
        let stage2 = section(recipe)?;
        let stage = Stage2 {
            bridge,
            language_model: setup.language_model,
            mean: Semantics::from(stage2.semantics).language_mean,
            seed: recipe.seed,
            recompute: stage2.recompute,
        };
        let mut trainee = match saved {
            None => Trainee::new(stage, options),
            Some(saved) => {
                saved.must_be_of(&plan.identity)?;
                runtime.block_on(saved.resume(stage, options, device))?
            }
        };
        let feed = Feed { texts: setup.texts, images: setup.images, encoder: setup.encoder, batch: stage2.batch };
        let mut loader = Loader::start(recipe, feed, trainee.step..plan.steps, collective, device)?;
        train(&mut trainee, &mut loader, collective, &plan, &output, &runtime, control)
    })
}

fn begin(
    setup: &BridgeSetup,
    recipe: &Recipe,
    output: &Folder,
    runtime: &Runtime,
    beginning: Beginning,
    device: Device,
) -> Result<(Bridge, Option<Saved>), TrainError> {
    match beginning {
        Beginning::Stage1(path) => {
            let stage1 = checkpoint::find(runtime, output, path, device)?;
            Ok((setup.initial_bridge(recipe, runtime, stage1, device)?, None))
        }
        Beginning::Checkpoint(path) => {
            let saved = runtime.block_on(checkpoint::open(output, path))?;
            Ok((runtime.block_on(setup.trained_bridge(&saved, device))?, Some(saved)))
        }
    }
}
