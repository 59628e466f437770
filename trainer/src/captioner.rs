//! Captions and answers by a trained checkpoint: stage 2's through its frozen language model, stage 1's by its own text
//! decoder (ITG).

use quern_corpus::images::RgbImage;
use quern_corpus::store;
use quern_corpus::{Keyed, Purpose};
use quern_models::blip2::Writer;
use quern_models::generate::GenerationOptions;
use quern_models::language::LanguageModel;
use quern_models::qformer::foreign::{self, Absent};
use quern_models::qformer::{Bridge, Dropout, QFormer};
use quern_recipes::Recipe;
use tch::{Device, Kind, Tensor, no_grad};

use crate::checkpoint::{self, Found};
use crate::error::TrainError;
use crate::language_texts::LanguageTexts;
use crate::setup::{Setup, TextEncoder};
use crate::stage2::BridgeSetup;
use crate::training::{StageName, runtime};
use crate::vision::{FrozenEncoder, ImageTransform};

/// Images that are captioned together.
pub const BATCH: usize = 32;

/// Which weights write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weights<'a> {
    /// Those of a checkpoint of either stage, of quern's or others': a path below the recipe's output, or a location of
    /// its own.
    Trained(&'a str),
    /// Those that stage 2 begins with, from this checkpoint of stage 1.
    BeforeStage2(&'a str),
}

/// An image and what is asked about it.
pub struct Subject<'a> {
    /// The image.
    pub image: &'a RgbImage,
    /// What the text goes on from; none: the recipe's prompt.
    pub prompt: Option<&'a str>,
    /// What its draws are keyed by.
    pub key: u64,
}

/// A frozen image encoder, trained weights, and what turns their outputs into texts.
pub struct Captioner {
    images: ImageTransform,
    encoder: FrozenEncoder,
    model: Model,
    /// Steps that quern trained the weights; none for untrained ones and for others' checkpoints.
    pub step: Option<u64>,
}

enum Model {
    Stage1 { qformer: Box<QFormer>, texts: TextEncoder },
    Stage2 { bridge: Box<Bridge>, language_model: Box<dyn LanguageModel>, texts: LanguageTexts },
}

impl Captioner {
    /// Reads the models that the recipe names, and the weights.
    ///
    /// # Errors
    /// When a model's files or the checkpoint can't be used, or don't fit together.
    pub fn load(recipe: &Recipe, weights: Weights, device: Device) -> Result<Self, TrainError> {
        tch::set_num_threads(recipe.cluster.threads as i32);
        let runtime = runtime()?;
        let output = store::open(&recipe.output)?;
        let saved = match weights {
            Weights::BeforeStage2(stage1) => {
                let setup = BridgeSetup::load(recipe, device)?;
                let stage1 = checkpoint::find(&runtime, &output, stage1, device)?;
                let bridge = setup.initial_bridge(recipe, &runtime, stage1, device)?;
                return Ok(Self::of_stage2(setup, bridge, None));
            }
            Weights::Trained(path) => match checkpoint::find(&runtime, &output, path, device)? {
                Found::Own(saved) => *saved,
                Found::Foreign(checkpoint) => return Self::foreign(recipe, *checkpoint, device),
            },
        };
        let step = Some(saved.state.step);
        match saved.state.stage {
            StageName::Stage1 => {
                let setup = Setup::load(recipe, device)?;
                let qformer = runtime.block_on(setup.trained_model(&saved, device))?;
                Ok(Self::of_stage1(setup, qformer, step))
            }
            StageName::Stage2 => {
                let setup = BridgeSetup::load(recipe, device)?;
                let bridge = runtime.block_on(setup.trained_bridge(&saved, device))?;
                Ok(Self::of_stage2(setup, bridge, step))
            }
        }
    }

    /// LAVIS' and Hugging Face's checkpoints.
    fn foreign(recipe: &Recipe, checkpoint: foreign::Checkpoint, device: Device) -> Result<Self, TrainError> {
        if checkpoint.is_of_stage2() {
            let setup = BridgeSetup::load(recipe, device)?;
            let bridge = setup.foreign_bridge(recipe, checkpoint)?;
            return Ok(Self::of_stage2(setup, bridge, None));
        }
        let setup = Setup::load(recipe, device)?;
        let qformer = setup.foreign_model(checkpoint, Absent::Refused)?;
        Ok(Self::of_stage1(setup, qformer, None))
    }

    fn of_stage1(setup: Setup, qformer: QFormer, step: Option<u64>) -> Self {
        let Setup { texts, images, encoder, .. } = setup;
        Captioner { images, encoder, model: Model::Stage1 { qformer: Box::new(qformer), texts }, step }
    }

    fn of_stage2(setup: BridgeSetup, bridge: Bridge, step: Option<u64>) -> Self {
        let BridgeSetup { language_model, texts, images, encoder, .. } = setup;
        let model = Model::Stage2 { bridge: Box::new(bridge), language_model, texts };
        Captioner { images, encoder, model, step }
    }

    /// Whether the model takes `prompt`.
    ///
    /// # Errors
    /// When it has no room for it, or takes none.
    pub fn check_prompt(&self, prompt: Option<&str>, options: &GenerationOptions) -> Result<(), TrainError> {
        match (&self.model, prompt) {
            (_, None) => Ok(()),
            (Model::Stage1 { .. }, Some(prompt)) => Err(TrainError::NoPrompts { prompt: prompt.into() }),
            (Model::Stage2 { bridge, language_model, texts }, Some(prompt)) => {
                let queries = bridge.config.qformer.num_query_token;
                Ok(writer(&**language_model, texts).check(queries, prompt, options)?)
            }
        }
    }

    /// What the model says about each of `subjects`, at most [`BATCH`] of which are sensible at a time. A subject's text
    /// does not depend on the others.
    ///
    /// # Errors
    /// When a prompt has no room in the model, or the model takes none.
    pub fn caption(
        &self,
        subjects: &[Subject],
        options: &GenerationOptions,
        seed: u64,
    ) -> Result<Vec<String>, TrainError> {
        if subjects.is_empty() {
            return Ok(Vec::new());
        }
        subjects.iter().try_for_each(|subject| self.check_prompt(subject.prompt, options))?;
        let (pixels, ()) = self.images.filled(subjects.len(), |pixels| {
            for (subject, out) in subjects.iter().zip(pixels.chunks_mut(self.images.numbers())) {
                self.images.evaluate(subject.image, out);
            }
        });
        let streams: Vec<Keyed> =
            subjects.iter().map(|subject| Keyed::new(seed, subject.key, Purpose::CaptionToken, 0)).collect();
        let mut uniforms = |lane: usize, step: usize| streams[lane].uniform(step as u64);
        no_grad(|| {
            let frozen = self.encoder.features(&pixels).to_kind(Kind::Float);
            match &self.model {
                Model::Stage1 { qformer, texts } => {
                    let mut decoder = qformer.captioning(&qformer.image_memory(&frozen));
                    let ids = (Kind::Int64, qformer.device());
                    let start = Tensor::full([subjects.len() as i64, 1], texts.decoder_start, ids);
                    let written = options.generate(&mut decoder, &start, texts.ends(), &mut uniforms);
                    Ok(written.iter().map(|ids| texts.tokenizer.decode(ids).trim().to_string()).collect())
                }
                Model::Stage2 { bridge, language_model, texts } => {
                    let visual = bridge.visual_tokens(&frozen, &Dropout::OFF);
                    let prompts: Vec<&str> =
                        subjects.iter().map(|subject| subject.prompt.unwrap_or(texts.prompt())).collect();
                    let writer = writer(&**language_model, texts);
                    Ok(writer.write(&visual, &prompts, options, &mut uniforms)?)
                }
            }
        })
    }
}

fn writer<'a>(language_model: &'a dyn LanguageModel, texts: &'a LanguageTexts) -> Writer<'a> {
    Writer { language_model, tokenizer: &texts.tokenizer }
}
