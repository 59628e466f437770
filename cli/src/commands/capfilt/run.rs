//! `quern capfilt run`: the CapFilt pass over one folder without a recipe of one's own.

use std::path::{Path, PathBuf};

use quern_recipes::Recipe;

use super::short::ShortForm;
use crate::commands::run::{Local, carry_out};
use crate::launch::Again;
use crate::outcome::{Done, Failure};

/// Caption, rank and filter one folder of parquet files or WebDataset tars: the same as a recipe with this one data set.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    short: ShortForm,
    /// Write the recipe that this is into a file, and do nothing else.
    #[arg(long, value_name = "FILE")]
    write_recipe: Option<PathBuf>,
    #[command(flatten)]
    local: Local,
}

/// Finds the columns, and runs the recipe.
pub async fn run(arguments: Arguments) -> Result<Done, Failure> {
    let recipe = arguments.short.recipe().await?;
    match &arguments.write_recipe {
        Some(path) => write(path, &recipe),
        None => carry_out(recipe, arguments.local, Again::Rest).await,
    }
}

/// JSON is YAML: the file is a recipe for `quern run`, `quern submit` and Kubernetes.
fn write(path: &Path, recipe: &Recipe) -> Result<Done, Failure> {
    let text = serde_json::to_string_pretty(recipe).expect("a recipe holds only what JSON can state");
    std::fs::write(path, text + "\n").map_err(|error| Failure::failed(format!("{}: {error}", path.display())))?;
    println!("the recipe is in {}", path.display());
    Ok(Done::Completely)
}
