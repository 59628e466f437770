//! `quern-worker caption`: what a checkpoint says about image files, or about the images of a parquet.
//!
//! An image that can't be used is said on standard error and left out; the others are captioned all the same.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use clap::Args;
use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use quern_corpus::RowId;
use quern_corpus::annotated::{AnnotatedColumns, read_annotated};
use quern_corpus::images::{RgbImage, decode};
use quern_recipes::{Columns, ImageLimits, Recipe};
use quern_trainer::captioner::{BATCH, Captioner, Subject, Weights};
use serde_json::json;

use crate::checkpoint::{self, Located};
use crate::generation::GenerationArguments;
use crate::torch;

/// Arguments of `caption`.
#[derive(Debug, Args)]
pub struct CaptionArguments {
    /// Image files: JPEG, PNG or WebP.
    #[arg(value_name = "IMAGE", required_unless_present = "dataset", conflicts_with = "dataset")]
    images: Vec<PathBuf>,
    /// A checkpoint's folder or URL, by itself or below the recipe's output, LAVIS' .pth, or a Hugging Face folder. Stage
    /// 2's answers through its language model, stage 1's writes captions.
    #[arg(long)]
    checkpoint: String,
    /// The recipe that it was trained by; default: as the manifest of its output states it.
    #[arg(long)]
    recipe: Option<PathBuf>,
    /// What the text goes on from, such as "Question: what is it? Answer:"; default: the recipe's `stage2.prompt`.
    #[arg(long)]
    prompt: Option<String>,
    /// Instead of files: the images of a parquet file, a folder of them or a URL.
    #[arg(long, value_name = "URL")]
    dataset: Option<String>,
    /// The data set's column of prompts; where it is null, --prompt holds.
    #[arg(long, value_name = "COLUMN", requires = "dataset")]
    prompt_column: Option<String>,
    /// The data set's column of images; default: that of the recipe's first data set.
    #[arg(long, value_name = "COLUMN", requires = "dataset")]
    image_column: Option<String>,
    /// Images of the data set at most.
    #[arg(long, requires = "dataset")]
    limit: Option<usize>,
    #[command(flatten)]
    generation: GenerationArguments,
    /// auto, cpu or cuda:N.
    #[arg(long, default_value = "auto")]
    device: String,
    /// Prints a JSON object per line: image, key, prompt, caption.
    #[arg(long)]
    json: bool,
}

/// Captions and prints.
///
/// # Errors
/// One sentence, also when some of the images could not be used.
pub fn run(arguments: CaptionArguments) -> Result<(), String> {
    let device = torch::device(&arguments.device)?;
    let Located { recipe, checkpoint } = checkpoint::locate(&arguments.checkpoint, arguments.recipe.as_deref())?;
    let captioner =
        Captioner::load(&recipe, Weights::Trained(&checkpoint), device).map_err(|error| error.to_string())?;
    let (options, seed) = (arguments.generation.options(), arguments.generation.seed);
    let runtime = checkpoint::runtime()?;
    let mut batches = runtime.block_on(rows(&arguments, &recipe))?.chunks(BATCH);
    let (mut seen, mut lost) = (0, 0);
    while let Some(batch) = runtime.block_on(batches.next()) {
        let mut usable = Vec::with_capacity(batch.len());
        for row in batch {
            seen += 1;
            let fits = |image: Image| match captioner.check_prompt(image.prompt.as_deref(), &options) {
                Ok(()) => Ok(image),
                Err(error) => Err(Unusable::Image(format!("{}: {error}", image.name))),
            };
            match row.and_then(|row| row.decoded(&recipe.limits)).and_then(fits) {
                Ok(image) => usable.push(image),
                Err(Unusable::Image(reason)) => {
                    quern_telemetry::say_failure("quern-worker", &reason);
                    lost += 1;
                }
                Err(Unusable::Everything(reason)) => return Err(reason),
            }
        }
        let subjects: Vec<Subject> = usable.iter().map(Image::subject).collect();
        let captions = captioner.caption(&subjects, &options, seed).map_err(|error| error.to_string())?;
        for (image, caption) in usable.iter().zip(captions) {
            image.print(&caption, arguments.json);
        }
    }
    match lost {
        0 => Ok(()),
        _ => Err(format!("{lost} of {seen} images have no caption; the reasons are above")),
    }
}

/// Why an image gets no caption.
enum Unusable {
    /// It is to blame, or its prompt is.
    Image(String),
    /// Nothing that follows can be read either.
    Everything(String),
}

/// An encoded image.
struct Row {
    name: String,
    key: Option<String>,
    draws: u64,
    prompt: Option<String>,
    bytes: Bytes,
}

type Rows = BoxStream<'static, Result<Row, Unusable>>;

async fn rows(arguments: &CaptionArguments, recipe: &Recipe) -> Result<Rows, String> {
    let prompt = arguments.prompt.clone();
    let Some(path) = &arguments.dataset else {
        return Ok(stream::iter(arguments.images.clone()).map(move |path| read(&path, prompt.clone())).boxed());
    };
    let own = recipe.datasets.first().map_or_else(Columns::default, |dataset| dataset.columns.clone());
    let columns = AnnotatedColumns {
        image: arguments.image_column.clone().unwrap_or(own.image),
        texts: arguments.prompt_column.iter().cloned().collect(),
        key: own.key,
    };
    let rows = read_annotated(path, &columns).await.map_err(|error| error.to_string())?;
    let rows = rows.map(move |row| {
        let row = row.map_err(|error| Unusable::Everything(error.to_string()))?;
        let name = row.id.to_string();
        let Some(bytes) = row.image else { return Err(Unusable::Image(format!("{name}: there is no image"))) };
        let prompt = row.texts.into_iter().next().or_else(|| prompt.clone());
        Ok(Row { name, key: row.key, draws: row.id.key(), prompt, bytes })
    });
    Ok(rows.take(arguments.limit.unwrap_or(usize::MAX)).boxed())
}

fn read(path: &Path, prompt: Option<String>) -> Result<Row, Unusable> {
    let name = path.display().to_string();
    let bytes = std::fs::read(path).map_err(|error| Unusable::Image(format!("{name} can't be read: {error}")))?;
    let id = RowId { dataset: "files".into(), file: name.as_str().into(), row: 0 };
    Ok(Row { name, key: None, draws: id.key(), prompt, bytes: bytes.into() })
}

impl Row {
    fn decoded(self, limits: &ImageLimits) -> Result<Image, Unusable> {
        let Row { name, key, draws, prompt, bytes } = self;
        match decode(&bytes, limits) {
            Ok(pixels) => Ok(Image { name, key, draws, prompt, pixels }),
            Err(error) => Err(Unusable::Image(format!("{name}: {error}"))),
        }
    }
}

/// An image that can be captioned.
struct Image {
    name: String,
    key: Option<String>,
    draws: u64,
    prompt: Option<String>,
    pixels: RgbImage,
}

impl Image {
    fn subject(&self) -> Subject<'_> {
        Subject { image: &self.pixels, prompt: self.prompt.as_deref(), key: self.draws }
    }

    fn print(&self, caption: &str, as_json: bool) {
        let Image { name, key, prompt, .. } = self;
        match as_json {
            true => println!("{}", json!({"image": name, "key": key, "prompt": prompt, "caption": caption})),
            false => println!("{name}\t{}", caption.replace('\n', " ")),
        }
    }
}
