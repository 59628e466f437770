//! `quern-worker eval retrieval`: how well a checkpoint's image and text features find each other.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use quern_recipes::Recipe;
use quern_trainer::eval::{Direction, Recall, RetrievalReport, retrieval};

use crate::torch;

/// What can be measured.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Image→text and text→image R@1/5/10 on pairs whose captions are pairwise different.
    Retrieval(RetrievalArguments),
}

/// Arguments of `eval retrieval`.
#[derive(Debug, Args)]
pub struct RetrievalArguments {
    /// The recipe that the checkpoint was trained by: image encoder, tokenizer, sizes.
    #[arg(long)]
    recipe: PathBuf,
    /// Folder or URL of the parquet pairs.
    #[arg(long)]
    dataset: String,
    /// A checkpoint's folder, by itself or below the recipe's output; none: the untrained model.
    #[arg(long)]
    checkpoint: Option<String>,
    /// Pairs at most.
    #[arg(long)]
    limit: Option<usize>,
    /// auto, cpu or cuda:N.
    #[arg(long, default_value = "auto")]
    device: String,
    /// Prints JSON with every query's rank.
    #[arg(long)]
    json: bool,
}

/// Measures and prints.
pub fn run(command: Command) -> Result<(), String> {
    let Command::Retrieval(arguments) = command;
    let device = torch::device(&arguments.device)?;
    let recipe = Recipe::read(&arguments.recipe).map_err(|e| e.to_string())?;
    let checkpoint = arguments.checkpoint.as_deref();
    let report =
        retrieval(checkpoint, &recipe, &arguments.dataset, arguments.limit, device).map_err(|e| e.to_string())?;
    match arguments.json {
        true => println!("{}", serde_json::to_string(&report).map_err(|e| e.to_string())?),
        false => print(&report),
    }
    Ok(())
}

fn print(report: &RetrievalReport) {
    let trained = report.step.map_or("untrained".to_owned(), |step| format!("{step} steps"));
    println!("{} pairs, {trained}", report.n);
    for (name, direction) in [("image_to_text", &report.image_to_text), ("text_to_image", &report.text_to_image)] {
        let Direction { r1, r5, r10, median_rank, .. } = direction;
        for (k, recall) in [(1, r1), (5, r5), (10, r10)] {
            let Recall { value, standard_error } = recall;
            println!("  {name}_R@{k:<3} {:5.1} % ± {:.1}", 100.0 * value, 100.0 * standard_error);
        }
        println!("  {name}_median_rank {median_rank}");
    }
}
