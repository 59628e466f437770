//! Captions of a held-out set beside people's (BLIP-2 §4.2, with pycocoevalcap's metrics).

use std::sync::atomic::AtomicBool;

use quern_corpus::images::decode;
use quern_models::generate::GenerationOptions;
use quern_recipes::Recipe;
use serde::Serialize;
use tch::Device;

use super::held_out::{self, HeldOut};
use super::metrics::{Judged, bleu, cider, tokenise};
use super::{Estimate, heed};
use crate::captioner::{BATCH, Captioner, Subject, Weights};
use crate::error::TrainError;
use crate::training::runtime;

/// How captions are made.
#[derive(Debug, Clone, PartialEq)]
pub struct CaptionOptions {
    /// Images at most.
    pub limit: Option<usize>,
    /// What captions go on from; none: the recipe's prompt.
    pub prompt: Option<String>,
    /// How they are found.
    pub generation: GenerationOptions,
    /// Seed of what is drawn.
    pub seed: u64,
}

/// How good captions are, in pycocoevalcap's names.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CaptionReport {
    /// Images.
    pub n: usize,
    /// Whose weights these are, as they were named; none for an untrained model.
    pub checkpoint: Option<String>,
    /// Steps that quern trained them.
    pub step: Option<u64>,
    /// The mean over images, from 0 to 10 (papers print a hundred times this); its standard error is over images, the
    /// document frequencies taken as given.
    #[serde(rename = "CIDEr")]
    pub cider: Estimate,
    /// Of the corpus, from 0 to 1.
    #[serde(rename = "Bleu_1")]
    pub bleu_1: f64,
    /// Of the corpus.
    #[serde(rename = "Bleu_2")]
    pub bleu_2: f64,
    /// Of the corpus.
    #[serde(rename = "Bleu_3")]
    pub bleu_3: f64,
    /// Of the corpus.
    #[serde(rename = "Bleu_4")]
    pub bleu_4: f64,
    /// Each image's, in the order of the data set.
    pub captions: Vec<CaptionedImage>,
}

/// One image's caption.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CaptionedImage {
    /// Its row: data set, file, index.
    pub row: String,
    /// Its key, if it has one.
    pub key: Option<String>,
    /// What was generated.
    pub caption: String,
    /// What people wrote.
    pub references: Vec<String>,
    /// Its CIDEr.
    #[serde(rename = "CIDEr")]
    pub cider: f64,
}

/// Captions the images of the parquet at `path` and compares with theirs, which are as
/// [`retrieval`](super::retrieval::retrieval) reads them. It ends between two batches when `stop` is raised.
///
/// # Errors
/// See [`TrainError`].
pub fn captions(
    weights: Weights,
    recipe: &Recipe,
    path: &str,
    options: &CaptionOptions,
    device: Device,
    stop: &AtomicBool,
) -> Result<CaptionReport, TrainError> {
    let captioner = Captioner::load(recipe, weights, device)?;
    let held_out = runtime()?.block_on(held_out::read(recipe, path, options.limit))?;
    let mut written = Vec::with_capacity(held_out.len());
    for batch in held_out.chunks(BATCH) {
        heed(stop)?;
        let decoded = |one: &HeldOut| {
            decode(&one.image, &recipe.limits).map_err(|source| TrainError::Image { row: one.id.clone(), source })
        };
        let images = batch.iter().map(decoded).collect::<Result<Vec<_>, _>>()?;
        let prompt = options.prompt.as_deref();
        let subjects: Vec<Subject> =
            (batch.iter().zip(&images)).map(|(one, image)| Subject { image, prompt, key: one.id.key() }).collect();
        written.extend(captioner.caption(&subjects, &options.generation, options.seed)?);
    }
    let trained = match weights {
        Weights::Trained(checkpoint) => Some(checkpoint.to_owned()),
        Weights::BeforeStage2(_) => None,
    };
    Ok(report(trained, captioner.step, held_out, written))
}

fn report(
    checkpoint: Option<String>,
    step: Option<u64>,
    held_out: Vec<HeldOut>,
    written: Vec<String>,
) -> CaptionReport {
    let judged: Vec<Judged> = (held_out.iter().zip(&written))
        .map(|(one, caption)| Judged {
            hypothesis: tokenise(caption),
            references: one.captions.iter().map(|reference| tokenise(reference)).collect(),
        })
        .collect();
    let scores = cider(&judged);
    let [bleu_1, bleu_2, bleu_3, bleu_4] = bleu(&judged);
    let captions = (held_out.into_iter().zip(written).zip(&scores))
        .map(|((one, caption), &cider)| CaptionedImage {
            row: one.id.to_string(),
            key: one.key,
            caption,
            references: one.captions,
            cider,
        })
        .collect();
    let cider = Estimate::mean(&scores);
    CaptionReport { n: judged.len(), checkpoint, step, cider, bleu_1, bleu_2, bleu_3, bleu_4, captions }
}
