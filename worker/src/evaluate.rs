//! `quern-worker eval …`: how well a checkpoint's image and text features find each other, and how good its captions
//! are.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use clap::{Args, Subcommand};
use quern_recipes::Recipe;
use quern_trainer::captioner::Weights;
use quern_trainer::eval::Estimate;
use quern_trainer::eval::captions::{CaptionOptions, CaptionReport, captions};
use quern_trainer::eval::retrieval::{Direction, RERANK, RetrievalOptions, RetrievalReport, retrieval};
use serde::Serialize;

use crate::generation::GenerationArguments;
use crate::{checkpoint, torch};

/// What can be measured.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Image→text and text→image R@1/5/10 on images with their captions, by ITC alone and with ITM's judgement.
    Retrieval(RetrievalArguments),
    /// CIDEr and BLEU of a checkpoint's captions, against people's.
    Caption(CaptionArguments),
}

/// What every evaluation is told.
#[derive(Debug, Args)]
struct Subject {
    /// The recipe that the checkpoint was trained by: image encoder, tokenizer, sizes.
    #[arg(long)]
    recipe: PathBuf,
    /// A parquet file, a folder of them or a URL: images with one caption per row, or a list column `captions`; rows of
    /// one key are one image.
    #[arg(long)]
    dataset: String,
    /// Images at most.
    #[arg(long)]
    limit: Option<usize>,
    /// auto, cpu or cuda:N.
    #[arg(long, default_value = "auto")]
    device: String,
    /// Prints JSON, with every query's or image's own result.
    #[arg(long)]
    json: bool,
}

/// Arguments of `eval retrieval`.
#[derive(Debug, Args)]
pub struct RetrievalArguments {
    #[command(flatten)]
    subject: Subject,
    /// A checkpoint's folder or URL, by itself or below the recipe's output, LAVIS' .pth, or a Hugging Face folder; none:
    /// the untrained model.
    #[arg(long)]
    checkpoint: Option<String>,
    /// Each query's candidates that ITM judges; 0: ITC alone.
    #[arg(long, default_value_t = RERANK, value_name = "K")]
    rerank: usize,
}

/// Arguments of `eval caption`.
#[derive(Debug, Args)]
pub struct CaptionArguments {
    #[command(flatten)]
    subject: Subject,
    /// A checkpoint's folder or URL, by itself or below the recipe's output, LAVIS' .pth, or a Hugging Face folder: stage
    /// 2's, or stage 1's with its own decoder.
    #[arg(long, required_unless_present = "before_stage2")]
    checkpoint: Option<String>,
    /// Instead: this checkpoint of stage 1 with the projection that stage 2 begins with, untrained.
    #[arg(long, value_name = "CHECKPOINT", conflicts_with = "checkpoint")]
    before_stage2: Option<String>,
    /// What captions go on from; default: the recipe's `stage2.prompt`.
    #[arg(long)]
    prompt: Option<String>,
    #[command(flatten)]
    generation: GenerationArguments,
}

/// Measures and prints.
pub fn run(command: Command) -> Result<(), String> {
    match command {
        Command::Retrieval(arguments) => evaluate_retrieval(arguments),
        Command::Caption(arguments) => evaluate_captions(arguments),
    }
}

fn evaluate_retrieval(RetrievalArguments { subject, checkpoint, rerank }: RetrievalArguments) -> Result<(), String> {
    let (device, recipe) = (torch::device(&subject.device)?, subject.recipe()?);
    let checkpoint = checkpoint.map(|named| checkpoint::place(&named));
    let options = RetrievalOptions { limit: subject.limit, rerank };
    let report = retrieval(checkpoint.as_deref(), &recipe, &subject.dataset, options, device, &AtomicBool::new(false))
        .map_err(|e| e.to_string())?;
    print(&subject, &report, print_retrieval)
}

fn evaluate_captions(arguments: CaptionArguments) -> Result<(), String> {
    let CaptionArguments { subject, checkpoint, before_stage2, prompt, generation } = arguments;
    let (device, recipe) = (torch::device(&subject.device)?, subject.recipe()?);
    let place = checkpoint.as_ref().or(before_stage2.as_ref()).map(|named| checkpoint::place(named));
    let place = place.expect("clap asks for one of the two");
    let weights = if checkpoint.is_some() { Weights::Trained(&place) } else { Weights::BeforeStage2(&place) };
    let options =
        CaptionOptions { limit: subject.limit, prompt, generation: generation.options(), seed: generation.seed };
    let report = captions(weights, &recipe, &subject.dataset, &options, device, &AtomicBool::new(false))
        .map_err(|e| e.to_string())?;
    print(&subject, &report, print_captions)
}

impl Subject {
    fn recipe(&self) -> Result<Recipe, String> {
        Recipe::read(&self.recipe).map_err(|error| error.to_string())
    }
}

/// The report as JSON, or as `for_people` prints it.
fn print<R: Serialize>(subject: &Subject, report: &R, for_people: fn(&R)) -> Result<(), String> {
    match subject.json {
        true => print!("{}", json(report)?),
        false => for_people(report),
    }
    Ok(())
}

/// A report as JSON, as it is printed and as a run's output holds it.
///
/// # Errors
/// When a number in it is none.
pub fn json<R: Serialize>(report: &R) -> Result<String, String> {
    serde_json::to_string(report).map(|json| json + "\n").map_err(|error| error.to_string())
}

/// Retrieval in one line.
pub fn retrieval_line(report: &RetrievalReport) -> String {
    let both = |image_to_text: &Direction, text_to_image: &Direction| {
        let percent = |Estimate { value, standard_error }: Estimate| {
            format!("{:.1} % ± {:.1}", 100.0 * value, 100.0 * standard_error)
        };
        format!("image_to_text_R@1 {}, text_to_image_R@1 {}", percent(image_to_text.r1), percent(text_to_image.r1))
    };
    let line = format!("retrieval, {} images: ITC {}", report.n, both(&report.image_to_text, &report.text_to_image));
    match &report.reranked {
        None => line,
        Some(reranked) => format!("{line}; with ITM {}", both(&reranked.image_to_text, &reranked.text_to_image)),
    }
}

/// Captions' worth in one line.
pub fn caption_line(report: &CaptionReport) -> String {
    let Estimate { value, standard_error } = report.cider;
    let (cider, spread, bleu) = (100.0 * value, 100.0 * standard_error, 100.0 * report.bleu_4);
    format!("captions, {} images: CIDEr {cider:.1} ± {spread:.1}, Bleu_4 {bleu:.1}", report.n)
}

fn weights(checkpoint: Option<&str>, step: Option<u64>) -> String {
    match (checkpoint, step) {
        (None, _) => "untrained".to_owned(),
        (Some(checkpoint), None) => checkpoint.to_owned(),
        (Some(_), Some(step)) => format!("{step} steps"),
    }
}

fn print_retrieval(report: &RetrievalReport) {
    println!("{} images, {} texts, {}", report.n, report.texts, weights(report.checkpoint.as_deref(), report.step));
    println!("ITC");
    print_direction("image_to_text", &report.image_to_text);
    print_direction("text_to_image", &report.text_to_image);
    if let Some(reranked) = &report.reranked {
        println!("ITC, the best {} ordered with ITM", reranked.k);
        print_direction("image_to_text", &reranked.image_to_text);
        print_direction("text_to_image", &reranked.text_to_image);
    }
}

fn print_captions(report: &CaptionReport) {
    println!("{} images, {}", report.n, weights(report.checkpoint.as_deref(), report.step));
    let Estimate { value, standard_error } = report.cider;
    println!("  CIDEr  {:6.1} ± {:.1}", 100.0 * value, 100.0 * standard_error);
    println!("  Bleu_4 {:6.1}", 100.0 * report.bleu_4);
}

fn print_direction(name: &str, direction: &Direction) {
    let Direction { r1, r5, r10, median_rank, mean_rank, .. } = direction;
    for (k, recall) in [(1, r1), (5, r5), (10, r10)] {
        let Estimate { value, standard_error } = recall;
        println!("  {name}_R@{k:<3} {:5.1} % ± {:.1}", 100.0 * value, 100.0 * standard_error);
    }
    println!("  {name}_median_rank {median_rank}");
    println!("  {name}_mean_rank {mean_rank:.2}");
}
