//! A checkpoint as a folder that other tools load: the weights (`quern_models::export`), what goes with them
//! (`processor`), and a model card (`card`).
//!
//! The folder appears under its name when all of it is written.

mod card;
mod processor;

use std::path::{Path, PathBuf};

use quern_capfilt::Manifest;
use quern_corpus::store;
use quern_models::export::{self, LanguagePart, LavisFile, VisionPart};
use quern_models::qformer::{Bridge, Projection, QFormer};
use quern_models::source;
use quern_models::tokenize::Tokenizer;
use quern_recipes::Recipe;
use serde_json::Value;
use tch::Device;

use crate::checkpoint::{self, Saved};
use crate::error::TrainError;
use crate::language_texts::NEWLINE;
use crate::training::{StageName, runtime};
use crate::{setup, stage2};

use card::Card;

/// LAVIS' file in an export.
const LAVIS_NAME: &str = "model";
/// More than the newline is encoded as, special tokens counted.
const TOKENS_OF_NEWLINE: usize = 8;

/// What an export is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// transformers: `Blip2ForImageTextRetrieval` of stage 1, `Blip2ForConditionalGeneration` of stage 2.
    HuggingFace,
    /// transformers' `Blip2QFormerModel`, of stage 1 alone, whatever the image encoder.
    HuggingFaceBlocks,
    /// LAVIS.
    Lavis(LavisFile),
}

/// What is to be exported.
#[derive(Debug)]
pub struct Request<'a> {
    /// A checkpoint: a path below the recipe's output, or a location of its own.
    pub checkpoint: &'a str,
    /// The recipe that it was trained by.
    pub recipe: &'a Recipe,
    /// The folder to write; there must be nothing there.
    pub out: &'a Path,
    /// For whom.
    pub form: Form,
    /// Weights are cut into files of at most this size.
    pub max_shard_bytes: u64,
    /// An evaluation's JSON, for the model card.
    pub metrics: Option<Value>,
}

/// Writes the export; blocks, and must not be called on a thread that drives async tasks.
///
/// # Errors
/// When the checkpoint or a model that the recipe names can't be read, when the form can't hold what was trained, or when
/// the file system refuses.
pub fn export(request: Request) -> Result<(), TrainError> {
    let runtime = runtime()?;
    let recipe = request.recipe;
    let output = store::open(&recipe.output)?;
    let saved = runtime.block_on(checkpoint::open(&output, request.checkpoint))?;
    let captioned = store::open(recipe.captioned())?;
    let manifest = runtime.block_on(Manifest::read(&captioned)).ok();
    let unfinished = Unfinished::begin(request.out)?;
    let folder = &unfinished.folder;
    let weights = Weights { saved: &saved, recipe, folder, max_shard_bytes: request.max_shard_bytes };
    match (request.form, saved.state.stage) {
        (Form::Lavis(file), StageName::Stage1) => {
            let model = runtime.block_on(saved.qformer(Device::Cpu))?;
            export::lavis(&folder.join(lavis_name(file)), model.parameters(), file)?;
        }
        (Form::Lavis(file), StageName::Stage2) => {
            let model = runtime.block_on(saved.bridge(Device::Cpu))?;
            export::lavis(&folder.join(lavis_name(file)), model.parameters(), file)?;
        }
        (Form::HuggingFace, StageName::Stage1) => weights.retrieval(&runtime.block_on(saved.qformer(Device::Cpu))?)?,
        (Form::HuggingFace, StageName::Stage2) => weights.generation(&runtime.block_on(saved.bridge(Device::Cpu))?)?,
        (Form::HuggingFaceBlocks, StageName::Stage1) => {
            let model = runtime.block_on(saved.qformer(Device::Cpu))?;
            export::qformer(folder, &model, weights.decoder_start()?)?;
            processor::bert_tokenizer(folder, &weights.tokenizer()?, model.config.max_position_embeddings)?;
        }
        (Form::HuggingFaceBlocks, StageName::Stage2) => {
            return Err(saved.unfit("stage 2's blocks are exported with their language model: leave out --part".into()));
        }
    }
    let card = Card { form: request.form, saved: &saved, recipe, manifest, metrics: request.metrics };
    write(&folder.join("README.md"), &card.text())?;
    unfinished.finish()
}

fn lavis_name(file: LavisFile) -> String {
    let extension = match file {
        LavisFile::Pickle => "pth",
        LavisFile::Safetensors => "safetensors",
    };
    format!("{LAVIS_NAME}.{extension}")
}

/// What a Hugging Face folder is written from.
struct Weights<'a> {
    saved: &'a Saved,
    recipe: &'a Recipe,
    folder: &'a Path,
    max_shard_bytes: u64,
}

impl Weights<'_> {
    fn retrieval(&self, model: &QFormer) -> Result<(), TrainError> {
        let stage1 = setup::section(self.recipe)?;
        let encoder = source::fetch(&stage1.image_encoder)?;
        let vision = VisionPart::open(&encoder, stage1.image_size.map(i64::from))?;
        export::retrieval(self.folder, model, self.decoder_start()?, &vision, self.max_shard_bytes)?;
        processor::bert_tokenizer(self.folder, &self.tokenizer()?, model.config.max_position_embeddings)?;
        processor::images(self.folder, &encoder, stage1.image_size, None)
    }

    fn generation(&self, model: &Bridge) -> Result<(), TrainError> {
        let stage2 = stage2::section(self.recipe)?;
        let (encoder, side) = stage2::encoder_of(self.recipe, stage2)?;
        let encoder = source::fetch(encoder)?;
        let folder = source::fetch(&stage2.language_model)?;
        let mut tokenizer = Tokenizer::load(&folder)?;
        let image_token = tokenizer.add_special_token(processor::IMAGE_TOKEN);
        let vision = VisionPart::open(&encoder, side.map(i64::from))?;
        let mut language = LanguagePart::open(&folder, image_token, stage2::gelu_of(stage2))?;
        if model.config.projection == Projection::Opt
            && let Some(newline) = tokenizer.encode(NEWLINE, TOKENS_OF_NEWLINE).pop()
        {
            language.end_with(newline);
        }
        export::generation(self.folder, model, &vision, &language, self.max_shard_bytes)?;
        processor::language_tokenizer(self.folder, &folder, &tokenizer)?;
        processor::images(self.folder, &encoder, side, Some(model.config.qformer.num_query_token))
    }

    fn decoder_start(&self) -> Result<i64, TrainError> {
        let start = self.saved.state.decoder_start;
        start.ok_or_else(|| self.saved.unfit("its state does not say which token is [DEC]".into()))
    }

    /// Stage 1's, with `[DEC]`, which must be the token that the checkpoint was trained with.
    fn tokenizer(&self) -> Result<Tokenizer, TrainError> {
        let stage1 = setup::section(self.recipe)?;
        let mut tokenizer = Tokenizer::load(&source::fetch(&stage1.tokenizer)?)?;
        let found = tokenizer.add_special_token(setup::DECODER_START);
        match self.decoder_start()? {
            expected if expected == found => Ok(tokenizer),
            expected => Err(self.saved.unfit(format!(
                "it was trained with [DEC] as token {expected}, but in the recipe's tokenizer it is {found}"
            ))),
        }
    }
}

/// A folder beside the one that is wanted, until it is complete.
struct Unfinished<'a> {
    folder: PathBuf,
    out: &'a Path,
}

impl<'a> Unfinished<'a> {
    fn begin(out: &'a Path) -> Result<Self, TrainError> {
        if std::fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_some()) || out.is_file() {
            return Err(TrainError::Export(format!("{} is there already; name a new folder", out.display())));
        }
        let mut name = out.file_name().unwrap_or_default().to_os_string();
        name.push(".partial");
        let folder = out.with_file_name(name);
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).map_err(|error| refused(&folder, &error))?;
        Ok(Unfinished { folder, out })
    }

    fn finish(self) -> Result<(), TrainError> {
        let _ = std::fs::remove_dir(self.out);
        std::fs::rename(&self.folder, self.out).map_err(|error| refused(self.out, &error))
    }
}

fn write(path: &Path, text: &str) -> Result<(), TrainError> {
    std::fs::write(path, text).map_err(|error| refused(path, &error))
}

fn refused(path: &Path, error: &std::io::Error) -> TrainError {
    TrainError::Export(format!("cannot write {}: {error}", path.display()))
}
